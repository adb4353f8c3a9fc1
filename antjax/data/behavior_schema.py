# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the columns of a log of behaviour mean: a schema file.

The file is JSON or YAML, for example

    columns:                      # of a text file: all, in their order
      user: string
      item: string
      when: int64
      stars: float32
      city: string
      searches: string
    user: user
    item: item
    time: when                    # seconds; left out: the order of the rows
    rating: stars                 # or label: a column of 0 and 1; or neither
    positive_from: 4
    texts: [searches]             # long texts, to be split into behaviours
    ids: [city]
    items:                        # a second table, one row an item
      source: items.parquet
      columns: {asin: string, title: string, shelf: string, price: float32}
      item: asin
      ids: [shelf]
      numeric: [price]
    text: title                   # of the item, in either table
    domain: shelf
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any, Literal

from antjax.data import delimited, table_schema

PAGE = 'docs/behaviors.md'
_LISTS = ('ids', 'numeric', 'texts', 'item_columns')
_NAMES = ('user', 'item', 'time', 'text', 'domain', 'label', 'rating')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableColumns:
  """Columns of one table and the format of its text files.

  Attributes:
    columns: Column -> type; of a text file all of them, in their order.
    used: Those that are read.
    label: Column that must be 0 or 1, '' for none.
    time: Column of numbers that must fit an int64, '' for none.
    numeric: Columns of numbers that must be finite.
    empty: Column of numbers -> what an empty field stands for.
    separator: Columns of lists, see `TableSchema`: none here.
    delimiter: Of a text file.
    header: Whether the first line of a text file names the columns.
    quote: Quote character of a text file, '' for none.
  """

  columns: Mapping[str, delimited.Kind]
  used: list[str]
  label: str = ''
  time: str = ''
  numeric: tuple[str, ...] = ()
  empty: Mapping[str, float] = dataclasses.field(default_factory=dict)
  separator: Mapping[str, str] = dataclasses.field(default_factory=dict)
  delimiter: str = ','
  header: bool = True
  quote: str = '"'

  @property
  def kind(self) -> str:
    """What `table_raw` has to check of the label."""
    return 'click' if self.label else 'none'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemTable:
  """A second table, with one row an item.

  Attributes:
    source: File or folder of files.
    item: Column with the item, as the log names it.
    table: Its columns.
    ids: Categorical features.
    numeric: Numeric features.
  """

  source: str
  item: str
  table: TableColumns
  ids: tuple[str, ...] = ()
  numeric: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviorSchema:
  """Columns of a log and what they are for.

  Attributes:
    name: What the data are called.
    table: Columns of the log.
    user: Column with the user; '' makes every row a user of its own.
    item: Column with the item; '' means that all rows have the same one.
    text: Column with the item's text; '' means `item`.
    time: Column with seconds; '' means the order of the rows.
    domain: Column with the item's domain; '' means one domain.
    label: Column of 0 and 1; '' for none.
    rating: Column of numbers that make the label; '' for none.
    positive_from: Least rating of a label of 1.
    texts: Columns of long texts, each a sequence of its own.
    ids: Categorical features.
    numeric: Numeric features.
    item_columns: Those of `ids` and `numeric` that belong to the item.
    separator: Of items in a field of `item` that lists several of them, in
      time; '' means that a field is an item.
    histories: Which sequences past rows form: one of the positive ones, one
      each of positive and negative, one a domain, or none.
    items: A second table, None for none; its features come after the log's.
  """

  name: str
  table: TableColumns
  user: str = ''
  item: str = ''
  text: str = ''
  time: str = ''
  domain: str = ''
  label: str = ''
  rating: str = ''
  positive_from: float | None = None
  texts: tuple[str, ...] = ()
  ids: tuple[str, ...] = ()
  numeric: tuple[str, ...] = ()
  item_columns: tuple[str, ...] = ()
  separator: str = ''
  histories: Literal['all', 'outcome', 'domain', 'none'] = 'all'
  items: ItemTable | None = None

  def __post_init__(self) -> None:
    kinds = dict(self.table.columns)
    if self.histories not in ('all', 'outcome', 'domain', 'none'):
      self._refuse(
        f'histories={self.histories!r}; needed: all, outcome, domain or none'
      )
    for name, kind in self._kinds().items():
      if kind not in table_schema.KINDS:
        self._refuse(
          f'column {name!r} has the type {kind!r}; needed:'
          f' {", ".join(table_schema.KINDS)}'
        )
    self._check_columns(kinds)
    if self.label and self.rating:
      self._refuse('label and rating: only one of them makes the label')
    if bool(self.rating) != (self.positive_from is not None):
      self._refuse('rating and positive_from are given together')
    if self.histories == 'outcome' and not (self.label or self.rating):
      self._refuse('histories=outcome needs a label or a rating')
    if self.histories == 'domain' and not self.domain:
      self._refuse('histories=domain needs a domain')
    if self.histories == 'none' and not self.texts:
      self._refuse('histories=none and no texts: there is no sequence at all')
    if not self.item and (self.separator or self.items):
      self._refuse('separator and items need an item')
    if self.separator and (self.time or self.label or self.rating):
      self._refuse(
        'with a separator a row holds many events: its columns time, label and'
        ' rating would not say of which'
      )

  def _check_columns(self, kinds: Mapping[str, str]) -> None:
    """Refuses names that are no column, or of another type."""
    log = [self.user, self.item, self.time, self.label, self.rating]
    log += [*self.texts, *self.ids, *self.numeric, *self.item_columns]
    either = [self.text, self.domain]
    for names, known in ((log, kinds), (either, self._kinds())):
      if unknown := [n for n in names if n and n not in known]:
        self._refuse(
          f'{", ".join(map(repr, dict.fromkeys(unknown)))} is no column; the'
          f' columns are {", ".join(known)}'
        )
    items = self.items
    both = [] if items is None else [*items.ids, *items.numeric]
    if items is not None:
      known = items.table.columns
      if unknown := [n for n in (items.item, *both) if n not in known]:
        self._refuse(
          f'{", ".join(map(repr, unknown))} is no column of items; they are'
          f' {", ".join(known)}'
        )
    for name in (*self.numeric, *(items.numeric if items else ())):
      if self._kinds()[name] == 'string':
        self._refuse(f'column {name!r} is text; a number is needed')
    for name in (self.time, self.label, self.rating):
      if name and kinds[name] == 'string':
        self._refuse(f'column {name!r} is text; a number is needed')
    for name in self.texts:
      if kinds[name] != 'string':
        self._refuse(f'column {name!r} is {kinds[name]}; texts are strings')
    if {*self.item_columns} - {*self.ids, *self.numeric}:
      self._refuse('item_columns names columns that are no feature')
    names = [*self.texts, *self.ids, *self.numeric, *both]
    if twice := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
      self._refuse(f'{", ".join(map(repr, twice))} is used more than once')

  def _kinds(self) -> dict[str, str]:
    """Column -> type of both tables; of equal names, the log's."""
    other = {} if self.items is None else dict(self.items.table.columns)
    return {**other, **self.table.columns}

  def _refuse(self, why: str) -> None:
    raise ValueError(f'schema of {self.name}: {why}.')

  @property
  def is_labelled(self) -> bool:
    """Whether the log says what was not liked."""
    return bool(self.label or self.rating)


