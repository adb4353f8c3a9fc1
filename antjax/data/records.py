# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Record files: Arrow, Parquet and ArrayRecord, read by contiguous block.

A record is a dict of numpy values: a scalar, a 1-D array, or a 2-D array whose
rows are padded with -1 to a width that is the same in the whole file. All
formats give the same records. Neither jax nor grain is imported here.

`record_writer` writes them. An Arrow file is Arrow's IPC format: one record
batch a block of records, and a footer that says where each block is. A block's
columns follow each other, the rows of all its records in each; a list of
lists is padded already. So a block is read in one sequential piece, and its
numpy arrays are views of the page cache.
"""

import abc
from collections.abc import Sequence
import json
import mmap
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import arrow_columns, record_schema
from antjax.data.array_record_file import ArrayRecordSource
from antjax.data.file_sequence import FileSequence
from antjax.data.record_schema import Schema
from antjax.shards.record_source import check_block, Record

_NARROW = {np.dtype('int64'): np.dtype('int32')}
READ_RECORDS = 65_536  # Of columns that are read piece by piece.


class _ColumnSource(abc.ABC):
  """Records of a file of columns; its subclasses are the formats."""

  def __init__(
    self,
    path: str | os.PathLike[str],
    schema: Schema | None = None,
    as_blocks: bool = False,
  ):
    """Opens the file and checks its columns; reads no records.

    See `open_source`.

    Raises:
      FileNotFoundError: No such file.
      ValueError: Not a file of ours, or a column is missing or of another type.
    """
    name = type(self).__name__
    self.path = record_schema.existing_file(name, path)
    self._schema, self._as_blocks = schema, as_blocks
    try:
      found = self._open()
    except (pa.ArrowInvalid, OSError, ValueError, KeyError) as e:
      raise ValueError(
        f'{name}: {self.path} is not a whole file of records'
        f' ({record_schema.one_line(e)}); make it again.'
      ) from e
    if schema is not None:
      fields = {c.name: record_schema.field_of(c.type) for c in found}
      record_schema.check_schema(name, self.path, schema, fields)
    self._columns = list(found.names if schema is None else schema)
    widths = (found.metadata or {}).get(record_schema.WIDTHS_KEY, b'{}')
    self._widths: dict[str, int] = json.loads(widths)

  @abc.abstractmethod
  def _open(self) -> pa.Schema:
    """Opens the file; returns what it holds."""

  @abc.abstractmethod
  def _table(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Reads columns of the records start <= index < stop."""

  @abc.abstractmethod
  def __len__(self) -> int: ...

  def __reduce__(self) -> tuple[Any, ...]:  # Another process reopens it.
    return type(self), (self.path, self._schema, self._as_blocks)

  def table(
    self, start: int, stop: int, columns: Sequence[str] | None = None
  ) -> pa.Table:
    """Returns the records start <= index < stop as a table of columns."""
    check_block(self.path, start, stop, len(self))
    columns = self._columns if columns is None else columns
    try:
      return self._table(start, stop, columns)
    except (pa.ArrowException, OSError) as e:
      raise record_schema.damaged(self.path, start, stop, e) from e

  def drop(self, start: int, stop: int) -> None:
    """Lets go of the memory of records that have been copied."""
    del start, stop  # Nothing is mapped.

  def read(self, start: int, stop: int) -> Sequence[Record]:
    return self.decode(self.table(start, stop))

  def decode(self, table: pa.Table) -> Sequence[Record]:
    """The records of a table of all columns."""
    if self._as_blocks:
      return arrow_columns.block_from_arrow(table, self._widths)
    return arrow_columns.records_from_arrow(table, self._widths)


