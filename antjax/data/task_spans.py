# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows sorted by task become records: which rows, and how they are streamed.

Rows are sorted by task and, in a task, by rank. A record is a span of the
sorted rows; the spans of a split, in their order, are its batch ids. They are
known from the number of rows of each task alone, so that one sequential read of
the sorted rows writes a split, with few rows in memory at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SPANS = 256  # Records that are built at a time.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
  """How rows become tasks."""

  seed: Annotated[int, 'Seed of cold tasks and random orders.'] = 0
  order: Annotated[
    Literal['time', 'random'],
    'Order of the rows of a task. The last rows are its queries.',
  ] = 'time'
  cold_share: Annotated[
    float,
    'Share of tasks that are never trained on. Not for a schema with splits.',
  ] = 0.1
  cold_item_share: Annotated[
    float,
    'Share of items that are never trained on. Above 0, evaluation reports'
    ' warm, user_cold, item_cold and both_cold.',
  ] = 0.0
  query_size: Annotated[int, 'Query rows of an evaluation record.'] = 10
  max_support: Annotated[
    int, 'Maximum number of support rows of an evaluation record.'
  ] = 128
  min_rows: Annotated[int, 'Minimum rows of an evaluated task.'] = 13
  max_eval_rows: Annotated[
    int | None, 'Maximum rows of an evaluated task. none: no limit.'
  ] = None
  test_share: Annotated[
    float,
    'Share of the rows of a task, the last ones, that are queries; at least'
    ' query_size rows.',
  ] = 0.2
  max_rows: Annotated[
    int, 'Maximum rows of a training record. Longer tasks are divided.'
  ] = 512
  min_count: Annotated[
    int, 'Minimum training rows of a value with its own id. Others get 0.'
  ] = 1
  max_values: Annotated[
    int,
    'Maximum number of values per row of a multi-valued feature; the first'
    ' ones are kept. Records are as wide as the longest list.',
  ] = 50

  def __post_init__(self) -> None:
    shares = self.cold_share, self.cold_item_share, self.test_share
    if not all(0 <= share < 1 for share in shares):
      raise ValueError(
        'needed 0 <= cold_share, cold_item_share, test_share < 1; got'
        f' {", ".join(map(str, shares))}.'
      )
    if not 0 < self.query_size < self.min_rows or self.max_support < 1:
      raise ValueError(
        'needed 0 < query_size < min_rows and max_support > 0; got'
        f' {self.query_size}, {self.min_rows}, {self.max_support}.'
      )
    if min(self.max_rows, self.min_count, self.max_values) < 1:
      raise ValueError(
        'max_rows, min_count and max_values must be positive; got'
        f' {self.max_rows}, {self.min_count}, {self.max_values}.'
      )


@dataclasses.dataclass(frozen=True)
class Spans:
  """Records as spans of sorted rows, in rising order."""

  task: np.ndarray  # Task id, int32 [M].
  start: np.ndarray  # First row, int64 [M].
  stop: np.ndarray  # One past the last row, int64 [M].
  num_query: np.ndarray  # Number of last rows that are the query, int32 [M].

  def __len__(self) -> int:
    return len(self.task)


def training(
  num_rows: np.ndarray,
  num_test: np.ndarray,
  is_chosen: np.ndarray,
  config: TaskConfig,
) -> Spans:
  """Cuts all but the queries of the chosen tasks into records.

  Tasks [N] have `num_rows` rows, of which the last `num_test` are queries.
  """
  size = np.where(is_chosen, num_rows - num_test, 0)
  return _cut(np.cumsum(num_rows) - num_rows, size, config.max_rows)


def evaluation(
  num_rows: np.ndarray,
  num_test: np.ndarray,
  is_chosen: np.ndarray,
  config: TaskConfig,
) -> Spans:
  """Makes a record of each query of the chosen tasks, as in `training`.

  A query is the next `query_size` of a task's last rows; its support are the
  rows before it, those of earlier queries too.
  """
  test = np.where(is_chosen, num_test, 0)
  first = np.cumsum(num_rows) - num_rows
  queries = _cut(first + num_rows - test, test, config.query_size)
  start = np.maximum(queries.start - config.max_support, first[queries.task])
  num_query = (queries.stop - queries.start).astype(np.int32)
  return dataclasses.replace(queries, start=start, num_query=num_query)


