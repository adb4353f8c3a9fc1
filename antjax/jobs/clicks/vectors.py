# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts and images for launch/train_clicks.py."""

from collections.abc import Mapping, Sequence
import hashlib
import json
from typing import Any

from absl import logging
from jax.experimental import multihost_utils
import numpy as np

from antjax import paths
from antjax.ctr.antm2c.clicks import TextVectors
from antjax.ctr.bahe.store import BehaviorStore
from antjax.data import output_folder, prepare
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from antjax.jobs import job as job_lib
from antjax.jobs.clicks.config import Config

_BLOCK = 65_536  # Vectors that are hashed at once.


def load(
  config: Config,
  job: job_lib.Job,
  described: Mapping[str, Any],
  names: Sequence[str],
) -> tuple[TextVectors | None, np.ndarray | None]:
  """(text vectors, image vectors), those that the config names folders of.

  Raises:
    ValueError: They belong to other data.
  """
  text = None
  if config.text_vectors:
    wanted = config.text_sequences
    if unknown := sorted(set(wanted) - set(names)):
      raise ValueError(
        f'text_sequences={wanted}: the data have the sequences'
        f' {", ".join(names)}, not {", ".join(unknown)}.'
      )
    text = TextVectors(
      _texts(config, job, described),
      tuple(names.index(n) for n in wanted),
      config.max_pieces,
    )
  images = None
  if config.image_vectors:
    path = paths.fetched(config.image_vectors, 'image_vectors') / 'vectors.npy'
    if not path.exists():
      raise FileNotFoundError(
        f'{path} is missing; launch/encode_images.py writes it.'
      )
    made_of = output_folder.load_description(path.parent)['config']
    data = output_folder.find_view(config.data, 'examples')
    ids = data / 'ids_item.parquet'
    if made_of['items'] != prepare.fingerprint([ids]):
      raise ValueError(
        f'image_vectors={config.image_vectors} was made for the items of other'
        f' data than {config.data}; encode the images for these.'
      )
    images = np.load(path, mmap_mode='r')
  return text, images


def digest(vectors: np.ndarray | None) -> str:
  """Names the vectors, for `run_identity`; reads them once. '' for none."""
  if vectors is None:
    return ''
  hashed = hashlib.sha256(str((vectors.shape, vectors.dtype)).encode())
  for start in range(0, len(vectors), _BLOCK):
    hashed.update(vectors[start : start + _BLOCK].tobytes())
  return hashed.hexdigest()


def _texts(
  config: Config, job: job_lib.Job, described: Mapping[str, Any]
) -> np.ndarray:
  """[num_behaviors, X], mapped from a file that process 0 writes once."""
  store = BehaviorStore.open(config.text_vectors)
  if store.rows < described['num_behaviors']:
    raise ValueError(
      f'text_vectors={config.text_vectors} has {store.rows} texts and the data'
      f' {described["num_behaviors"]}; launch/build_behavior_store.py appends.'
    )
  data = output_folder.find_view(config.data, 'examples')
  vocabulary = BehaviorVocabulary.open(data / 'behaviors')
  store.manifest.check_vocabulary(vocabulary)
  dim = min(config.text_dim or store.dim, store.dim)
  path = job.run_dir / f'text_vectors_{dim}.npy'
  made_of = {
    'store': store.manifest.store,
    'rows': described['num_behaviors'],
    'dim': dim,
  }
  about = path.with_suffix('.json')
  job.check_shared('text_vectors')
  if job.is_main:
    known = about.exists() and json.loads(about.read_text()) == made_of
    if not known:
      vectors = store.read(0, described['num_behaviors'])
      with paths.replaced(path) as new:
        np.save(new, _principal(vectors, dim))
      about.write_text(json.dumps(made_of), encoding='utf-8')
  multihost_utils.sync_global_devices('text_vectors')
  return np.load(path, mmap_mode='r')


def _principal(vectors: np.ndarray, dim: int) -> np.ndarray:
  """The `dim` principal components, of mean square 1 a text, float16.

  Rows 0 and 1, padding and unknown, count for nothing and become 0.
  """
  rest = np.asarray(vectors[2:], np.float32)
  centred = rest - rest.mean(axis=0)
  values, axes = np.linalg.eigh(centred.T @ centred / max(len(rest), 1))
  kept = values[::-1][:dim]
  share = kept.sum() / max(values.sum(), 1e-30)
  logging.info(
    'Text vectors: %d of %d dimensions, %.0f %% of the variance.',
    *(dim, len(values), 100 * share),
  )
  found = np.zeros((len(vectors), dim), np.float16)
  scale = np.sqrt(max(kept.sum(), 1e-30) / dim)
  found[2:] = centred @ axes[:, ::-1][:, :dim] / scale
  return found
