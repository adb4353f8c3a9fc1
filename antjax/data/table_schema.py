# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the columns of a table of labelled rows mean: a schema file.

The file is JSON or YAML, for example

    kind: click                     # the label is 0 or 1; or rating
    label: clicked
    task: user                      # rows of one user are a task
    time: when                      # a number; left out: the order of the rows
    columns:                        # of a text file: all, in their order
      user: string
      item: string
      price: {type: float32, empty: 0}
      tags: {type: string, separator: '|'}   # many values; in Parquet, a list
      clicked: int32
      when: int64
    numeric: [price]                # left out: all columns of floats
    features: [user, item, tags]    # left out: all other columns
    log: [price]                    # x becomes sign(x) log(1 + |x|)
    delimiter: ','
    header: true
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any, get_args, Literal

import yaml

from antjax.data import delimited

KINDS = get_args(delimited.Kind)
# Fields of a record beside those of the table. Engines do not tell names apart
# by case, and columns of intermediate tables begin with two underscores.
RESERVED = ('task', 'timestamp', 'num_query', 'first_row', 'num_rows')
_OWN = '__'


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSchema:
  """Columns of a table and what they are for.

  Attributes:
    columns: Column -> type; of a text file all of them, in their order.
    label: Column with the label.
    task: Column whose values are the tasks; it is a feature too, unless
      `features` leaves it out.
    kind: 'click', with labels 0 and 1, or 'rating'.
    time: Column of numbers that orders the rows of a task; '' means the order
      of the rows.
    features: Columns whose values become ids.
    numeric: Columns of numbers that stay numbers.
    empty: Column of numbers -> what an empty field stands for.
    separator: Feature with many values in a row -> what stands between them in
      a text; Parquet files may have lists of texts or integers instead. Its
      values are texts.
    log: Numeric columns x that become sign(x) log(1 + |x|).
    delimiter: Of a text file.
    header: Whether the first line of a text file names the columns.
    quote: Quote character of a text file, '' for none.
    name: What the data are called.
  """

  columns: Mapping[str, delimited.Kind]
  label: str
  task: str
  kind: Literal['click', 'rating'] = 'click'
  time: str = ''
  features: tuple[str, ...] = ()
  numeric: tuple[str, ...] = ()
  empty: Mapping[str, float] = dataclasses.field(default_factory=dict)
  separator: Mapping[str, str] = dataclasses.field(default_factory=dict)
  log: tuple[str, ...] = ()
  delimiter: str = ','
  header: bool = True
  quote: str = '"'
  name: str = 'table'

  def __post_init__(self) -> None:
    if self.kind not in ('click', 'rating'):
      self._refuse(f"kind={self.kind!r}; needed: 'click' or 'rating'")
    for name, kind in self.columns.items():
      if kind not in KINDS:
        self._refuse(
          f'column {name!r} has the type {kind!r}; needed: {", ".join(KINDS)}'
        )
    used = [self.label, self.task, *self.features, *self.numeric]
    used += [*self.log, *self.empty, *self.separator]
    used += filter(None, [self.time])
    if unknown := [name for name in used if name not in self.columns]:
      self._refuse(
        f'{", ".join(map(repr, dict.fromkeys(unknown)))} is no column; the'
        f' columns are {", ".join(self.columns)}'
      )
    for name in (self.label, *self.numeric, *filter(None, [self.time])):
      if self.columns[name] == 'string':
        self._refuse(f'column {name!r} is text; a number is needed')
    if self.columns[self.task].startswith('float'):
      self._refuse(
        f'the task {self.task!r} is a {self.columns[self.task]}; text or an'
        ' integer is needed, as engines write floats in several ways'
      )
    for name, number in self.empty.items():
      kind = self.columns[name]
      fits = math.isfinite(number) and kind != 'string'
      if not fits or (kind.startswith('int') and number != int(number)):
        self._refuse(
          f'{number:g} cannot stand for an empty field of the {kind} {name!r}'
        )
    both = {*self.features} & {*self.numeric}
    if both or self.label in (*self.features, *self.numeric):
      self._refuse(
        'a column is a feature, or numeric, or the label; more than one of'
        f' them: {", ".join(sorted(both) or [self.label])}'
      )
    if not self.features:
      self._refuse('no column is a feature')
    self._check_separators()
    self._check_names()
    if {*self.log} - {*self.numeric}:
      self._refuse('log names columns that are not numeric')

  def _check_separators(self) -> None:
    for name, separator in self.separator.items():
      is_text = self.columns[name] == 'string'
      if not is_text or name not in self.features or name == self.task:
        self._refuse(
          f'column {name!r} has a separator; only a feature of the type string'
          ' that is not the task may have many values'
        )
      if not separator:
        self._refuse(f'the separator of {name!r} is empty')

  def _check_names(self) -> None:
    fields = [self.label, *self.features, *self.numeric]
    taken = [name for name in fields if name.lower() in RESERVED]
    # Files of ids have the columns (feature, id).
    taken += [name for name in self.features if name.lower() == 'id']
    taken += [name for name in self.used if name.startswith(_OWN)]
    if taken:
      self._refuse(
        f'{", ".join(taken)} is the name of a field of our own; rename it'
      )
    seen: dict[str, str] = {}
    for name in self.columns:
      other = seen.setdefault(name.lower(), name)
      if other != name:
        self._refuse(
          f'the columns {other} and {name} differ in case only; rename one'
        )

  def _refuse(self, why: str) -> None:
    raise ValueError(f'schema of {self.name}: {why}.')

  @property
  def used(self) -> list[str]:
    """Columns that end up in records."""
    names = [self.label, self.task, *self.features, *self.numeric]
    return list(dict.fromkeys([*names, *filter(None, [self.time])]))


