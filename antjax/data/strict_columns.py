# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Turns columns into typed ones strictly: what does not fit is a fault.

A value is never rounded, cut or replaced unseen: '2.5' is no integer, 'nan' and
'1e99' are no float32. Spaces and tabs around a number do not matter.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import re
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from antjax.data.times import seconds, seconds_of

Kind = Literal['int8', 'int32', 'int64', 'float32', 'float64', 'string', 'time']

_INTEGER = re.compile(r'[+-]?[0-9]+')
_FLOAT = re.compile(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?')
# What tables write where there is no value.
_MISSING = ('nan', 'NaN', 'NAN', '<NA>', 'null', 'NULL', 'None')
_BLANK = ' \t'
_ARROW = {
  name: pa.from_numpy_dtype(name)
  for name in ('int8', 'int32', 'int64', 'float32', 'float64')
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
  """What a column has to hold."""

  # Type; 'time' is a text as `seconds_of` reads it, and becomes int64 seconds.
  kind: Kind = 'string'
  # Number that an empty field means, or None where an empty number is
  # malformed. For a 'time', seconds that replace unreadable times.
  empty: float | None = None
  # The only texts that it may hold; () allows all.
  values: tuple[str, ...] = ()
  is_needed: bool = False  # Whether a text must not be blank.
  limit: float = math.inf  # Numbers must be below it in size.
  # Text between the values of a field, '' for one value. The column becomes
  # lists of texts.
  separator: str = ''

  @property
  def wanted(self) -> str:
    """What a value has to be, for messages."""
    if math.isinf(self.limit):
      return self.kind
    return f'{self.kind} below {self.limit:.3g}'


class Faults:
  """The first fault of each row -> (column, reason of one word, message)."""

  def __init__(self) -> None:
    self.of_row: dict[int, tuple[str, str, str]] = {}

  def add(
    self,
    is_bad: np.ndarray,
    column: str,
    reason: str,
    message: Callable[[int], str],
  ) -> None:
    """Marks the rows of a mask, bool [n]."""
    for row in np.flatnonzero(is_bad).tolist():
      self.of_row.setdefault(row, (column, reason, message(row)))

  def without(self, table: pa.Table) -> pa.Table:
    if not self.of_row:
      return table
    is_good = np.ones(table.num_rows, bool)
    is_good[[*self.of_row]] = False
    return table.filter(pa.array(is_good))


def decoded(name: str, values: pa.BinaryArray, faults: Faults) -> pa.Array:
  """Bytes as texts; what is no UTF-8 is a fault, and ''."""
  try:
    return values.cast(pa.string())
  except pa.ArrowInvalid:
    found = []
    is_bad = np.zeros(len(values), bool)
    for row, value in enumerate(values.to_pylist()):
      try:
        found.append(value and value.decode('utf-8'))
      except UnicodeDecodeError:
        found.append('')
        is_bad[row] = True
  faults.add(is_bad, name, 'encoding', lambda row: 'bytes that are not utf-8')
  return pa.array(found, pa.string())


def typed(
  name: str, values: pa.Array, column: Column, faults: Faults
) -> tuple[pa.Array, int]:
  """Returns a typed column, and how many of its values were filled in.

  Rows that do not conform go to `faults`; their value is arbitrary.

  Raises:
    ValueError: The column as a whole is of a type that cannot be one of `kind`.
  """
  if pa.types.is_dictionary(values.type):
    values = values.dictionary_decode()
  if _is(values.type, 'binary', 'large_binary'):
    values = decoded(name, values, faults)
  kind = values.type
  if _is(kind, 'list', 'large_list', 'fixed_size_list'):
    return _lists(name, values, column, faults), 0
  if _may_lack(column) and pa.types.is_floating(kind):
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
  num_empty = values.null_count
  is_whole = not num_empty or column.empty is not None
  is_number = _is(kind, 'integer', 'floating', 'boolean')
  if is_number and column.kind in _ARROW and is_whole:
    try:
      numbers = values.cast(_ARROW[column.kind])
      is_bad = ~_fits(numbers.fill_null(0).to_numpy(), column.limit)
      faults.add(is_bad, name, *_cast_fault(name, values, column))
      if num_empty:
        empty = np.dtype(column.kind).type(column.empty)
        numbers = numbers.fill_null(empty)
      return numbers, num_empty
    except pa.ArrowInvalid:  # Some do not fit: see which.
      pass
  return _from_texts(name, _as_texts(name, values, column), column, faults)


def float_types(columns: Mapping[str, Column]) -> dict[str, pa.DataType]:
  """Returns Arrow's types of the columns of floats."""
  return {
    n: _ARROW[c.kind] for n, c in columns.items() if c.kind[:5] == 'float'
  }


def all_fit(numbers: pa.Array, column: Column) -> bool:
  """Whether floats that Arrow has read are all good ones."""
  if numbers.null_count and column.empty is None:
    return False
  return bool(_fits(numbers.fill_null(0).to_numpy(), column.limit).all())


def _may_lack(column: Column) -> bool:
  """Whether a number may be missing."""
  return column.empty is not None and np.isnan(column.empty)


def _lists(
  name: str, values: pa.Array, column: Column, faults: Faults
) -> pa.Array:
  """Lists of texts from those of a Parquet file."""
  inner = values.type.value_type
  if not column.separator:
    raise ValueError(
      f'the column {name!r} holds lists; needed is a value in each row, or a'
      ' feature with a separator in the schema file.'
    )
  if not _is(inner, 'integer', 'string', 'large_string'):
    raise ValueError(
      f'the column {name!r} holds lists of {inner}; needed are lists of texts'
      ' or of integers.'
    )
  lists = values.cast(pa.list_(pa.string()))
  is_bad = mask(lists.is_null())
  parents = pc.list_parent_indices(lists).to_numpy()
  is_bad[parents[mask(pc.list_flatten(lists).is_null())]] = True
  faults.add(is_bad, name, 'empty', lambda row: 'no value')
  return lists


def _is(kind: pa.DataType, *names: str) -> bool:
  """Whether a type is one of those that Arrow calls so."""
  return any(getattr(pa.types, f'is_{name}')(kind) for name in names)


def _as_texts(name: str, values: pa.Array, column: Column) -> pa.StringArray:
  """Values of a Parquet file as a text file would have them."""
  kind = values.type
  if pa.types.is_floating(kind) and column.kind == 'string':
    # As '1.0', not '1'.
    texts = [None if v is None else str(v) for v in values.to_pylist()]
    return pa.array(texts, pa.string())
  if pa.types.is_boolean(kind) and column.kind != 'string':
    values = values.cast(pa.int8())
  elif pa.types.is_decimal(kind) and column.kind != 'string':
    values = values.cast(pa.float64())  # '1', not '1.00'.
  if pa.types.is_floating(values.type) and column.kind.startswith('int'):
    # As '1000000000000000', not '1e+15'.
    texts = [_whole(v) for v in values.to_pylist()]
    return pa.array(texts, pa.string())
  try:
    return values.cast(pa.string())
  except pa.ArrowNotImplementedError as e:
    raise ValueError(
      f'the column {name!r} is {kind}; needed: {column.kind}.'
    ) from e


def _whole(number: float | None) -> str | None:
  """A number of a Parquet file as a text file would have an integer."""
  if number is None:
    return None
  return str(int(number) if number.is_integer() else number)


def _from_texts(
  name: str, texts: pa.StringArray, column: Column, faults: Faults
) -> tuple[pa.Array, int]:
  if texts.null_count:
    if column.kind == 'string' or column.empty is None:
      is_null = mask(texts.is_null())
      faults.add(is_null, name, 'empty', lambda row: 'no value')
    texts = texts.fill_null('')
  if _may_lack(column):
    texts = pc.if_else(pc.is_in(texts, pa.array(_MISSING)), '', texts)
  if column.is_needed:
    is_blank = pc.or_(pc.equal(texts, ''), pc.utf8_is_space(texts))
    faults.add(mask(is_blank), name, 'empty', lambda row: 'no value')
    is_missing = mask(pc.is_in(texts, pa.array(_MISSING)))
    advice = 'stands for no value; write an id that is one in another way'
    faults.add(
      is_missing,
      name,
      'empty',
      lambda row: f'{texts[row].as_py()!r} {advice}',
    )
  if column.values:
    is_known = pc.is_in(texts, pa.array(column.values, pa.string()))
    needed = ', '.join(column.values)
    faults.add(
      ~mask(is_known),
      name,
      'value',
      lambda row: f'{texts[row].as_py()!r}; needed: {needed}',
    )
  if column.separator:
    lists = pc.split_pattern(texts, column.separator)
    none = pa.scalar([], lists.type)
    return pc.if_else(pc.equal(texts, ''), none, lists), 0
  if column.kind == 'string':
    return texts, 0
  if column.kind == 'time':
    return _times(name, texts, column, faults)
  is_empty = np.zeros(len(texts), bool)
  if column.empty is not None:
    is_empty = mask(pc.equal(texts, ''))
    if is_empty.any():
      texts = pc.if_else(pa.array(is_empty), '0', texts)
  try:
    numbers = _cast(texts, column.kind)
    is_bad = ~_fits(numbers, column.limit)
  except pa.ArrowInvalid:
    coded = texts.dictionary_encode()
    found = [_number(t, column) for t in coded.dictionary.to_pylist()]
    index = coded.indices.to_numpy()
    is_bad = np.array([x is None for x in found], bool)[index]
    is_empty |= np.array([x == '' for x in found], bool)[index]
    kept = [x or 0 for x in found]
    numbers = np.array(kept, np.dtype(column.kind))[index]
  faults.add(is_bad, name, *_cast_fault(name, texts, column))
  num_empty = int(np.count_nonzero(is_empty))
  if num_empty:
    assert column.empty is not None
    numbers = np.where(is_empty, np.array(column.empty, numbers.dtype), numbers)
  return pa.array(numbers), num_empty


def _cast_fault(
  name: str, values: Any, column: Column
) -> tuple[str, Callable[[int], str]]:
  """Reason and message of values that are no number of the kind."""
  return (
    'cast',
    lambda row: (
      f'Could not convert "{values[row]}" in "{name}" to {column.wanted}'
      + '; the type time reads it' * (seconds(f'{values[row]}') is not None)
    ),
  )


def _cast(texts: pa.StringArray, kind: str) -> np.ndarray:
  """Numbers of texts that all are some, in the way Arrow writes them."""
  if kind.startswith('int'):
    _, _, data = texts.buffers()
    if data is not None and ((np.frombuffer(data, np.uint8) | 32) == 120).any():
      raise pa.ArrowInvalid('hexadecimal numbers are none')
  return texts.cast(kind).to_numpy()


def _number(text: str, column: Column) -> float | Literal[''] | None:
  """One number; '' where it is an empty one, None for what is none."""
  text, kind = text.strip(_BLANK), column.kind
  if not text:
    return None if column.empty is None else ''
  pattern = _INTEGER if kind.startswith('int') else _FLOAT
  if not pattern.fullmatch(text):
    return None
  if kind.startswith('int'):
    digits = text.lstrip('+-0')
    if len(digits) > 19:  # More than fit, and perhaps than Python reads.
      return None
    number = int(digits or '0') * (-1 if text[0] == '-' else 1)
    limits = np.iinfo(kind)
    return number if limits.min <= number <= limits.max else None
  number = pa.scalar(text).cast(kind).as_py()
  return number if abs(number) < column.limit else None


def _fits(numbers: np.ndarray, limit: float) -> np.ndarray:
  """Whether numbers are finite and below the limit, bool [n]."""
  if numbers.dtype.kind != 'f':
    return np.ones(len(numbers), bool)
  return np.abs(numbers) < limit


def _times(
  name: str, texts: pa.StringArray, column: Column, faults: Faults
) -> tuple[pa.Array, int]:
  found, is_time = seconds_of(texts)
  if column.empty is None:
    faults.add(
      ~is_time,
      name,
      'time',
      lambda row: f'{texts[row].as_py()!r}; needed: ISO 8601 or yyyy/M/d H:mm',
    )
    return pa.array(found), 0
  found[~is_time] = int(column.empty)
  return pa.array(found), int(np.count_nonzero(~is_time))


def mask(values: pa.BooleanArray) -> np.ndarray:
  """Arrow's booleans as NumPy's."""
  return values.to_numpy(zero_copy_only=False)
