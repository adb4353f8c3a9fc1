# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the files of a folder of behavior data: events, examples, ids."""

from collections.abc import Callable, Iterator, Mapping
import os
import pathlib

from absl import logging
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa

from antjax.data import behavior_examples, output_folder, prepare, record_writer
from antjax.data.behavior_examples import RowLayout, SPLITS
from antjax.data.record_schema import Field

SCHEMA: Mapping[str, Field] = {
  'user': Field('int64'),
  'title': Field('int32'),
  'item': Field('int64'),
  'label': Field('float32'),
  'time': Field('int64'),
  'starts': Field('int64', 1),
  'stops': Field('int64', 1),
  'ids': Field('int64', 1),
  'numeric': Field('float32', 1),
  'is_new_user': Field('bool'),
  'is_new_item': Field('bool'),
  'user_count': Field('int32'),
  'item_count': Field('int32'),
}


def write_splits(
  table: ir.Table,
  layout: RowLayout,
  stage: pathlib.Path,
  work: pathlib.Path,
  file_format: str,
  progress: Callable[[str], None],
) -> dict[str, dict[str, int]]:
  """Writes the examples; returns split -> counts.

  Args:
    table: Table from `behavior_examples.build`, with length_i of each long
      text.
    layout: Layout of the rows.
    stage: Folder for the files.
    work: Folder with room for intermediate files.
    file_format: Suffix of the files.
    progress: Function called with a text at the start of each split.

  Raises:
    ValueError: There is no example at all.
  """
  splits = {}
  # Long texts' events come in the order of the examples, all splits in one.
  ends = np.zeros(len(layout.texts), np.int64)
  for number, split in enumerate(SPLITS):
    progress(f'writing {split}')
    path = stage / f'{split}.{file_format}'
    counter = _Counter()
    ordered = table.filter(table.split == number).order_by(
      behavior_examples.ORDER
    )

    def batches() -> Iterator[pa.RecordBatch]:
      for batch in prepare.stream(
        ordered, work, ordered.columns, batch_rows=8192
      ):
        made = _records(batch, layout, ends)
        counter(made)
        yield made

    if not record_writer.write(path, batches(), SCHEMA):
      logging.warning('No example for the split %s: it is left out.', split)
      path.unlink()
      continue
    splits[split] = counter.counts
  if not splits:
    raise ValueError('examples: the events give no example at all.')
  return splits


def _records(
  batch: pa.RecordBatch, layout: RowLayout, ends: np.ndarray
) -> pa.RecordBatch:
  """Makes records of rows; `ends` says how many pieces came before, [T]."""

  def column(name: str) -> np.ndarray:
    return batch[name].to_numpy(zero_copy_only=False)

  size = batch.num_rows
  starts, stops = [], []
  for i in range(len(layout.histories)):
    starts.append(column(f'first_{i}'))
    stops.append(starts[-1] + column(f'before_{i}'))
  is_event = column('draw') == 0  # Drawn items share the pieces of the event.
  for i in range(len(layout.texts)):
    length = column(f'length_{i}')
    stop = ends[i] + np.cumsum(np.where(is_event, length, 0))
    starts.append(stop - length)
    stops.append(stop)
    if size:
      ends[i] = stop[-1]
  lists = {
    'starts': (starts, np.int64),
    'stops': (stops, np.int64),
    'ids': ([column(f'id_{i}') for i in range(len(layout.ids))], np.int64),
    'numeric': (
      [column(f'numeric_{i}') for i in range(len(layout.numeric))],
      np.float32,
    ),
  }
  columns = {}
  for name in SCHEMA:
    if name not in lists:
      columns[name] = batch[name]
      continue
    values, dtype = lists[name]
    flat = np.stack(values, 1) if values else np.zeros((size, 0))
    columns[name] = pa.ListArray.from_arrays(
      pa.array(np.arange(size + 1, dtype=np.int32) * flat.shape[1]),
      pa.array(flat.reshape(-1).astype(dtype)),
    )
  return pa.RecordBatch.from_pydict(columns)


class _Counter:
  """Counts the examples of a split."""

  def __init__(self) -> None:
    self.counts = dict.fromkeys(
      ('examples', 'positives', 'new_user', 'new_item', 'no_history'), 0
    )

  def __call__(self, batch: pa.RecordBatch) -> None:
    def add(name: str, values: np.ndarray) -> None:
      self.counts[name] += int(values.sum())

    self.counts['examples'] += batch.num_rows
    add('positives', batch['label'].to_numpy() > 0)
    add('new_user', batch['is_new_user'].to_numpy(zero_copy_only=False))
    add('new_item', batch['is_new_item'].to_numpy(zero_copy_only=False))
    flat = [batch[n].flatten().to_numpy() for n in ('starts', 'stops')]
    length = (flat[1] - flat[0]).reshape(batch.num_rows, -1).sum(1)
    add('no_history', length == 0)


def write_ids(
  id_maps: Mapping[str, ir.Table], stage: pathlib.Path
) -> dict[str, int]:
  """Writes (value, id) files; returns name -> number of ids, with 0."""
  num_ids: dict[str, int] = {}
  schema = {'value': Field('str'), 'id': Field('int32')}
  files = _id_files(len(id_maps))
  for file, (name, table) in zip(files, id_maps.items(), strict=True):
    value = next(column for column in table.columns if column != 'id')
    ordered = table.select(value=table[value], id='id').order_by('id')
    num_ids[name] = 1 + prepare.write_records(ordered, stage / file, schema)
  return num_ids


def find_ids(folder: str | os.PathLike[str]) -> dict[str, pathlib.Path]:
  """Returns name, as in `Examples.id_maps`, -> file of a finished folder.

  Raises:
    FileNotFoundError: The folder holds no prepared data.
    ValueError: It holds something else, or files that are not as they were.
  """
  folder = pathlib.Path(folder)
  about = output_folder.load_description(folder)
  if about.get('kind') != 'behaviors':
    raise ValueError(
      f'ids_from={folder} holds {about.get("kind")!r}; needed: a folder of'
      ' launch/prepare_data --views=examples.'
    )
  names = ['user', 'item', *(f'id:{x["name"]}' for x in about['ids'])]
  output_folder.check_files(folder, about, 'ids_')
  files = _id_files(len(names))
  return {n: folder / file for n, file in zip(names, files, strict=True)}


def _id_files(num: int) -> list[str]:
  # The two first are users and items; names of features may be any text.
  features = [f'feature_{i}' for i in range(num - 2)]
  return [f'ids_{name}.parquet' for name in ('user', 'item', *features)]
