# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is said of the columns of any table, and of that of the items."""

from collections.abc import Iterator, Mapping
import dataclasses
import math
from typing import ClassVar, get_args, Literal

import numpy as np

Kind = Literal['int32', 'int64', 'float32', 'float64', 'string', 'time']
KINDS = get_args(Kind)
# Numbers become float32.
LIMIT = float(np.nextafter(float(np.finfo(np.float32).max), np.inf))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableColumns:
  """Columns of one table, and the format of its text files."""

  # Column -> type; of a text file all of them, in their order.
  columns: Mapping[str, Kind]
  numeric: tuple[str, ...] = ()  # Columns of numeric features.
  # Column of numbers -> the value of an empty field; None: of a numeric
  # feature, that it is missing.
  empty: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
  # Column with many values in a row -> the text between them in a text; Parquet
  # files may have lists of texts or integers instead. Its values are texts.
  separator: Mapping[str, str] = dataclasses.field(default_factory=dict)
  delimiter: str = ','  # Delimiter of a text file.
  # Whether the first line of a text file names the columns.
  header: bool = True
  quote: str = '"'  # Quote character of a text file, '' for none.
  encoding: Literal['utf-8', 'latin-1'] = 'utf-8'  # Encoding of a text file.
  nulls: tuple[str, ...] = ()  # Texts that stand for an empty field.

  @property
  def used(self) -> list[str]:
    """Columns that are read."""
    return list(self.columns)

  def _wrong(self) -> Iterator[str]:
    """Says what is wrong with the columns, whatever they are for."""
    for name, kind in self.columns.items():
      if kind not in KINDS:
        yield (
          f'column {name!r} has the type {kind!r}; needed: {", ".join(KINDS)}'
        )
    for name, number in self.empty.items():
      kind = self.columns.get(name, 'string')
      if number is None:
        is_feature = name in self.numeric or name not in self.used
        if not kind.startswith('float') or not is_feature:
          yield (
            f'only a numeric feature of floats may be missing, not the {kind}'
            f' {name!r}; give the number that empty stands for'
          )
        continue
      fits = math.isfinite(number) and kind != 'string'
      if not fits or (kind.startswith('int') and number != int(number)):
        yield (
          f'{number:g} cannot stand for an empty field of the {kind} {name!r}'
        )
    seen: dict[str, str] = {}
    for name in self.columns:
      other = seen.setdefault(name.lower(), name)
      if other != name:
        yield f'the columns {other} and {name} differ in case only; rename one'
    for name, separator in self.separator.items():
      if not separator:
        yield f'the separator of {name!r} is empty'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemTable(TableColumns):
  """A second table, with one row an item; all of its columns are read."""

  source: str  # File or folder of files.
  item: str  # Column with the item, as the log names it.
  ids: tuple[str, ...] = ()  # Categorical features.

  label = split_column = ''
  labels = ()
  lists: ClassVar[Mapping[str, tuple[str, ...]]] = {}
  files: ClassVar[Mapping[str, tuple[str, ...]]] = {}

  @property
  def needed(self) -> list[str]:
    """Columns that must not be blank."""
    return [self.item]

  @property
  def limits(self) -> dict[str, float]:
    """Columns whose numbers must be below a limit in size."""
    return dict.fromkeys(self.numeric, LIMIT)
