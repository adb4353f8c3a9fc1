# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of examples as record files, written in threads."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from antjax.data import prepare, record_writer, thread_map, view
from antjax.data.behavior_rows import RowLayout
from antjax.data.record_schema import Field

RECORDS: Mapping[str, Field] = {
  'user': Field('int64'),
  'title': Field('int32'),
  'item': Field('int64'),
  'label': Field('float32'),
  'labels': Field('float32', 1),
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
_FILE_ROWS = 1 << 20  # Examples of a file: a few hundred megabytes.


def write(
  rows: prepare.ComputedRows,
  split: str,
  layout: RowLayout,
  job: view.ViewJob,
  ends: np.ndarray,
) -> np.ndarray:
  """Writes files of a split in threads; `ends` before them -> behind them."""
  starts = range(0, len(rows), _FILE_ROWS)
  threads = job.engine.num_threads

  def pieces(start: int) -> np.ndarray:
    """Pieces of long texts in a file [T]."""
    found = np.zeros(len(layout.parted), np.int64)
    names = [f'length_{i}' for i in range(len(layout.parted))]
    stop = start + _FILE_ROWS
    for batch in rows.batches(start, stop, [*names, 'draw'], 65_536):
      is_event = batch['draw'].to_numpy(zero_copy_only=False) == 0
      for i, name in enumerate(names):
        found[i] += batch[name].to_numpy(zero_copy_only=False)[is_event].sum()
    return found

  before = [ends]
  for found in thread_map.in_order(pieces, starts, threads):
    before.append(before[-1] + found)

  def write(number: int) -> None:
    of_file = before[number].copy()
    start = starts[number]
    batches = rows.batches(start, start + _FILE_ROWS, None, 8192)
    path = job.stage / f'{name_of(number)}.{job.file_format}'
    record_writer.write(
      path, (_records(batch, layout, of_file) for batch in batches), RECORDS
    )

  def name_of(number: int) -> str:
    if len(starts) == 1:
      return split
    return f'{split}-{number:05d}-of-{len(starts):05d}'

  for _ in thread_map.in_order(write, range(len(starts)), threads):
    pass
  return before[-1]


def _records(
  batch: pa.RecordBatch, layout: RowLayout, ends: np.ndarray
) -> pa.RecordBatch:
  """Makes records of rows; `ends` says how many pieces came before, [T]."""
  size = batch.num_rows

  def column(name: str) -> np.ndarray:
    return batch[name].to_numpy(zero_copy_only=False)

  starts, stops = [], []
  for i in range(len(layout.histories)):
    starts.append(column(f'first_{i}'))
    stops.append(starts[-1] + column(f'before_{i}'))
  is_event = column('draw') == 0  # Drawn items share the pieces of the event.
  for i in range(len(layout.parted)):
    length = column(f'length_{i}')
    stop = ends[i] + np.cumsum(np.where(is_event, length, 0))
    starts.append(stop - length)
    stops.append(stop)
    if size:
      ends[i] = stop[-1]
  lists = {
    'starts': starts,
    'stops': stops,
    'ids': [column(f'id_{i}') for i in range(len(layout.ids))],
    'numeric': [column(f'numeric_{i}') for i in range(len(layout.numeric))],
    'labels': [column(f'label_{i}') for i in range(len(layout.labels))],
  }
  columns = {}
  for name, field in RECORDS.items():
    if name not in lists:
      columns[name] = batch[name]
      continue
    values = lists[name]
    flat = np.stack(values, 1) if values else np.zeros((size, 0))
    columns[name] = pa.ListArray.from_arrays(
      pa.array(np.arange(size + 1, dtype=np.int32) * flat.shape[1]),
      pa.array(flat.reshape(-1).astype(field.dtype)),
    )
  return pa.RecordBatch.from_pydict(columns)
