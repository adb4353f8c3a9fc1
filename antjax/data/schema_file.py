# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a schema file, JSON or YAML."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import yaml

from antjax.data.schema import Schema, SPLITS, STATES
from antjax.data.table_columns import ItemTable

PAGE = 'docs/data.md'
_LISTS = (
  'ids numeric texts labels log item_columns ignore history_names nulls'
).split()
_BY_SPLIT = ('split_values', 'files', 'lists')
_NAMES = 'user item time text title domain label rating task split'.split()
_OF_A_COLUMN = ('type', 'empty', 'separator')


def make(
  columns: Mapping[str, Any],
  *,
  ids: Sequence[str] | None = None,
  numeric: Sequence[str] | None = None,
  ignore: Sequence[str] = (),
  **rest: Any,
) -> Schema:
  """Makes a schema, with features by the types of columns.

  A column has a type, or {'type': type, 'empty': number or None, 'separator':
  text}, the latter two where they apply. Where neither a user nor an item is
  named, columns that are for nothing else, nor in `ignore`, are features:
  floats numeric ones, all others categories. `ids` and `numeric` are instead of
  those by type; `rest` are further fields.

  Raises:
    ValueError: A column is not there, of a wrong type, or used twice.
  """
  parted = _parted(columns)
  kinds = parted['columns']
  one = ('time', 'label', 'rating', 'text', 'title', 'domain', 'split')
  taken = {rest.get(name) for name in one} | {*ignore}
  taken |= {*rest.get('texts', ()), *rest.get('labels', ())}
  is_plain = not (rest.get('user') or rest.get('item'))
  left = [c for c in kinds if is_plain and c not in taken]
  if numeric is None:
    is_float = [str(kinds[c]).startswith('float') for c in left]
    numeric = [c for c, is_it in zip(left, is_float) if is_it]
    numeric = [c for c in numeric if c not in (ids or ())]
  if ids is None:
    ids = [c for c in left if c not in numeric]
  lists: dict[str, Any] = {'ids': ids, 'numeric': numeric}
  lists |= {name: rest.pop(name) for name in _LISTS if name in rest}
  rest |= {name: tuple(names) for name, names in lists.items()}
  return Schema(**parted, **rest)


def _parted(columns: Mapping[str, Any]) -> dict[str, Any]:
  """Parts what is said of each column in columns, empty and separator."""
  found: dict[str, Any] = {'columns': {}, 'empty': {}, 'separator': {}}
  for column, entry in columns.items():
    entry = entry if isinstance(entry, Mapping) else {'type': entry}
    found['columns'][column] = entry.get('type', 'string')
    if 'empty' in entry:
      number = entry['empty']
      found['empty'][column] = None if number is None else float(number)
    if 'separator' in entry:
      found['separator'][column] = str(entry['separator'])
  return found


def load(path: str) -> Schema:
  """Reads a schema file, JSON or YAML.

  Raises:
    FileNotFoundError: No such file.
    ValueError: It is neither, or says something that cannot be.
  """
  found = _checked(path, _read(path), Schema, ('columns',), _LISTS, _NAMES)
  items = found.pop('items', None)
  threshold = found.get('positive_from')
  if threshold is not None and not isinstance(threshold, (int, float)):
    raise ValueError(f'{path}: positive_from: {threshold!r}; needed: a number.')
  for name in _BY_SPLIT:
    if name in found:
      found[name] = _by_split(f'{path}: {name}', found[name])
  if items is not None:
    found['items'] = _items(path, items)
  return make(**{'name': pathlib.Path(path).stem, **found})


