# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The 37 columns of AntM2C's files: types, and what a good row holds.

"AntM2C: A Large Scale Dataset For Multi-Scenario Multi-Modal CTR Prediction"
(Huan et al. 2023, arXiv 2308.16437). Column names and types are those that
readers of the public files agree on; what `deep_features_*` mean, and which of
them are numbers, is not published.
"""

from collections.abc import Callable
import dataclasses
from typing import Annotated

import numpy as np
import pyarrow as pa
from pyarrow import csv
import pyarrow.compute as pc

from antjax.data import behavior_examples, text_times
from antjax.data.csv_blocks import Block

TEXTS = (
  'bill_entity_seq',
  'service_entity_seq',
  'query_entity_seq',
  'item_entity_names',
)
TITLE = 'item_title'
NUM_FEATURES = 27
COLUMNS = (
  'user_id',
  'item_id',
  'log_time',
  'label',
  *TEXTS,
  TITLE,
  'scene',
  *(f'deep_features_{i}' for i in range(NUM_FEATURES)),
)
ROW = 'row'
_FILE_BITS = 40
_LARGEST = float(np.finfo(np.float32).max)
_MAX_TEXT = 2000  # Characters of a bad row to list.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Antm2cConfig:
  """What the columns of AntM2C's files hold."""

  numeric: Annotated[
    tuple[int, ...],
    'Which deep_features are numbers; the others are categories. The files do'
    ' not say: these are the choice of a public reader.',
  ] = (14, 19, 20, 21, 22, 23, 24, 25, 26)
  scenes: Annotated[
    tuple[str, ...], 'The values of scene; a row with another one is bad.'
  ] = ('0', '1', '2', '3', '4')
  fill_bad_time: Annotated[
    str,
    'What stands for a log_time that is none, such as 2023-08-01 12:00:00; such'
    ' rows are counted. Empty: they are bad rows.',
  ] = ''

  def __post_init__(self) -> None:
    if not all(0 <= i < NUM_FEATURES for i in self.numeric) or len(
      {*self.numeric}
    ) < len(self.numeric):
      raise ValueError(
        f'numeric={self.numeric}: needed: different numbers from 0 to'
        f' {NUM_FEATURES - 1}.'
      )
    if not self.scenes:
      raise ValueError('scenes is empty: no row would be good.')
    if self.fill_bad_time:
      behavior_examples.moment(self.fill_bad_time)

  @property
  def numeric_columns(self) -> tuple[str, ...]:
    """Columns of numbers."""
    return tuple(f'deep_features_{i}' for i in self.numeric)

  @property
  def categories(self) -> tuple[str, ...]:
    """Columns of categories, the scene first."""
    names = (f'deep_features_{i}' for i in range(NUM_FEATURES))
    return ('scene', *(n for n in names if n not in self.numeric_columns))


def row_number(file: int, record: int) -> int:
  """Number of a row over all files, which no other change of them changes.

  Args:
    file: Place of the file among the parts, from 0.
    record: Place of the record in the file; the header is 0, bad rows count.
  """
  return (file << _FILE_BITS) + record


@dataclasses.dataclass(frozen=True)
class BadRow:
  """A row that is set aside, as `delimited.REJECTED_COLUMNS` lists it."""

  line: int
  column: str
  reason: str
  message: str
  text: str


@dataclasses.dataclass(frozen=True)
class Parsed:
  """What a block holds.

  Attributes:
    table: Good rows: `COLUMNS` with log_time int64 in seconds, label int8,
      numbers float32 and the rest strings; and `ROW` int64, the number of the
      record in its file.
    bad: Rows set aside, in their order.
    empty_numbers: Fields of numbers that were empty and became 0.
    filled_times: Times that were replaced.
  """

  table: pa.Table
  bad: list[BadRow]
  empty_numbers: int
  filled_times: int


class _Faults:
  """The first fault of each row."""

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


def parse(block: Block, config: Antm2cConfig) -> Parsed:
  """Reads the records of a block strictly."""
  # Where a bad row is, and (column, reason, message).
  bad: list[tuple[int, int, tuple[str, str, str]]] = [
    (f.start, f.stop, ('', 'quote', f'{f.message}; the line is left out'))
    for f in block.faults
  ]

  def add(record: int, fault: tuple[str, str, str]) -> None:
    span = block.starts[record], block.stops[record]
    bad.append((int(span[0]), int(span[1]), fault))

  kept = np.arange(len(block.starts))
  if len(kept):
    raw, wrong, faults = _read(block, config)
    for record, message in wrong.items():
      add(record, ('', 'columns', message))
    kept = np.delete(kept, [*wrong])
  else:
    empty = {n: pa.array([], pa.string()) for n in COLUMNS}
    numbers = {n: pa.array([], pa.float64()) for n in config.numeric_columns}
    raw, faults = empty | numbers, _Faults()
  columns, empty_numbers, filled = _typed(raw, config, faults)
  table = pa.table(columns | {ROW: block.numbers()[kept]})
  if faults.of_row:
    is_good = np.ones(table.num_rows, bool)
    is_good[[*faults.of_row]] = False
    table = table.filter(pa.array(is_good))
  for row, fault in faults.of_row.items():
    add(int(kept[row]), fault)
  rows = [
    BadRow(block.line(start), *fault, block.text(start, stop)[:_MAX_TEXT])
    for start, stop, fault in sorted(bad)
  ]
  return Parsed(table, rows, empty_numbers, filled)


