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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SPANS = 256  # Records that are built at a time.


@dataclasses.dataclass(frozen=True)
class SpanConfig:
  """How the rows of a task become records.

  Attributes:
    query_size: Rows of a query of an evaluation record.
    max_support: Largest number of support rows of an evaluation record.
    min_rows: Smallest number of rows of a task that is evaluated.
    test_share: Share of a task's rows, its last ones, that are queries; at
      least `query_size` rows.
    max_rows: Largest number of rows of a training record; longer tasks are cut.
  """

  query_size: int
  max_support: int
  min_rows: int
  test_share: float
  max_rows: int


@dataclasses.dataclass(frozen=True)
class Spans:
  """Records as spans of sorted rows, in rising order.

  Attributes:
    task: Task id, int32 [M].
    start: First row, int64 [M].
    stop: One past the last row, int64 [M].
    num_query: Number of last rows that are the query, int32 [M].
  """

  task: np.ndarray
  start: np.ndarray
  stop: np.ndarray
  num_query: np.ndarray

  def __len__(self) -> int:
    return len(self.task)


def num_test(num_rows: np.ndarray, config: SpanConfig) -> np.ndarray:
  """Returns how many of the last rows of each task are queries, int64 [N]."""
  share = np.floor(num_rows * config.test_share).astype(np.int64)
  test = np.maximum(share, config.query_size)
  return np.where(num_rows >= config.min_rows, test, 0)


def training(
  num_rows: np.ndarray, is_warm: np.ndarray, config: SpanConfig
) -> Spans:
  """Cuts all but the queries of the warm tasks into records.

  Args:
    num_rows: Rows of each task, [N].
    is_warm: Whether a task is trained on, bool [N].
    config: How the rows of a task are cut.
  """
  size = np.where(is_warm, num_rows - num_test(num_rows, config), 0)
  return _cut(_first(num_rows), size, config.max_rows)


def evaluation(
  num_rows: np.ndarray, is_chosen: np.ndarray, config: SpanConfig
) -> Spans:
  """Makes a record of each query of the chosen tasks.

  A query is the next `query_size` of a task's last rows; its support are the
  rows before it, those of earlier queries too.

  Args:
    num_rows: Rows of each task, [N].
    is_chosen: Whether a task is evaluated, bool [N].
    config: How the rows of a task are cut.
  """
  test = np.where(is_chosen, num_test(num_rows, config), 0)
  first = _first(num_rows)
  queries = _cut(first + num_rows - test, test, config.query_size)
  start = np.maximum(queries.start - config.max_support, first[queries.task])
  return dataclasses.replace(
    queries,
    start=start,
    num_query=(queries.stop - queries.start).astype(np.int32),
  )


def _first(num_rows: np.ndarray) -> np.ndarray:
  return np.cumsum(num_rows) - num_rows


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
  fields: Mapping[str, str],
  values: Mapping[str, pathlib.Path] | None = None,
) -> Iterator[pa.RecordBatch]:
  """Streams the records of spans.

  Args:
    sorted_rows: Parquet file, or folder of files in the order of their names.
    spans: Records, in rising order of start and stop.
    fields: Column of the sorted rows -> field of the records.
    values: Column that holds how many values a row has -> Parquet file, or
      folder of files, with these in a column of that name, row by row.

  Yields:
    Batches of records: 'task', 'num_query' and a list for each field, of lists
    where a row has many values.
  """
  rows = _Rows(sorted_rows, list(fields), values or {})
  for at in range(0, len(spans), _SPANS):
    part = slice(at, at + _SPANS)
    start, stop = spans.start[part], spans.stop[part]
    table = rows.between(int(start[0]), int(stop[-1]))
    size = stop - start
    offsets = np.r_[0, np.cumsum(size)]
    index = np.arange(offsets[-1]) + np.repeat(
      start - start[0] - offsets[:-1], size
    )
    columns = {
      'task': pa.array(spans.task[part]),
      'num_query': pa.array(spans.num_query[part]),
    }
    for column, field in fields.items():
      columns[field] = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        table[column].combine_chunks().take(pa.array(index)),
      )
    yield pa.RecordBatch.from_pydict(columns)


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
      if first == stop:
        flat = pa.array([], pa.int32())
      else:
        flat = values.between(first, stop)[name].combine_chunks()
      lists = pa.ListArray.from_arrays(pa.array(offsets), flat)
      table = table.set_column(table.column_names.index(name), name, lists)
    return table
