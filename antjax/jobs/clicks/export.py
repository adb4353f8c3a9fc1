# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Export of a trained click model, as read by launch/score_clicks.py.

The folder `export` of a run contains functions, parameters, tables and
vocabularies as written by `antjax.serving.exporter`, and `arrays.npz`: the
values with their own rows, the scaling of numbers, the features of items, and
the newest clicks of each user of the log.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np
import pyarrow.parquet as pq

from antjax import paths
from antjax.ctr.antm2c.clicks import ScenarioClicks
from antjax.ctr.antm2c.model import ScenarioModel
from antjax.ctr.bahe import batches
from antjax.data import output_folder
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from antjax.embedding.stream import RowStream
from antjax.embedding.table import EmbeddingTables
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.rows import SplitRows
from antjax.mesh import compiler
from antjax.networks.network import ScenarioMoments
from antjax.serving import exporter
from antjax.serving import functions as serving

FOLDER = 'export'
# Of the schema: how the log's files are written.
_LOG = ('columns', 'delimiter', 'quote', 'header', 'encoding', 'nulls')
_FEW_ROWS = (64, 128, 256, 512, 1024, 2048)  # Functions for few rows.


class Trained(NamedTuple):
  """What a training ends with: its model, its parameters and its tables."""

  model: ScenarioModel
  tables: EmbeddingTables
  params: Any
  rows: Mapping[str, np.ndarray | RowStream]
  moments: ScenarioMoments | None
  step: int