def make(
  columns: Mapping[str, Any],
  *,
  label: str,
  task: str,
  features: Sequence[str] | None = None,
  numeric: Sequence[str] | None = None,
  log: Sequence[str] = (),
  ignore: Sequence[str] = (),
  time: str = '',
  **rest: Any,
) -> TableSchema:
  """Makes a schema, with features and numeric columns by their types.

  Args:
    columns: Column -> type, or {'type': type, 'empty': number,
      'separator': text}, the latter two where they apply.
    label: See `TableSchema`.
    task: See `TableSchema`.
    features: None means all that are neither label, time, numeric nor ignored.
    numeric: None means all floats but label, time and ignored ones.
    log: See `TableSchema`.
    ignore: Columns to leave out by default.
    time: See `TableSchema`.
    **rest: Further fields of `TableSchema`.

  Raises:
    ValueError: A column is not there, of a wrong type, or used twice.
  """
  kinds, empty = kinds_and_empty(columns)
  left = [c for c in kinds if c not in (label, time, *ignore)]
  if numeric is None:
    numeric = [
      c
      for c in left
      if str(kinds[c]).startswith('float') and c not in (features or ())
    ]
  if features is None:
    features = [c for c in left if c not in numeric]
  return TableSchema(
    columns=kinds,
    label=label,
    task=task,
    features=tuple(features),
    numeric=tuple(numeric),
    log=tuple(log),
    time=time,
    empty=empty,
    separator=separators(columns),
    **rest,
  )


def kinds_and_empty(
  columns: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, float]]:
  """Parts column -> type, or {'type': type, 'empty': number}, in two maps."""
  kinds: dict[str, Any] = {}
  empty: dict[str, float] = {}
  for column, entry in columns.items():
    if isinstance(entry, Mapping):
      kinds[column] = entry.get('type', 'string')
      if 'empty' in entry:
        empty[column] = float(entry['empty'])
    else:
      kinds[column] = entry
  return kinds, empty


def separators(columns: Mapping[str, Any]) -> dict[str, str]:
  """Returns column -> separator of the columns that have one."""
  return {
    column: str(entry['separator'])
    for column, entry in columns.items()
    if isinstance(entry, Mapping) and 'separator' in entry
  }


