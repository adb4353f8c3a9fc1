# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Export of a BAHE model as a model of clicks: served and read like those.

The behaviors' vectors are a table like those of ids, so a request's texts are
looked up, and no low layer runs. docs/bahe.md says what cannot be exported.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr.bahe.model import ClickModel
from antjax.ctr.bahe.store import BehaviorStore
from antjax.ctr.bahe.towers import StoreTower
from antjax.data import output_folder
from antjax.embedding.table import EmbeddingTables
from antjax.jobs import job as job_lib
from antjax.jobs.bahe.config import Config
from antjax.jobs.bahe.data import Clicks
from antjax.jobs.bahe.model import BuiltClickModel
from antjax.jobs.clicks import export as click_export
from antjax.mesh import compiler
from antjax.serving import exporter
from antjax.serving import functions as serving
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

_TEXT = 'behavior_text'  # The table of the store's rows.


def write(
  config: Config,
  job: job_lib.Job,
  clicks: Clicks,
  built: BuiltClickModel,
  trainer: Trainer,
  state: TrainState,
  tables: EmbeddingTables | None,
) -> pathlib.Path:
  """Writes the folder `export` of the run; a collective call."""
  folder = job.run_dir / click_export.FOLDER
  params, rows = trainer.params(state), dict[str, Any]()
  widths, features = dict[str, int](), dict[str, tuple[str, ...]]()
  if tables is not None:
    rows = dict(serving.table_rows(tables, state.tables))
    widths = {n: f.stack.dim for n, f in tables.features.items()}
    features = {n: f.tables for n, f in tables.features.items()}
  if not job.is_main:
    return folder
  if built.model.tower is not None:
    dtype = np.dtype(jnp.dtype(config.table_dtype))  # As it was trained on.
    rows[_TEXT] = BehaviorStore.open(config.store).load().astype(dtype)
    rows[_TEXT] = rows[_TEXT].astype(np.float32)
    for name in ('title_text', 'history_text'):
      widths[name], features[name] = built.model.tower.dim, (_TEXT,)
  source = output_folder.find_view(config.data, 'examples')
  about, arrays = _described(clicks)
  batch = _batch(clicks, features)
  sizes = click_export.sizes(clicks.rows_per_device)
  functions, flat, outputs = serving.exported_clicks(
    _Logits(built), widths, params, None, batch, sizes
  )
  about |= {
    'sizes': sizes,
    'outputs': outputs,
    'read': sorted({*batch} - {'ids'}),
    'is_by_scenario': False,
    'compiler_options': {jax.default_backend(): compiler.options(job.mesh)},
    'features': {n: list(features[n]) for n in batch['ids']},
  }
  click_export.put(
    *(folder, source, clicks.description, about, arrays),
    exporter.Exported(
      functions=functions,
      params=flat,
      tables=rows,
      info={'model': f'bahe, {config.tower}', 'step': int(state.step)},
    ),
  )
  logging.info('antjax-serve --model=%s serves it.', job.run_dir)
  return folder


@dataclasses.dataclass(frozen=True)
class _Logits:
  """The model's logits of looked-up vectors."""

  built: BuiltClickModel

  def __call__(
    self, params: Any, vectors: Mapping[str, jax.Array], batch: Any
  ) -> dict[str, jax.Array]:
    model: ClickModel = self.built.merge(params)
    if 'numeric' in batch:  # A missing number is taken for the mean.
      batch = {**batch, 'numeric': jnp.nan_to_num(batch['numeric'])}
    encoded = None
    if isinstance(model.tower, StoreTower):
      is_there = batch['ids']['history_text'] >= 0
      texts = vectors['history_text'], is_there, vectors['title_text']
      model.tower.high.is_pinned = True  # For the trainer's bits.
      encoded = model.tower.encode(*texts)
    own = {n: x for n, x in vectors.items() if not n.endswith('_text')}
    return {'prediction': model.logits(batch, own, encoded)}


def _batch(clicks: Clicks, features: Mapping[str, Any]) -> dict[str, Any]:
  """A batch of one row, as the functions read it."""
  history = np.zeros((1, len(clicks.lengths), max(clicks.lengths)), np.int32)
  one = np.zeros(1, np.int32)
  shapes = {
    'columns': np.zeros((1, len(features.get('columns', ()))), np.int32),
    'history': history,
    'history_text': history,
  }
  found: dict[str, Any] = {
    'ids': {n: shapes.get(n, one) for n in features},
    'scenario': one,
    'weight': np.ones(1, np.float32),
  }
  if size := clicks.sizes.num_numeric:
    found['numeric'] = np.zeros((1, size), np.float32)
  return found


def _described(clicks: Clicks) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """What the manifest says of rows, and the arrays that it goes with."""
  described = clicks.description
  ids = [c['name'] for c in described['ids']]
  numbers = dict.fromkeys(described['numeric'], 'standard')
  count = len(clicks.lengths)
  histories = [s['name'] for s in described['sequences']][:count]
  first = {'user': 0, 'item': 1, 'title': 2, 'title_text': 2}
  about = click_export.about_log(described, [*ids, *numbers]) | {
    'ids': ids,
    'fields': ids,
    'crosses': [],
    'scenario': None,
    'scenarios': [],
    'times': [],
    'numbers': numbers,
    'clip': 5.0,
    'histories': histories,
    'history_lengths': dict(zip(histories, clicks.lengths, strict=True)),
    'max_history': max(clicks.lengths),
    'history_columns': ['text'],
    'bags': {},
    'knows_scenario': False,
    'groups': first | {'columns': [4 + i for i in range(len(ids))]},
  }
  arrays = {
    'mean': np.zeros(0),
    'history_column:text': np.arange(clicks.sizes.num_behaviors),
  }
  if (standard := clicks.standardizer) is not None:
    arrays |= {'mean': standard.mean, 'deviation': standard.deviation}
    about['clip'] = standard.clip
  for name in ('user', 'item'):
    known = np.arange(described[f'num_{name}s'], dtype=np.int32)
    arrays[f'known:{name}'] = known
  arrays |= click_export.of_items(clicks.splits, described, ids, numbers)
  for i, (events, length) in enumerate(zip(clicks.events, clicks.lengths)):
    users = described['num_users']
    found = click_export.newest(clicks.splits, i, events, users, length)
    more = max(clicks.lengths) - length
    arrays[f'history:{i}'] = np.pad(found, ((0, 0), (0, more)))
  return about, arrays
