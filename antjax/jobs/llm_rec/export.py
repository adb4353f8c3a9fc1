# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Export and import of a trained LLM-Rec, as read by launch/recommend.py.

The folder contains the language model as a Hugging Face folder (adapters
merged) with its tokenizer, `head.npz` and `hybrid.npz` if there are any,
`recommender.json`, and the catalog for any vector index: `item_vectors.npy`
float32 [items, D] and `items.parquet` with key, domain and title of each row.
Row 0 is padding. The folder gets its name when it is complete.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

from flax import nnx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax import paths
from antjax.ctr.bahe.encode import Encoder
from antjax.ctr.llm_rec import histories, hybrid
from antjax.ctr.llm_rec.late import UserConfig
from antjax.ctr.llm_rec.model import LLMRec, VectorConfig
from antjax.ctr.llm_rec.recommender import (
  Limits,
  Recommender,
  StoredRecommender,
)
from antjax.ctr.llm_rec.stored import StoredRec
from antjax.ctr.texts import Marks
from antjax.data.sequence_data import SequenceData
from antjax.jobs.llm_rec import hybrid as llm_rec_hybrid
from antjax.jobs.llm_rec.config import Config
from antjax.jobs.llm_rec.model import BuiltRecommender
from antjax.layers.functional import params_of
from antjax.lm import lora, pretrained, pretrained_tokenizer

FOLDER = 'export'
ITEM_VECTORS, ITEMS = 'item_vectors.npy', 'items.parquet'
FILE, _HEAD, _HYBRID = 'recommender.json', 'head.npz', 'hybrid.npz'


def write(
  run_dir: pathlib.Path,
  config: Config,
  data: SequenceData,
  built: BuiltRecommender,
  model: LLMRec | StoredRec,
  item_vectors: np.ndarray,
  mixed: tuple[hybrid.Hybrid, llm_rec_hybrid.Events] | None = None,
) -> pathlib.Path:
  """Writes the folder in a run's, on process 0, from a whole model.

  `mixed` is a hybrid with the events that it counts.
  """
  folder, staged = run_dir / FOLDER, run_dir / f'.{FOLDER}'
  shutil.rmtree(staged, ignore_errors=True)
  merged, is_stored = model.lm.trunk(), isinstance(model, StoredRec)
  if hasattr(merged, 'layers'):  # A store may have all of them.
    lora.merge(merged)
  arrays: dict[str, Any] = _flat(params_of(model.head))
  if not config.user.is_late:  # No part of a vector.
    arrays.pop('log_scale', None)
  if is_stored:  # The low half is as it was, the high half apart.
    arrays |= _flat(params_of(merged), 'lm.')
    merged = config.language_model().trunk()
  # There is no output layer: as if it were the embedding.
  lm_config = dataclasses.replace(merged.config, tie_embeddings=True)
  pretrained.save_pretrained(staged, lm_config, params_of(merged))
  tokenizer = pretrained_tokenizer.load_tokenizer(config.model)
  tokenizer.save(str(staged / pretrained_tokenizer.FILE_NAME))
  if arrays:
    np.savez(staged / _HEAD, **arrays)
  if mixed is not None:
    llm_rec_hybrid.save(staged / _HYBRID, *mixed)
  np.save(staged / ITEM_VECTORS, np.asarray(item_vectors, np.float32))
  table = pa.table(
    {
      'key': data.keys,
      'domain': pa.array(data.domains, pa.int32()),
      'title': data.titles,
    }
  )
  pq.write_table(table, staged / ITEMS)
  content = {
    'marks': built.texts.marks._asdict(),
    'pooling': model.pooling,
    'vector': dataclasses.asdict(model.vector),
    'user': dataclasses.asdict(config.user),
    'new_bias': getattr(model, 'new_bias', 0.0),
    'new_words': getattr(model, 'new_words', 1.0),
    'limits': Limits(
      config.max_history,
      config.max_title_tokens,
      built.max_tokens if is_stored else built.texts.max_tokens,
    )._asdict(),
    'num_low': getattr(model.lm, 'num_low', None),
    'domains': data.domain_names,
    'data': data.description['name'],
  }
  (staged / FILE).write_text(json.dumps(content, indent=2), encoding='utf-8')
  if folder.exists():
    shutil.rmtree(folder)
  os.replace(staged, folder)
  return folder


class Catalogue(NamedTuple):
  """Key in the source, title and domain of each row of the item vectors."""

  keys: list[str]
  titles: list[str]
  domains: list[str]