def load(path: str) -> TableSchema:
  """Reads a schema file, JSON or YAML.

  Raises:
    FileNotFoundError: No such file.
    ValueError: It is neither, or says something that cannot be.
  """
  value = read_file(path, 'docs/data.md')
  needed = ('columns', 'label', 'task')
  if not isinstance(value, dict) or not all(value.get(n) for n in needed):
    raise ValueError(
      f'{path}: needed: columns, label and task; docs/data.md shows them.'
    )
  known = {f.name for f in dataclasses.fields(TableSchema)}
  known -= {'empty', 'separator'}
  if unknown := sorted(map(str, {*value} - known - {'ignore'})):
    raise ValueError(
      f'{path}: unknown: {", ".join(unknown)}; known: ignore,'
      f' {", ".join(sorted(known))}.'
    )
  found = checked(
    path,
    value,
    lists=('features', 'numeric', 'log', 'ignore'),
    names=('label', 'task', 'time'),
    entries=('type', 'empty', 'separator'),
  )
  return make(**{'name': pathlib.Path(path).stem, **found})


class _Loader(yaml.SafeLoader):
  """Refuses a key that comes twice, of which the last would win."""

  def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
    node = super().compose_mapping_node(anchor)
    lines: dict[str, int] = {}
    for key, _ in node.value:
      line = key.start_mark.line + 1
      if isinstance(key, yaml.ScalarNode) and key.value in lines:
        raise ValueError(
          f'{self.name}: {key.value!r} is in line {lines[key.value]} and again'
          f' in line {line}; needed: each name once. Remove or rename one.'
        )
      if isinstance(key, yaml.ScalarNode):
        lines[key.value] = line
    return node


def read_file(path: str, page: str) -> Any:
  """Returns what a JSON or YAML file holds.

  Args:
    path: The file.
    page: Page of the documentation that says what it must hold.

  Raises:
    FileNotFoundError: No such file.
    ValueError: It is neither, or names something twice.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise FileNotFoundError(
      f'schema={path!r} is no file; {page} shows what it holds.'
    )
  try:
    loader = _Loader(file.read_text(encoding='utf-8'))  # JSON too.
    loader.name = path
    return loader.get_single_data()
  except (yaml.YAMLError, UnicodeDecodeError) as e:
    text = ' '.join(str(e).split())
    raise ValueError(f'{path} is neither JSON nor YAML ({text}).') from e


def checked(
  path: str,
  value: Mapping[str, Any],
  *,
  lists: Sequence[str],
  names: Sequence[str],
  entries: Sequence[str] = ('type', 'empty'),
) -> dict[str, Any]:
  """The entries of a file; names that YAML took for numbers are texts again.

  Args:
    path: The file, for errors.
    value: Its content, with `columns`.
    lists: Entries that are lists of columns.
    names: Entries that are a column.
    entries: What may be said of a column.

  Raises:
    ValueError: An entry is not what it must be.
  """

  def need(name: str, what: str, is_met: bool) -> None:
    if not is_met:
      raise ValueError(f'{path}: {name}: {value.get(name)!r}; needed: {what}.')

  columns = value['columns']
  need('columns', 'column: type, one a line', isinstance(columns, dict))
  for entry in columns.values():
    number = entry.get('empty', 0) if isinstance(entry, dict) else 0
    need('columns', 'numbers as empty', isinstance(number, (int, float)))
    if isinstance(entry, dict):
      what = f'of a column, only {", ".join(entries)}'
      need('columns', what, {*entry} <= {*entries})
      separator = entry.get('separator', '')
      need('columns', 'texts as separator', isinstance(separator, str))
  found = {**value, 'columns': {str(k): v for k, v in columns.items()}}
  for name in lists:
    if name in value:
      need(name, 'a list of columns', isinstance(value[name], list))
      found[name] = [str(x) for x in value[name]]
  for name in names:
    if name in value:
      need(name, 'a column', isinstance(value[name], (str, int)))
      found[name] = str(value[name])
  for name, least in (('delimiter', 1), ('quote', 0)):
    mark = value.get(name, ',')
    is_mark = isinstance(mark, str) and least <= len(mark) <= 1
    need(name, 'one character', is_mark)
  need('header', 'true or false', isinstance(value.get('header', True), bool))
  return found
