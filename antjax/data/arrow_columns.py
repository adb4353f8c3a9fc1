# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Arrow columns as records, one by one, or as a block of columns.

Where the Arrow arrays allow it, what comes out are views of them: no copies.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from antjax.shards.record_source import RecordBlock


@dataclasses.dataclass(frozen=True)
class _Column:
  """A column of N records, without empty values."""

  # [N] of scalars; of lists, the rows of all records [R] or [R, K].
  values: Any
  # Offsets of the rows of each record, [N + 1]; None for scalars.
  offsets: np.ndarray | None = None
  # Values in each row of lists of lists without a width, [R].
  lengths: np.ndarray | None = None

  def record(self, index: int) -> Any:
    if self.offsets is None:
      return self.values[index]
    part = slice(self.offsets[index], self.offsets[index + 1])
    if self.lengths is None:
      return self.values[part]
    return self.values[part, : self.lengths[part].max(initial=0)]


def records_from_arrow(
  table: pa.Table, widths: Mapping[str, int]
) -> list[dict[str, Any]]:
  """Turns columns of numbers, texts, lists, or lists of lists into records.

  The inner lists of a column in `widths` are padded to its width with -1;
  without an entry each record has its own longest list's.

  Raises:
    ValueError: A value is empty, or a list longer than its width.
  """
  columns = _columns(table, widths)
  return [
    {name: column.record(i) for name, column in columns.items()}
    for i in range(table.num_rows)
  ]


def block_from_arrow(table: pa.Table, widths: Mapping[str, int]) -> RecordBlock:
  """Turns columns, at least one of them of lists, into a block.

  Raises:
    ValueError: As `records_from_arrow`; or the lists of a record differ in
      length, or there are none.
  """
  columns = _columns(table, widths)
  lists = {n: c for n, c in columns.items() if c.offsets is not None}
  if not lists:
    raise ValueError(
      f'a block needs a list: the columns are {", ".join(columns)}.'
    )
  first, *others = lists
  offsets = lists[first].offsets
  assert offsets is not None
  for name in others:
    if not np.array_equal(np.asarray(lists[name].offsets), offsets):
      raise ValueError(
        f'the lists of {name!r} are not as long as those of {first!r}; read'
        ' records one by one, without as_blocks.'
      )
  return RecordBlock(
    {name: column.values for name, column in lists.items()},
    {
      **{n: np.asarray(c.values) for n, c in columns.items() if n not in lists},
      'first_row': offsets[:-1].astype(np.int64),
      'num_rows': np.diff(offsets).astype(np.int64),
    },
  )


def padded_lists(lists: pa.ListArray, width: int) -> pa.ListArray:
  """Lists of lists padded with -1 to `width` values: nothing to decode."""
  column = _column('', lists, width)
  flat = pa.array(column.values.reshape(-1))
  rows = pa.FixedSizeListArray.from_arrays(flat, width)
  return pa.ListArray.from_arrays(pa.array(column.offsets), rows)


def _columns(table: pa.Table, widths: Mapping[str, int]) -> dict[str, _Column]:
  return {
    name: _column(name, _one_array(table[name]), widths.get(name))
    for name in table.column_names
  }


def _one_array(column: pa.ChunkedArray) -> pa.Array:
  chunks = column.chunks
  return chunks[0] if len(chunks) == 1 else column.combine_chunks()


def _column(name: str, array: pa.Array, width: int | None) -> _Column:
  _check_no_nulls(name, array)
  if pa.types.is_string(array.type):
    return _Column(array.to_pylist())
  if not pa.types.is_list(array.type):
    return _Column(array.to_numpy(zero_copy_only=False))
  rows, offsets = _flat(array)
  _check_no_nulls(name, rows)
  if pa.types.is_fixed_size_list(rows.type):
    size = rows.type.list_size
    values = rows.values.slice(rows.offset * size, len(rows) * size)
    return _Column(
      values.to_numpy(zero_copy_only=False).reshape(-1, size), offsets
    )
  if not pa.types.is_list(rows.type):
    return _Column(rows.to_numpy(zero_copy_only=False), offsets)
  inner, inner_offsets = _flat(rows)
  _check_no_nulls(name, inner)
  lengths = np.diff(inner_offsets)
  longest = int(lengths.max(initial=0))
  if width is not None and longest > width:
    raise ValueError(f'a list of {longest} values exceeds the width {width}.')
  flat = inner.to_numpy(zero_copy_only=False)
  padded = np.full((len(rows), longest if width is None else width), -1)
  padded = padded.astype(flat.dtype)
  padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat
  return _Column(padded, offsets, lengths if width is None else None)


def _flat(lists: pa.ListArray) -> tuple[pa.Array, np.ndarray]:
  """Returns the values of all lists, and where those of each are, [N + 1]."""
  offsets = lists.offsets.to_numpy()
  start = int(offsets[0])
  return lists.values.slice(start, int(offsets[-1]) - start), offsets - start


def _check_no_nulls(name: str, array: pa.Array) -> None:
  if array.null_count:
    raise ValueError(f'column {name!r} has {array.null_count} empty values.')
