# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Arrow files of records, mapped into memory and read without copies.

The file is Arrow's IPC format: one record batch a block of records, and a
footer that says where each block is. A block's columns lie one after another,
the rows of all its records in each; a list of lists is padded already. So a
block is read in one sequential piece, and its numpy arrays are views of the
page cache.
"""

from collections.abc import Sequence
import mmap
import os
from typing import Any

import pyarrow as pa

from antjax.data import arrow_columns, record_schema
from antjax.data.record_schema import Field, Schema
from antjax.shards import record_source

# Metadata of the file: records in a block, the last one may have fewer.
BLOCK_SIZE_KEY = b'antjax.block_size'


class ArrowSource:
  """Records of one Arrow file written by `record_writer.write_arrow`.

  `read` touches the blocks that it needs only, so let a data shard be as large
  as a block or a multiple of it. What it gives are read-only views of the file,
  which must not change while they are used.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    schema: Schema | None = None,
    *,
    as_blocks: bool = False,
  ):
    """Opens the file and checks its columns; reads no records.

    Args:
      path: Arrow file.
      schema: Columns to read, all others are left out; None reads all columns.
      as_blocks: Whether `read` gives an `arrow_columns.Block`, not records.

    Raises:
      FileNotFoundError: No such file.
      ValueError: Not an Arrow file of ours, or a column is missing or of
        another type.
    """
    self._path = record_schema.existing_file('ArrowSource', path)
    self._schema, self._as_blocks = schema, as_blocks
    try:
      with open(self._path, 'rb') as file:
        self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
      whole = pa.py_buffer(self._map)
      self._address = whole.address
      self._file = pa.ipc.open_file(whole)
      found = self._file.schema
      self._block_size = int((found.metadata or {})[BLOCK_SIZE_KEY])
    except (pa.ArrowInvalid, OSError, ValueError, KeyError) as e:
      raise ValueError(
        f'ArrowSource: {self._path} is not a whole Arrow file of ours'
        f' ({record_schema.one_line(e)}); make it again.'
      ) from e
    if schema is not None:
      kinds = {
        name: Field(*record_schema.numpy_type(found.field(name).type))
        for name in found.names
      }
      record_schema.check_schema('ArrowSource', self._path, schema, kinds)
    self._columns = list(found.names if schema is None else schema)
    num_blocks = self._file.num_record_batches
    self._num_records = 0
    if num_blocks:
      last = self._file.get_batch(num_blocks - 1).num_rows
      self._num_records = (num_blocks - 1) * self._block_size + last

  def __reduce__(self) -> tuple[Any, ...]:  # Another process reopens it.
    return _open, (self._path, self._schema, self._as_blocks)

  def __len__(self) -> int:
    return self._num_records

  @property
  def block_size(self) -> int:
    """Records in a block, the unit of reading."""
    return self._block_size

  def read(self, start: int, stop: int) -> Sequence[dict[str, Any]]:
    """Returns the records start <= index < stop; see `RecordSource`."""
    record_source.check_block(self._path, start, stop, len(self))
    first = start // self._block_size
    last = -(-stop // self._block_size)
    try:
      batches = [self._file.get_batch(i) for i in range(first, last)]
      self._read_ahead(batches)
      table = pa.Table.from_batches(batches, self._file.schema)
      table = table.select(self._columns)
      table = table.slice(start - first * self._block_size, stop - start)
      table.validate(full=True)
      return self._decode(table)
    except (pa.ArrowException, OSError) as e:
      raise record_schema.damaged(self._path, start, stop, e) from e

  def take(self, numbers: Sequence[int]) -> Sequence[dict[str, Any]]:
    """Returns the records of any numbers, in their order, copied."""
    if not numbers:
      return self.read(0, 0)
    first, stop = min(numbers), max(numbers) + 1
    record_source.check_block(self._path, first, stop, len(self))
    try:
      at = [divmod(i, self._block_size) for i in numbers]
      blocks = {
        block: self._file.get_batch(block).select(self._columns)
        for block in {block for block, _ in at}
      }
      table = pa.Table.from_batches([blocks[b].slice(i, 1) for b, i in at])
      table.validate(full=True)
      return self._decode(table.combine_chunks())
    except (pa.ArrowException, OSError) as e:
      raise record_schema.damaged(self._path, first, stop, e) from e

  def _decode(self, table: pa.Table) -> Any:
    if self._as_blocks:
      return arrow_columns.block_from_arrow(table, {})
    return arrow_columns.records_from_arrow(table, {})

  def _read_ahead(self, batches: list[pa.RecordBatch]) -> None:
    """Asks the kernel for the blocks as a whole, not page by page."""
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
    self._map.madvise(mmap.MADV_WILLNEED, begin, end - self._address - begin)


def _open(path: str, schema: Schema | None, as_blocks: bool) -> ArrowSource:
  return ArrowSource(path, schema, as_blocks=as_blocks)
