# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""User vectors in files, exported by one run and read by another.

A folder contains `<split>.npy` float16 [examples, F], the user of each example
by their history at that time, without future events; and for serving
`users.npy` float32 [U, F] with `user_ids.npy` int64 [U], each user by their
last example. `made_of.json` identifies the data and this export. The folder
gets its name when it is complete.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import secrets
import shutil
from typing import Any, Self

import jax
from jax.experimental import multihost_utils
import numpy as np

from antjax import paths
from antjax.jobs import identity as run_identity
from antjax.mesh.gather import gather_json
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

FOLDER = 'user_embeddings'
SPLITS = ('train', 'validation', 'test')
_MADE_OF = 'made_of.json'


class UserVectors:
  """The files, mapped into memory.

  Attributes:
    dim: F.
    name: Tells two exports apart; '' for one of an older version.
  """

  def __init__(self, arrays: Mapping[str, np.ndarray], name: str = ''):
    self._arrays, self.name = dict(arrays), name
    self.dim = next(iter(self._arrays.values())).shape[1]

  @classmethod
  def open(
    cls, folder: str, sizes: Mapping[str, int], data: str = ''
  ) -> Self | None:
    """Opens a folder; None where its name is empty.

    `sizes` are split -> number of its examples; `data` is their fingerprint, ''
    for any of these sizes.

    Raises:
      FileNotFoundError: A file is not there.
      ValueError: They are of other data.
    """
    if not folder:
      return None
    arrays = {}
    for split, size in sizes.items():
      path = paths.fetched(folder) / f'{split}.npy'
      if not path.is_file():
        raise FileNotFoundError(
          f'user_embeddings={folder}: {path.name} is not there; give the folder'
          f' {FOLDER} of a run with --export_users.'
        )
      arrays[split] = np.load(path, mmap_mode='r')
      if len(arrays[split]) != size:
        raise ValueError(
          f'user_embeddings={folder}: {path.name} has {len(arrays[split])}'
          f' rows, the data have {size} examples; it was exported from other'
          ' data.'
        )
    made_of = {'data': '', 'name': ''}  # Written by an older version.
    path = paths.fetched(folder) / _MADE_OF
    if path.is_file():
      made_of = json.loads(path.read_text(encoding='utf-8'))
    if data and made_of['data'] not in ('', data):
      raise ValueError(
        f'user_embeddings={folder}: it was exported from other data, which have'
        ' as many examples.'
      )
    return cls(arrays, made_of['name'])

  def read(self, split: str, index: np.ndarray) -> np.ndarray:
    """float32 [n, F] of examples [n]."""
    return self._arrays[split][index].astype(np.float32)


def export(
  run_dir: pathlib.Path,
  trainer: Trainer,
  state: TrainState,
  clicks: Any,
  built: Any,
) -> pathlib.Path:
  """Writes the folder into `run_dir`; all processes of a job call it."""
  folder, staged = run_dir / FOLDER, run_dir / f'.{FOLDER}'
  model = built.model
  dim = model.tower.user_dim
  is_main = jax.process_index() == 0

  def predict(params: Any, *rest: Any) -> dict[str, jax.Array]:
    batch, _ = rest[-2:]
    return {
      'user_vector': built.merge(params).tower(batch).user_BF,
      **{name: batch[name] for name in ('index', 'weight')},
    }

  for split in SPLITS:
    path, size = staged / f'{split}.npy', len(clicks.splits[split])
    if is_main:
      staged.mkdir(exist_ok=True)
      np.lib.format.open_memmap(path, 'w+', np.float16, (size, dim)).flush()
    multihost_utils.sync_global_devices(f'export {split}')
    file = np.load(path, mmap_mode='r+')
    num_written = 0
    batches = clicks.evaluation(
      split, model.prepare, with_index=True, title=f'export {split}'
    )
    for found in trainer.outputs(state, batches, predict):
      there = found['weight'] > 0
      vectors = found['user_vector'][there]
      file[found['index'][there]] = vectors.astype(file.dtype)
      num_written += len(vectors)
    file.flush()
    num_written = sum(gather_json(num_written))
    if num_written != size:
      raise RuntimeError(
        f'export_users: {num_written} of {size} rows of {path} were'
        ' written; start the run again.'
      )
  multihost_utils.sync_global_devices('exported')
  if is_main:
    _write_newest(staged, clicks.newest_examples(), dim)
    made_of = {
      'data': run_identity.of_data(clicks.description),
      'name': secrets.token_hex(8),
    }
    (staged / _MADE_OF).write_text(json.dumps(made_of), encoding='utf-8')
    if folder.exists():
      shutil.rmtree(folder)
    os.replace(staged, folder)
  return folder


def _write_newest(
  folder: pathlib.Path, newest: Mapping[int, tuple[str, int]], dim: int
) -> None:
  users = sorted(newest)
  files = {
    split: np.load(folder / f'{split}.npy', mmap_mode='r')
    for split in {split for split, _ in newest.values()}
  }
  vectors = np.zeros((len(users), dim), np.float32)
  for i, user in enumerate(users):
    split, number = newest[user]
    vectors[i] = files[split][number]
  np.save(folder / 'users.npy', vectors)
  np.save(folder / 'user_ids.npy', np.array(users))