def _read(
  block: Block, config: Antm2cConfig
) -> tuple[dict[str, pa.Array], dict[int, str], _Faults]:
  """Returns columns, records with another number of them, and faults.

  Records of a wrong number of columns are not among the columns' rows.
  """
  data = block.records()
  wrong: dict[int, str] = {}

  def skip(row: csv.InvalidRow) -> str:
    wrong[row.number - 1] = (
      f'{row.actual_columns} columns; needed: {row.expected_columns}'
    )
    return 'skip'

  def read(kinds: dict[str, pa.DataType]) -> dict[str, pa.Array]:
    wrong.clear()
    table = csv.read_csv(
      pa.BufferReader(pa.py_buffer(data)),
      csv.ReadOptions(
        use_threads=False, block_size=len(data) + 1, column_names=COLUMNS
      ),
      csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
      csv.ConvertOptions(column_types=kinds, null_values=['']),
    )
    return {n: table[n].combine_chunks() for n in COLUMNS}

  numbers = config.numeric_columns
  kinds = dict.fromkeys(COLUMNS, pa.string())
  try:
    found = read(kinds | dict.fromkeys(numbers, pa.float64()))
    return found, wrong, _Faults()
  except pa.ArrowInvalid:
    # An unreadable number or bytes that are no UTF-8: see which.
    raw = read(dict.fromkeys(COLUMNS, pa.binary()))
  faults = _Faults()
  columns = {
    name: (_numbers if name in numbers else _texts)(name, raw[name], faults)
    for name in COLUMNS
  }
  return columns, wrong, faults


def _texts(name: str, values: pa.BinaryArray, faults: _Faults) -> pa.Array:
  """Decodes a column; what is no UTF-8 is a fault, and ''."""
  try:
    return values.cast(pa.string())
  except pa.ArrowInvalid:
    found = []
    is_bad = np.zeros(len(values), bool)
    for row, value in enumerate(values.to_pylist()):
      try:
        found.append(value.decode('utf-8'))
      except UnicodeDecodeError:
        found.append('')
        is_bad[row] = True
  faults.add(is_bad, name, 'encoding', lambda row: 'bytes that are no UTF-8')
  return pa.array(found, pa.string())


def _numbers(name: str, values: pa.BinaryArray, faults: _Faults) -> pa.Array:
  """Reads a column as pyarrow's CSV reader does; '' is null."""
  coded = values.dictionary_encode()
  texts = coded.dictionary.to_pylist()
  numbers = [_number(text) for text in texts]
  index = coded.indices.to_numpy()
  is_bad = np.array([x is None for x in numbers], bool)[index]
  faults.add(
    is_bad, name, 'cast', lambda row: f'{texts[index[row]]!r} is no number'
  )
  is_empty = np.array([text == b'' for text in texts], bool)[index]
  found = np.array([x or 0.0 for x in numbers], np.float64)[index]
  return pa.array(found, mask=is_empty)


def _number(text: bytes) -> float | None:
  """One number; 0 for an empty text, None for what is none."""
  text = text.strip(b' \t')
  try:
    return pa.scalar(text.decode()).cast(pa.float64()).as_py() if text else 0.0
  except (pa.ArrowInvalid, UnicodeDecodeError):
    return None


def _typed(
  raw: dict[str, pa.Array], config: Antm2cConfig, faults: _Faults
) -> tuple[dict[str, pa.Array | np.ndarray], int, int]:
  """Returns typed columns, and how many numbers and times were filled in."""
  found: dict[str, pa.Array | np.ndarray] = dict(raw)
  for name in ('user_id', 'item_id'):
    is_empty = pc.or_(pc.equal(raw[name], ''), pc.utf8_is_space(raw[name]))
    faults.add(_mask(is_empty), name, 'empty', lambda row: 'no value')
  for name, values in (('label', ('0', '1')), ('scene', config.scenes)):
    is_known = _mask(pc.is_in(raw[name], pa.array(values, pa.string())))
    column = raw[name]
    faults.add(
      ~is_known,
      name,
      'value',
      lambda row: f'{column[row].as_py()!r}; needed: {", ".join(values)}',
    )
  found['label'] = _mask(pc.equal(raw['label'], '1')).astype(np.int8)
  times, is_time = text_times.seconds(raw['log_time'])
  filled = 0
  if config.fill_bad_time:
    times[~is_time] = behavior_examples.moment(config.fill_bad_time)
    filled = int(np.count_nonzero(~is_time))
  else:
    texts = raw['log_time']
    faults.add(
      ~is_time, 'log_time', 'time', lambda row: f'{texts[row].as_py()!r}'
    )
  found['log_time'] = times
  empty = 0
  for name in config.numeric_columns:
    empty += raw[name].null_count
    numbers = pc.fill_null(raw[name], 0.0).to_numpy(zero_copy_only=False)
    faults.add(
      ~(np.abs(numbers) <= _LARGEST),
      name,
      'cast',
      lambda row: f'{numbers[row]} is not finite in float32',
    )
    with np.errstate(over='ignore', invalid='ignore'):
      found[name] = numbers.astype(np.float32)
  return found, empty, filled


def _mask(values: pa.BooleanArray) -> np.ndarray:
  return values.to_numpy(zero_copy_only=False)