def write(
  run_dir: pathlib.Path,
  config: Config,
  data: ScenarioData,
  trained: Trained,
  mesh: jax.sharding.Mesh,
) -> pathlib.Path | None:
  """Writes the folder in a training's; None where the data cannot be exported.

  Replaces that of an earlier state. On process 0.
  """
  folder = run_dir / FOLDER
  if why := _lacking(config, data):
    logging.warning('There is no %s: %s.', folder, why)
    return None
  clicks, _ = data.splits['train'].part(0, 1)
  per_device = -(-config.eval_batch_size // jax.device_count())
  rows = sizes(per_device)
  batch = trained.model.prepare(clicks.batch(np.zeros(1, np.int64), 1))
  functions, params, outputs = serving.exported_clicks(
    trained.model.logits,
    {n: f.stack.dim for n, f in trained.tables.features.items()},
    *(trained.params, trained.moments, batch, rows),
  )
  source = output_folder.find_view(config.data, 'examples')
  about = _described(config, data, trained, clicks)
  arrays = _arrays(config, data, clicks, about)
  about |= {
    'sizes': rows,
    'outputs': outputs,
    'read': sorted({*batch} - {'label', 'labels', 'conversion', 'ids'}),
    'is_by_scenario': trained.model.is_by_scenario,
    'compiler_options': {jax.default_backend(): compiler.options(mesh)},
    'features': {
      n: list(trained.tables.features[n].tables) for n in batch['ids']
    },
  }
  info = {'model': config.model, 'step': trained.step}
  put(
    *(folder, source, data.description, about, arrays),
    exporter.Exported(
      functions=functions,
      params=params,
      tables=trained.rows,
      info=info,
    ),
  )
  return folder


def sizes(per_device: int) -> list[int]:
  """Rows of a call: those of a device in training, for its bits, and fewer."""
  return sorted({*(n for n in _FEW_ROWS if n < per_device), per_device})


def put(
  folder: pathlib.Path,
  source: pathlib.Path,
  described: Mapping[str, Any],
  about: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  model: exporter.Exported,
) -> None:
  """Writes a model of clicks, with the vocabularies of its examples `source`.

  `about` and `arrays` say what `click_loader` makes of rows.
  """
  names = [c['name'] for c in described['ids']]
  maps = {'user': 'user', 'item': 'item'}
  maps |= {f'id:{n}': f'feature_{names.index(n)}' for n in about['ids']}
  behaviors = BehaviorVocabulary.open(source / 'behaviors')
  vocabularies = {n: _values(source, file) for n, file in maps.items()}
  texts = behaviors.texts(2, len(behaviors))
  vocabularies['title'] = np.array(texts, np.str_), np.arange(2, 2 + len(texts))
  info = {'kind': 'clicks', 'data': described['name'], 'clicks': about}
  model = dataclasses.replace(
    model,
    vocabularies=vocabularies,
    arrays=arrays,
    info={**info, **model.info},
  )
  with paths.replaced(folder) as staged:
    exporter.write(staged, model)
  logging.info('The model is in %s; launch/score_clicks.py reads it.', folder)


def _lacking(config: Config, data: ScenarioData) -> str:
  """What of the settings cannot be exported; '' for nothing."""
  if 'gap' in config.fields.time:
    return 'fields.time=gap needs the click before, which new rows do not tell'
  if config.text_sequences:
    return f'text_sequences={",".join(config.text_sequences)} are not exported'
  texts = data.schema['texts']
  if bags := [n for n in data.bags if n in texts]:
    return f'fields.bags={",".join(bags)} are texts, which are not exported'
  return ''


def _values(source: pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
  table = pq.read_table(source / f'ids_{name}.parquet')
  values = np.array(table['value'].to_pylist(), np.str_)
  return values, table['id'].to_numpy()


def _described(
  config: Config,
  data: ScenarioData,
  trained: Trained,
  clicks: ScenarioClicks,
) -> dict[str, Any]:
  """What the manifest says of rows."""
  schema, described, features = data.schema, data.description, data.features
  sequences = [s['name'] for s in described['sequences']]
  names = [c['name'] for c in described['ids']]
  crosses = [
    {'name': c.name, 'left': c.left, 'right': c.right, 'num_right': c.num_right}
    for c in features.crosses
  ]
  of_crosses = {c[side] for c in crosses for side in ('left', 'right')}
  fields = [*features.columns]
  ids = [
    n for n in names if n in {*fields, *of_crosses, data.maker.scenario_column}
  ]
  numbers = dict(features.numbers.ways)
  standard = features.numbers.standardizer
  bags = {
    n: {
      'separator': schema['separator'].get(n, '|'),
      'max_pieces': bag.max_pieces,
    }
    for n, bag in clicks.bags.items()
  }
  used = [*ids, *numbers, *bags, *[schema['time']] * bool(config.fields.time)]
  return about_log(described, used) | {
    'ids': ids,
    'fields': fields,
    'crosses': crosses,
    'scenario': data.maker.scenario_column,
    'scenarios': list(data.scenarios),
    'times': list(config.fields.time),
    'numbers': numbers,
    'clip': 5.0 if standard is None else standard.clip,
    'histories': [sequences[n] for n in clicks.histories],
    'max_history': clicks.max_history,
    'history_columns': list(clicks.history_columns),
    'bags': bags,
    'knows_scenario': config.fields.knows_scenario,
    'groups': trained.model.groups,
  }


def _arrays(
  config: Config,
  data: ScenarioData,
  clicks: ScenarioClicks,
  about: Mapping[str, Any],
) -> dict[str, np.ndarray]:
  """The arrays that go with what the manifest says."""
  described, features, rows_of = data.description, data.features, data.rows_of
  arrays: dict[str, np.ndarray] = {
    'mean': np.zeros(0),
    'scenario': data.maker.scenario_of,
  }
  if (standard := features.numbers.standardizer) is not None:
    arrays |= {'mean': standard.mean, 'deviation': standard.deviation}
  arrays |= {f'edges:{n}': x for n, x in features.numbers.edges.items()}
  arrays |= {f'frequent:{n}': x.ids_V for n, x in features.frequent.items()}
  if clicks.titles is not None:
    arrays['frequent:title'] = clicks.titles
  arrays |= {f'cross:{c.name}': c.codes_V for c in features.crosses}
  arrays |= {
    f'history_column:{n}': x for n, x in clicks.history_columns.items()
  }
  arrays |= {f'bag:{n}': bag.ids_V for n, bag in clicks.bags.items()}
  for name in ('user', 'item'):
    known = np.arange(described[f'num_{name}s'], dtype=np.int32)
    has_ids = bool(data.schema[name])
    if config.ids == 'train' or not has_ids:
      known = np.zeros_like(known)
      for found in rows_of['train'].chunks((name,)) if has_ids else ():
        known[found[name]] = found[name]
    arrays[f'known:{name}'] = known
  arrays |= of_items(rows_of, described, about['ids'], about['numbers'])
  for i, n in enumerate(clicks.histories):
    arrays[f'history:{i}'] = newest(
      *(rows_of, n, clicks.events[n], described['num_users']),
      config.max_history,
    )
  if clicks.text is not None:
    arrays['text'] = np.asarray(clicks.text.vectors)
  if clicks.images is not None:
    arrays['image'] = np.asarray(clicks.images)
  return arrays


def about_log(
  described: Mapping[str, Any], used: Sequence[str]
) -> dict[str, Any]:
  """What a manifest says of the log's columns, and of texts."""
  schema = described['config']['events']['schema']
  both = {**(schema['items'] or {}).get('columns', {}), **schema['columns']}
  used = [schema['user'], schema['item'], *used]
  known = _item_columns(schema)
  return {
    'user': schema['user'],
    'item': schema['item'],
    'text': schema['text'],
    'time': schema['time'],
    'columns': {
      n: {
        'type': both[n],
        'empty': schema['empty'].get(n),
        'has_empty': n in schema['empty'],
        'is_log': n in schema['log'],
      }
      for n in dict.fromkeys([*used, schema['text']])
      if n in both
    },
    'log': {n: schema[n] for n in _LOG if n in schema},
    'needed': [n for n in dict.fromkeys(used) if n and n not in known],
    'lower': described['normalizer'].startswith('nfkc-lower'),
    'max_chars': described['config']['splitter']['max_chars'],
  }


def _item_columns(schema: Mapping[str, Any]) -> list[str]:
  found = [*schema['item_columns']]
  if schema['items']:
    found += [*schema['items']['ids'], *schema['items']['numeric']]
  return found


def of_items(
  rows_of: Mapping[str, SplitRows],
  described: Mapping[str, Any],
  ids: Sequence[str],
  numbers: Mapping[str, str],
) -> dict[str, np.ndarray]:
  """What is known of each item: its title, and its features."""
  size = described['num_items']
  names = [c['name'] for c in described['ids']]
  found = {'item:title': np.ones(size, np.int32)}
  found |= {f'item:id:{n}': np.zeros(size, np.int32) for n in ids}
  found |= {
    f'item:number:{n}': np.full(size, np.nan, np.float32) for n in numbers
  }
  read = ('item', 'title', 'ids', 'numeric')
  for rows in reversed([*rows_of.values()]):  # Training's count.
    for part in rows.chunks(read):
      found['item:title'][part['item']] = part['title']
      for n in ids:
        found[f'item:id:{n}'][part['item']] = part['ids'][:, names.index(n)]
      for n in numbers:
        place = described['numeric'].index(n)
        found[f'item:number:{n}'][part['item']] = part['numeric'][:, place]
  known = _item_columns(described['config']['events']['schema'])
  return {
    n: x
    for n, x in found.items()
    if n == 'item:title' or n.split(':', 2)[2] in known
  }


def newest(
  rows_of: Mapping[str, SplitRows],
  n: int,
  events: np.ndarray,
  num_users: int,
  max_history: int,
) -> np.ndarray:
  """The newest behaviors of each user int32 [num_users, M], 0 at the end."""
  start = np.full(num_users, -1, np.int64)
  stop = np.zeros(num_users, np.int64)
  for rows in rows_of.values():
    for part in rows.chunks(('user', 'starts', 'stops')):
      start[part['user']] = part['starts'][:, n]
      np.maximum.at(stop, part['user'], part['stops'][:, n])
  # Users lie one behind the other: the next one's start is the end.
  next_start = np.append(start[1:], len(events))
  stop = np.where(next_start >= 0, next_start, stop)
  is_there = start >= 0
  start, stop = np.where(is_there, start, 0), np.where(is_there, stop, 0)
  return batches.newest(events, start, stop, max_history)
