# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Values of many columns become ids in two passes over a Parquet file.

A join a column is what an engine does out of core, at a cost that does not
depend on how many rows there are. Here all columns whose values fit in memory
are counted in one pass and coded in another, whatever their number.
"""

from collections.abc import Iterator, Mapping, Sequence
import pathlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from antjax.data import thread_map

# Different values of all columns together that may be in memory; those of the
# columns with most of them are left to the engine.
MAX_VALUES = 1 << 22
_BATCH_VALUES, _LEAST_ROWS, _MOST_ROWS = 1 << 23, 1 << 12, 1 << 14
_VALUE, _COUNT = 'value', 'count'


def vocabularies(
  path: pathlib.Path,
  columns: Sequence[str],
  where: str,
  *,
  min_count: int = 1,
  max_values: int,
  threads: int = 2,
) -> dict[str, pa.Table]:
  """Maps the values of columns, in sorted order, to ids from 1.

  Of the Parquet file or folder at `path`, rows count where the column `where`
  is true; a value needs `min_count` of them for an id, and NULLs get none.

  Returns:
    Column -> table (column, id int32); columns of too many values, by
    `max_values`, are lacking.
  """
  counts = {name: _Counts() for name in columns}

  def count(batch: pa.RecordBatch) -> dict[str, pa.StructArray]:
    batch = batch.filter(batch.column(where))
    return {n: pc.value_counts(batch.column(n)) for n in [*counts]}

  def leave_out() -> None:
    while sum(map(len, counts.values())) > max_values:
      del counts[max(counts, key=lambda name: len(counts[name]))]

  batches = _read(path, columns, where)
  for found in thread_map.in_order(count, batches, threads):
    for name, of_name in counts.items():
      of_name.add(found[name])
    leave_out()
  for of_name in counts.values():
    of_name.merge()
  leave_out()
  found = {n: of_name.ids(n, min_count) for n, of_name in counts.items()}
  pa.default_memory_pool().release_unused()
  return found


def write(
  path: pathlib.Path,
  out: pathlib.Path,
  ids: Mapping[str, pa.Table],
  threads: int = 2,
) -> None:
  """Copies a Parquet file or folder with the ids of `vocabularies` for values.

  Values that have none become 0.
  """
  names = pq.read_schema(_parts(path)[0]).names
  known = {n: table[n].combine_chunks() for n, table in ids.items()}

  def code(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [
      _coded(batch.column(n), known[n]) if n in known else batch.column(n)
      for n in names
    ]
    return pa.RecordBatch.from_arrays(columns, names)

  writer: pq.ParquetWriter | None = None
  for batch in thread_map.in_order(code, _read(path, names), threads):
    if writer is None:
      options = {'compression': 'none', 'use_dictionary': False}
      writer = pq.ParquetWriter(
        out, batch.schema, write_statistics=False, **options
      )
    writer.write_batch(batch)
  if writer is not None:
    writer.close()
  pa.default_memory_pool().release_unused()  # The engine's limit is small.


class _Counts:
  """How often each value of a column came so far."""

  def __init__(self) -> None:
    self._parts: list[pa.Table] = []
    self._waiting = self._size = 0

  def __len__(self) -> int:
    return self._size

  def add(self, found: pa.StructArray) -> None:
    values, counts = found.flatten()
    if pa.types.is_dictionary(values.type):
      values = values.dictionary_decode()
    self._parts.append(pa.table({_VALUE: values, _COUNT: counts}))
    self._waiting += len(values)
    if self._waiting > max(self._size, 1 << 16):
      self.merge()

  def merge(self) -> pa.Table:
    """Returns (value, count), each value once."""
    table = pa.concat_tables(self._parts).group_by(_VALUE, use_threads=False)
    table = table.aggregate([(_COUNT, 'sum')]).select([_VALUE, f'{_COUNT}_sum'])
    merged = table.rename_columns([_VALUE, _COUNT])
    self._parts, self._size, self._waiting = [merged], len(merged), 0
    return merged

  def ids(self, name: str, min_count: int) -> pa.Table:
    """Table (name, id) of the values that came often enough."""
    table = self.merge()
    is_kept = pc.greater_equal(table[_COUNT], min_count)
    is_kept = pc.and_(is_kept, pc.is_valid(table[_VALUE]))
    values = table[_VALUE].filter(is_kept).combine_chunks()
    values = values.take(pc.array_sort_indices(values))
    ids = pa.array(range(1, len(values) + 1), pa.int32())
    return pa.table({name: values, 'id': ids})


def _coded(values: pa.Array, known: pa.Array) -> pa.Array:
  """Ids int32 of values: places in `known`, from 1; 0 for others."""
  if pa.types.is_dictionary(values.type):
    ids = _coded(values.dictionary, known)
    return pc.fill_null(ids.take(values.indices), 0)
  return pc.add(
    pc.fill_null(pc.index_in(values, known), -1), pa.scalar(1, pa.int32())
  )


def _parts(path: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path.glob('*.parquet')) if path.is_dir() else [path]


def _read(
  path: pathlib.Path, columns: Sequence[str], *more: str
) -> Iterator[pa.RecordBatch]:
  """Batches of files, texts as dictionaries."""
  size = _BATCH_VALUES // max(len(columns), 1)
  size = min(max(size, _LEAST_ROWS), _MOST_ROWS)
  names = [*columns, *more]
  for part in _parts(path):
    schema = pq.read_schema(part)
    texts = [n for n in names if pa.types.is_string(schema.field(n).type)]
    with pq.ParquetFile(part, read_dictionary=texts, pre_buffer=False) as file:
      # Arrow's own threads would keep memory of theirs.
      yield from file.iter_batches(size, columns=names, use_threads=False)
