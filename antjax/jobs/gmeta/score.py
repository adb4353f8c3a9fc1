# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Scores a file of task records, or one new user, with an exported model.

  python -m launch.score_gmeta --model=models/day1 \
    --input=data/ml-1m/tasks/user_cold.arrow --out=scores.parquet

Adapts to the support of each record and scores its query. Input ids are mapped
to those of the model by value. For one user

  python -m launch.score_gmeta --model=models/day1 --user=user.json

with {"support": {feature: values}, "labels": [...], "query": {...}} prints the
query's predictions as JSON.
"""

from collections.abc import Iterator
import dataclasses
import json
import math
import pathlib
import time
from typing import Annotated, Any

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax import config_values, paths
from antjax.data import output_folder, records, task_files
from antjax.jobs.gmeta.vocabulary import read_vocabulary
from antjax.report import progress
from antjax.serving import scorer
from antjax.serving.loader import LABELS, Model

_BLOCK = 512  # Records read at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to score, and with what."""

  model: Annotated[
    str, 'Folder written by launch/export_gmeta.py.', paths.URL
  ] = 'models/gmeta'
  input: Annotated[
    str, 'Record file in a folder written by launch/prepare_data.py.', paths.URL
  ] = ''
  out: Annotated[
    str, 'Parquet file to write, with one row per query row.', paths.URL
  ] = 'scores.parquet'
  user: Annotated[str, 'JSON file of one user, instead of --input.'] = ''
  batch_size: Annotated[int, 'Users scored together, a power of 2.'] = 64

  def __post_init__(self) -> None:
    config_values.check_least(self, {'batch_size': 1})
    if self.input and self.user:
      raise ValueError('give --input or --user, not both.')


def main(config: Config) -> None:
  model = Model(paths.fetched(config.model, 'model'))
  if config.user:
    user = _read_user(config.user, model.manifest.get('kind', ''))
    columns = model.adapt_user(
      scorer.user_ids(model, user['support']),
      user['labels'],
      scorer.user_ids(model, user['query']),
    )
    print(json.dumps({name: found.tolist() for name, found in columns.items()}))
  elif config.input:
    with paths.written(config.out) as out:
      _score_file(model, config, out)
  else:
    raise ValueError('score_gmeta: give --input or --user.')


def _read_user(path: str, label_kind: str = '') -> dict[str, Any]:
  """What a --user file holds, with labels of the model's kind if it is known.

  Raises:
    ValueError: It is no JSON object with 'support', 'labels' and 'query', or a
      label is not one of the kind.
  """
  try:
    user = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise ValueError(f'user={path}: no readable JSON file: {error}') from error
  kinds = {'support': dict, 'labels': list, 'query': dict}
  for name, kind in kinds.items():
    if not isinstance(user, dict) or not isinstance(user.get(name), kind):
      raise ValueError(
        f'user={path}: needed is an object with support and query (feature ->'
        f' values) and labels (a list); {name} is missing or of another kind.'
      )
  if not all(
    isinstance(x, (int, float)) and math.isfinite(x) for x in user['labels']
  ):
    raise ValueError(f'user={path}: labels must be finite numbers.')
  known = LABELS.get(label_kind)
  for label in user['labels']:
    if known and label not in known:
      needed = ', '.join(f'{x:g}' for x in known)
      raise ValueError(
        f'user={path}: labels holds {label}; the model is of the kind'
        f' {label_kind}, and needed is one of {needed}.'
      )
  return user


def _score_file(model: Model, config: Config, out: pathlib.Path) -> None:
  file = epath.Path(config.input)  # Ids are told in its folder.
  paths.check(file, 'input')
  data = paths.fetched(file.parent, 'input')
  source = records.open_source(data / file.name)
  to_model = _id_maps(model, data)
  values = _task_values(data)
  start_s, num_rows = time.monotonic(), 0
  with (
    paths.replaced(out) as unfinished,
    progress.Progress(len(source), name='score', unit='users') as bar,
  ):

    def read() -> Iterator[dict[str, Any]]:
      for start in range(0, len(source), _BLOCK):
        stop = min(start + _BLOCK, len(source))
        for record in source.read(start, stop):
          ids = {name: to[record[name]] for name, to in to_model.items()}
          yield {**record, **ids}
        bar.advance_to(stop)

    writer: pq.ParquetWriter | None = None
    for columns in scorer.score(
      model, read(), label=model.manifest['label'], batch_size=config.batch_size
    ):
      table = pa.table(columns)
      for name in {*values} - {*table.column_names}:
        each = values[name].take(table['task'].combine_chunks())
        table = table.add_column(1, name, each)
      if writer is None:
        writer = pq.ParquetWriter(unfinished, table.schema)
      writer.write_table(table)
      num_rows += len(table)
    if writer is None:
      raise ValueError(f'{config.input} holds no user to score.')
    writer.close()
  wall_s = time.monotonic() - start_s
  print(
    f'{num_rows:,} rows of {len(source):,} users in {wall_s:.1f} s,'
    f' {num_rows / wall_s:,.0f} rows/s with reading and compiling:'
    f' {config.out}'
  )


def _task_values(data: pathlib.Path) -> dict[str, pa.ChunkedArray]:
  """What the data call each task, by the name of its column.

  Empty for data that were prepared before it was written.
  """
  files = output_folder.load_description(data)['files']
  if task_files.TASK_VALUES not in files:
    return {}
  found = pq.read_table(data / files[task_files.TASK_VALUES]['path'])
  task, name = found.column_names
  return {name: found.sort_by(task)[name]}  # Numbers from 0 without a gap.


def _id_maps(model: Model, data: pathlib.Path) -> dict[str, np.ndarray]:
  """Feature -> the model's id of each id of the data."""
  description = output_folder.load_description(data)
  maps = {}
  for name in model.manifest['vocabularies']:
    values, ids = read_vocabulary(data, description, name)
    # One line more, at the end: -1 stays -1.
    maps[name] = np.full(ids.max(initial=0) + 2, -1, np.int32)
    maps[name][:-1] = 0
    maps[name][ids] = model.ids(name, values)
  return maps