def _cut(first: np.ndarray, size: np.ndarray, length: int) -> Spans:
  """Cuts a range of each task into spans of `length`, the last one shorter."""
  pieces = -(-size // length)
  task = np.repeat(np.arange(len(size)), pieces)
  number = np.arange(len(task)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
  start = first[task] + number * length
  return Spans(
    task.astype(np.int32),
    start,
    np.minimum(start + length, first[task] + size[task]),
    np.zeros(len(task), np.int32),
  )


def record_batches(
  sorted_rows: pathlib.Path,
  spans: Spans,
  columns: Sequence[str],
  values: Mapping[str, pathlib.Path] | None = None,
) -> Iterator[pa.RecordBatch]:
  """Streams the records of spans, which rise in start and stop.

  `sorted_rows` is a Parquet file, or a folder of files in the order of their
  names. A column in `values` says how many values a row has; its files have
  these in a column of that name, row by row.

  Yields:
    Batches of records: 'task', 'num_query' and a list for each column, of lists
    where a row has many values.
  """
  rows = _Rows(sorted_rows, columns, values or {})
  for at in range(0, len(spans), _SPANS):
    part = slice(at, at + _SPANS)
    start, stop = spans.start[part], spans.stop[part]
    table = rows.between(int(start[0]), int(stop[-1]))
    size = stop - start
    offsets = np.r_[0, np.cumsum(size)]
    index = np.arange(offsets[-1]) + np.repeat(
      start - start[0] - offsets[:-1], size
    )
    found = {
      'task': pa.array(spans.task[part]),
      'num_query': pa.array(spans.num_query[part]),
    }
    for name in columns:
      found[name] = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        table[name].combine_chunks().take(pa.array(index)),
      )
    yield pa.RecordBatch.from_pydict(found)


class _Rows:
  """Rows of Parquet files, read once, from the front."""

  def __init__(
    self,
    path: pathlib.Path,
    columns: Sequence[str],
    values: Mapping[str, pathlib.Path],
  ):
    files = sorted(path.glob('*.parquet')) if path.is_dir() else [path]
    self._batches = (
      batch
      for file in files
      for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(
        16_384, columns=list(columns)
      )
    )
    self._held: pa.Table | None = None
    self._start = 0  # First of the rows held.
    self._values = {n: _Rows(p, [n], {}) for n, p in values.items()}
    self._num_values = dict.fromkeys(values, 0)  # Read so far.

  def between(self, start: int, stop: int) -> pa.Table:
    """Returns rows; later calls may not ask for rows before `start`."""
    held = [] if self._held is None else [self._held]
    end = self._start + sum(table.num_rows for table in held)
    while end < stop:
      batch = next(self._batches)
      held.append(self._with_lists(pa.Table.from_batches([batch])))
      end += batch.num_rows
      if end <= start:  # Rows of no span.
        held, self._start = [], end
    table = pa.concat_tables(held).slice(start - self._start)
    # In one piece, and so without the rows before it.
    self._held, self._start = table.combine_chunks(), start
    return self._held.slice(0, stop - start)

  def _with_lists(self, table: pa.Table) -> pa.Table:
    """Puts the values of the next rows where their numbers are."""
    for name, values in self._values.items():
      offsets = np.r_[0, np.cumsum(table[name].to_numpy())].astype(np.int32)
      first = self._num_values[name]
      stop = self._num_values[name] = first + int(offsets[-1])
      flat = pa.array([], pa.int32())
      if first < stop:
        flat = values.between(first, stop)[name].combine_chunks()
      lists = pa.ListArray.from_arrays(pa.array(offsets), flat)
      table = table.set_column(table.column_names.index(name), name, lists)
    return table