def _by_split(where: str, value: Any) -> dict[str, tuple[str, ...]]:
  """Split -> what a schema file gives it, one thing or a list."""
  found: dict[str, tuple[str, ...]] = {}
  for name, given in value.items() if isinstance(value, dict) else ():
    split = 'validation' if name in ('valid', 'val') else str(name)
    listed = given if isinstance(given, list) else [given]
    if not listed or not all(isinstance(x, (str, int)) for x in listed):
      raise ValueError(f'{where}: {name}: {given!r}; needed: names.')
    found[split] = (*found.get(split, ()), *map(str, listed))
  every = [x for given in found.values() for x in given]
  if 'train' not in found or not {*found} <= {*SPLITS, *STATES}:
    raise ValueError(
      f'{where}: {value!r}; needed: of train, and of valid, test,'
      f' {", ".join(STATES)}, one name or a list.'
    )
  if twice := sorted({x for x in every if every.count(x) > 1}):
    raise ValueError(f'{where}: {", ".join(twice)} is given more than once.')
  return {name: found[name] for name in SPLITS + STATES if name in found}


def _items(path: str, value: Any) -> ItemTable:
  """The entry `items`; its source is beside the schema file."""
  lists = ('ids', 'numeric', 'nulls')
  needed = ('source', 'columns', 'item')
  found = _checked(
    f'{path}: items', value, ItemTable, needed, lists, ('item', 'source')
  )
  found |= _parted(found.pop('columns'))
  found |= {name: tuple(found.get(name, ())) for name in lists}
  found['source'] = str(pathlib.Path(path).parent / found['source'])
  return ItemTable(**found)


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


def _read(path: str) -> Any:
  """Returns what a JSON or YAML file holds."""
  file = pathlib.Path(path)
  if not file.is_file():
    raise FileNotFoundError(
      f'schema={path!r} is no file; {PAGE} shows what it holds.'
    )
  try:
    loader = _Loader(file.read_text(encoding='utf-8'))  # JSON too.
    loader.name = path
    return loader.get_single_data()
  except (yaml.YAMLError, UnicodeDecodeError) as e:
    text = ' '.join(str(e).split())
    raise ValueError(f'{path} is neither JSON nor YAML ({text}).') from e


def _checked(
  path: str,
  value: Any,
  kind: type,
  needed: Sequence[str],
  lists: Sequence[str],
  names: Sequence[str],
) -> dict[str, Any]:
  """The entries of a file; names that YAML took for numbers are texts again.

  Raises ValueError where an entry is lacking, unknown or not what it must be.
  """
  if not isinstance(value, dict) or not all(value.get(n) for n in needed):
    raise ValueError(f'{path}: needed: {", ".join(needed)}; {PAGE} shows them.')
  known = {f.name for f in dataclasses.fields(kind)} - {'empty', 'separator'}
  known |= {'ignore'} if kind is Schema else set()
  if unknown := sorted({*map(str, value)} - known):
    raise ValueError(
      f'{path}: unknown: {", ".join(unknown)}; known:'
      f' {", ".join(sorted(known))}.'
    )

  def need(name: str, what: str, is_met: bool) -> None:
    if not is_met:
      raise ValueError(f'{path}: {name}: {value.get(name)!r}; needed: {what}.')

  columns = value['columns']
  need('columns', 'column: type, one a line', isinstance(columns, dict))
  what = f'of a column, only {", ".join(_OF_A_COLUMN)}'
  for entry in columns.values():
    if isinstance(entry, dict):
      number, separator = entry.get('empty', 0), entry.get('separator', '')
      is_number = number is None or isinstance(number, (int, float))
      need('columns', 'numbers or null as empty', is_number)
      need('columns', what, {*entry} <= {*_OF_A_COLUMN})
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
  mark = value.get('delimiter', ',')
  need(
    'delimiter', 'one character or more', isinstance(mark, str) and mark != ''
  )
  mark = value.get('quote', '')
  need('quote', 'one character', isinstance(mark, str) and len(mark) <= 1)
  encoding = value.get('encoding', 'utf-8')
  need('encoding', 'utf-8 or latin-1', encoding in ('utf-8', 'latin-1'))
  for name in ('header', 'liked_only'):
    need(name, 'true or false', isinstance(value.get(name, True), bool))
  return found