def load(path: str) -> BehaviorSchema:
  """Reads a schema file, JSON or YAML.

  Raises:
    FileNotFoundError: No such file.
    ValueError: It is neither, or says something that cannot be.
  """
  value = table_schema.read_file(path, PAGE)
  _check_keys(path, value, ('columns',), BehaviorSchema)
  found = table_schema.checked(path, value, lists=_LISTS, names=_NAMES)
  items = found.pop('items', None)
  rest = {**found, 'items': None if items is None else _items(path, items)}
  threshold = rest.get('positive_from')
  if threshold is not None and not isinstance(threshold, (int, float)):
    raise ValueError(f'{path}: positive_from: {threshold!r}; needed: a number.')
  own = [rest[n] for n in _NAMES if rest.get(n)]
  own += [n for name in ('texts', 'ids', 'numeric') for n in rest.get(name, ())]
  table = _columns(rest, own, rest.get('label', ''))
  for name in _LISTS:
    rest[name] = tuple(rest.get(name, ()))
  return BehaviorSchema(
    **{'name': pathlib.Path(path).stem, **rest, 'table': table}
  )


def _check_keys(
  path: str, value: Any, needed: tuple[str, ...], kind: type
) -> None:
  """Raises ValueError where an entry is lacking or not known."""
  if not isinstance(value, dict) or not all(value.get(n) for n in needed):
    raise ValueError(f'{path}: needed: {", ".join(needed)}; {PAGE} shows them.')
  known = {f.name for f in dataclasses.fields(kind)} - {'table'}
  known |= {'columns', 'delimiter', 'header', 'quote'}
  if unknown := sorted({*map(str, value)} - known):
    raise ValueError(
      f'{path}: unknown: {", ".join(unknown)}; known:'
      f' {", ".join(sorted(known))}.'
    )


def _items(path: str, value: Any) -> ItemTable:
  """The entry `items`; its source is beside the schema file."""
  where = f'{path}: items'
  _check_keys(where, value, ('source', 'columns', 'item'), ItemTable)
  found = table_schema.checked(
    where, value, lists=('ids', 'numeric'), names=('item', 'source')
  )
  numeric = tuple(found.get('numeric', ()))
  # All columns are read: text and domain may be among them.
  table = _columns(found, list(found['columns']))
  return ItemTable(
    source=str(pathlib.Path(path).parent / found['source']),
    item=found['item'],
    table=dataclasses.replace(table, numeric=numeric),
    ids=tuple(found.get('ids', ())),
    numeric=numeric,
  )


def _columns(
  found: dict[str, Any], used: list[str], label: str = ''
) -> TableColumns:
  """Takes what is about one table out of the entries of a file."""
  kinds, empty = table_schema.kinds_and_empty(found.pop('columns'))
  form = {
    name: found.pop(name)
    for name in ('delimiter', 'header', 'quote')
    if name in found
  }
  return TableColumns(
    columns=kinds,
    used=[n for n in dict.fromkeys(used) if n in kinds],
    label=label,
    time=found.get('time', ''),
    numeric=tuple(found.get('numeric', ())),
    empty=empty,
    **form,
  )