class ParquetSource(_ColumnSource):
  """Records of one Parquet file.

  `read` decodes only the row groups that the block touches, so let a data shard
  be about as large as a row group or a multiple of it.
  """

  def _open(self) -> pa.Schema:
    self._file = pq.ParquetFile(self.path)
    sizes = [
      self._file.metadata.row_group(i).num_rows
      for i in range(self._file.num_row_groups)
    ]
    self._starts = np.cumsum([0, *sizes])
    return self._file.schema_arrow

  def __len__(self) -> int:
    return int(self._starts[-1])

  def _table(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    first = int(np.searchsorted(self._starts, start, side='right')) - 1
    last = int(np.searchsorted(self._starts, stop, side='left'))
    table = self._file.read_row_groups(
      range(first, last), columns=list(columns), use_threads=False
    )
    return table.slice(start - int(self._starts[first]), stop - start)


class ArrowSource(_ColumnSource):
  """Records of one Arrow file, mapped into memory and read without copies.

  `read` touches the blocks that it needs only, so let a data shard be as large
  as a block or a multiple of it. What it gives are read-only views of the file,
  which must not change while they are used. `block_size` is the number of
  records in a block, the unit of reading.
  """

  def _open(self) -> pa.Schema:
    with open(self.path, 'rb') as file:
      self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    whole = pa.py_buffer(self._map)
    self._address = whole.address
    self._file = pa.ipc.open_file(whole)
    found = self._file.schema
    self.block_size = int((found.metadata or {})[record_schema.BLOCK_SIZE_KEY])
    num_blocks = self._file.num_record_batches
    self._num_records = 0
    if num_blocks:
      last = self._file.get_batch(num_blocks - 1).num_rows
      self._num_records = (num_blocks - 1) * self.block_size + last
    return found

  def __len__(self) -> int:
    return self._num_records

  def _table(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    batches = self._blocks(start, stop)
    self._advise(batches, mmap.MADV_WILLNEED)  # As a whole, not page by page.
    table = pa.Table.from_batches(batches, self._file.schema)
    table = table.select(list(columns))
    table = table.slice(start % self.block_size, stop - start)
    table.validate(full=True)
    return table

  def _blocks(self, start: int, stop: int) -> list[pa.RecordBatch]:
    blocks = range(start // self.block_size, -(-stop // self.block_size))
    return [self._file.get_batch(i) for i in blocks]

  def drop(self, start: int, stop: int) -> None:
    self._advise(self._blocks(start, stop), mmap.MADV_DONTNEED)

  def take(self, numbers: Sequence[int]) -> Sequence[Record]:
    """Returns the records of any numbers, in their order, copied."""
    if not numbers:
      return self.read(0, 0)
    first, stop = min(numbers), max(numbers) + 1
    check_block(self.path, first, stop, len(self))
    try:
      at = [divmod(i, self.block_size) for i in numbers]
      blocks = {
        block: self._file.get_batch(block).select(self._columns)
        for block in {block for block, _ in at}
      }
      table = pa.Table.from_batches([blocks[b].slice(i, 1) for b, i in at])
      table.validate(full=True)
      return self.decode(table.combine_chunks())
    except (pa.ArrowException, OSError) as e:
      raise record_schema.damaged(self.path, first, stop, e) from e

  def _advise(self, batches: list[pa.RecordBatch], what: int) -> None:
    """Tells the kernel what becomes of the memory of blocks."""
    buffers = [
      buffer
      for batch in batches
      for column in batch.columns
      for buffer in column.buffers()
      if buffer is not None and buffer.size
    ]
    if not buffers:
      return
    begin = min(buffer.address for buffer in buffers) - self._address
    end = max(buffer.address + buffer.size for buffer in buffers)
    begin -= begin % mmap.PAGESIZE
    self._map.madvise(what, begin, end - self._address - begin)


ColumnSource = ArrowSource | ParquetSource | FileSequence
Source = ColumnSource | ArrayRecordSource


def open_source(
  path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
  schema: Schema | None = None,
  as_blocks: bool = False,
) -> Source:
  """Opens a record file by its suffix, .arrow, .parquet or .array_record.

  Records of several Arrow or Parquet files follow each other. Fields that the
  schema lacks are left out; None gives all of them. With `as_blocks`, which
  ArrayRecord files do not have, `read` gives columns, a `RecordBlock`, and not
  one dict a record.

  Raises:
    FileNotFoundError: No such file.
    ValueError: Another suffix, no file of that format, or a field is missing or
      of another type.
  """
  if not isinstance(path, str | os.PathLike):
    if len(path) > 1:
      sources = [open_source(one, schema, as_blocks) for one in path]
      assert not any(isinstance(x, ArrayRecordSource) for x in sources)
      return FileSequence(sources)
    (path,) = path
  suffix = os.path.splitext(os.fspath(path))[1]
  if suffix == '.arrow':
    return ArrowSource(path, schema, as_blocks)
  if suffix == '.parquet':
    return ParquetSource(path, schema, as_blocks)
  if suffix == '.array_record':
    if as_blocks:
      raise ValueError(
        f'open_source: {os.fspath(path)}: an ArrayRecord file holds records one'
        ' by one; as_blocks needs --format=arrow or parquet.'
      )
    return ArrayRecordSource(path, schema)
  raise ValueError(
    f'open_source: {os.fspath(path)}: unknown suffix {suffix!r}; needed:'
    ' .arrow, .parquet or .array_record.'
  )


def whole_columns(
  source: ColumnSource,
  names: Sequence[str],
  wide: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Reads columns of numbers as a whole, for data that fit into memory.

  Four bytes a number: 11 million clicks with 40 features take 2 GB.

  Args:
    source: Arrow or Parquet file that `record_writer` wrote, or several.
    names: Columns: numbers, or lists of as many numbers in each record.
    wide: Those of them that stay int64; others become int32.

  Returns:
    Name -> [N], or [N, K] of a column of lists.

  Raises:
    ValueError: Lists of a column differ in length, or a number does not fit.
  """
  found: dict[str, np.ndarray] = {}
  total = len(source)
  for start in range(0, total, READ_RECORDS):
    stop = min(start + READ_RECORDS, total)
    for name, values in columns(source, start, stop, names, wide).items():
      if name not in found:
        found[name] = np.empty((total, *values.shape[1:]), values.dtype)
      whole = found[name]
      if values.shape[1:] != whole.shape[1:]:
        raise ValueError(
          f'whole_columns: {source.path}: records have {values.shape[1:]} and'
          f' {whole.shape[1:]} values of {name!r}; all need as many.'
        )
      whole[start:stop] = values
  return found


def columns(
  source: ColumnSource,
  start: int,
  stop: int,
  names: Sequence[str],
  wide: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Columns of the records start <= index < stop; see `whole_columns`.

  They are copies: of a mapped file nothing stays in memory.
  """
  table, found = source.table(start, stop, names), {}
  for name in names:
    values = _values(name, table[name].combine_chunks())
    kind = values.dtype if name in wide else _NARROW.get(values.dtype)
    if kind is not None and kind != values.dtype:
      limits = np.iinfo(kind)
      if values.size and not limits.min <= values.min() <= values.max() <= (
        limits.max
      ):
        raise ValueError(
          f'whole_columns: {source.path}: {name!r} has numbers beyond int32.'
        )
    found[name] = np.array(values, kind)
  source.drop(start, stop)
  return found


def _values(name: str, column: pa.Array) -> np.ndarray:
  """[N] or [N, K]."""
  if not pa.types.is_list(column.type):
    return column.to_numpy(zero_copy_only=False)
  lengths = np.diff(column.offsets.to_numpy())
  if len(lengths) and lengths.min() != lengths.max():
    raise ValueError(
      f'whole_columns: the lists of {name!r} have from {lengths.min()} to'
      f' {lengths.max()} values; all need as many.'
    )
  flat = column.flatten().to_numpy(zero_copy_only=False)
  return flat.reshape(len(column), -1) if len(column) else flat[:, None]