def read(folder: str | os.PathLike[str]) -> tuple[Recommender, Catalogue]:
  """Reads what `write` wrote.

  Raises:
    FileNotFoundError: The folder holds no recommender.
  """
  folder = paths.fetched(folder, 'folder')
  path = folder / FILE
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is not there; give the folder {FOLDER} in the run folder of'
      ' launch/train_llm_rec.py.'
    )
  content = json.loads(path.read_text(encoding='utf-8'))
  lm = pretrained.load(folder)
  head: dict[str, Any] = {}
  if (folder / _HEAD).is_file():
    with np.load(folder / _HEAD) as arrays:
      for key in arrays.files:
        *parts, name = key.split('.')
        if key in ('kernel', 'bias'):  # Older files hold a projection alone.
          parts = ['projection']
        at = head
        for part in parts:
          at = at.setdefault(part, {})
        at[name] = arrays[key]
  marks = Marks(
    tuple(content['marks']['leading']),
    tuple(content['marks']['trailing']),
    content['marks']['pooling'],
  )
  table = pq.read_table(folder / ITEMS)
  titles = table['title'].to_pylist()
  names, limits = content['domains'], Limits(**content['limits'])
  tokenizer = pretrained_tokenizer.load_tokenizer(folder, lm.config.vocab_size)
  vectors, num_low = np.load(folder / ITEM_VECTORS), content.get('num_low')
  options: dict[str, Any] = {
    'rarity_V': np.ones(lm.config.vocab_size),  # The head is the file's.
    'rngs': nnx.Rngs(0),
  }
  vector = VectorConfig(**content['vector'])
  recommender: Recommender
  if num_low is None:
    model = LLMRec(lm, content['pooling'], vector, **options)
    nnx.update(model.head, head)
    recommender = Recommender(model, tokenizer, marks, limits, titles, vectors)
  else:
    options['max_history'] = limits.max_history
    options['user'] = UserConfig(**content.get('user', {}))
    high = StoredRec(lm, num_low, content['pooling'], vector, **options)
    nnx.update(high.lm, head.pop('lm', {}))
    nnx.update(high.head, head)
    high.new_bias = content.get('new_bias', 0.0)
    high.new_words = content.get('new_words', 1.0)
    low = Encoder(lm, num_low=num_low, max_tokens=limits.max_tokens)
    recommender = StoredRecommender(
      high, low, tokenizer, limits, titles, vectors
    )
  domains = ['' if d < 0 else names[d] for d in table['domain'].to_pylist()]
  return recommender, Catalogue(table['key'].to_pylist(), titles, domains)


class _ByItem:
  """A recommender as a model of item ids, see `evaluation`."""

  def __init__(self, recommender: Recommender, titles: list[str]):
    self._recommender, self._titles = recommender, titles

  def item_vectors(self) -> np.ndarray:
    return np.asarray(self._recommender.item_vectors)

  def user_vectors(self, history_BL: np.ndarray) -> np.ndarray:
    filled = np.flatnonzero(history_BL.any(axis=1))
    limit = self._recommender.limits.max_history
    rows = histories.newest(history_BL[filled], limit)
    users = [[self._titles[i] for i in row if i] for row in rows]
    if not users:
      return np.zeros(
        (len(history_BL), self.item_vectors().shape[1]), np.float32
      )
    vectors = self._recommender.user_vectors(users)
    found = np.zeros((len(history_BL), *vectors.shape[1:]), np.float32)
    found[filled] = vectors
    return found


def read_hybrid(
  folder: str | os.PathLike[str],
  recommender: Recommender,
  catalogue: Catalogue,
) -> hybrid.Hybrid | None:
  """The hybrid of a folder over a catalog that may have grown; None: none."""
  path = paths.fetched(folder, 'folder') / _HYBRID
  if not path.is_file():
    return None
  names = [*dict.fromkeys(name for name in catalogue.domains if name)]
  domains = [names.index(name) if name else -1 for name in catalogue.domains]
  return llm_rec_hybrid.load(
    path,
    catalogue.titles,
    np.array(domains),
    _ByItem(recommender, catalogue.titles),
    recommender.title_rows
    if isinstance(recommender, StoredRecommender)
    else None,
  )


def _flat(params: Any, prefix: str = '') -> dict[str, np.ndarray]:
  """Arrays of a tree by their names with dots."""
  found: dict[str, np.ndarray] = {}
  for name, value in params.items():
    if isinstance(value, dict):
      found |= _flat(value, f'{prefix}{name}.')
    else:
      found[f'{prefix}{name}'] = np.asarray(value)
  return found
