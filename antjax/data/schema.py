# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the columns of a data set mean: the one schema file of all views.

The file is JSON or YAML; `docs/data.md` shows one and lists the entries.
`schema_file` reads it.
"""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Literal

from antjax.data.table_columns import ItemTable, Kind, LIMIT, TableColumns

# Times with fractions are cut to int64 later on.
_TIME_LIMIT = 2.0**63
# Columns of our own, such as the number of a row, begin so.
OWN = '__'
SPLITS = ('train', 'validation', 'test')
# Parts of a test, by whether training has the task and the item.
STATES = ('warm', 'user_cold', 'item_cold', 'both_cold')
# Values of a column of splits, where the schema does not name its own.
_SPLIT_VALUES = {
  'train': ('train',),
  'validation': ('validation', 'valid', 'val'),
  'test': ('test',),
  **{state: (state,) for state in STATES},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(TableColumns):
  """Columns of a log, one row an event, and what they are for.

  A column that is named here may be one of the table of items where the text
  says so.
  """

  name: str = 'table'  # Name of the data.
  user: str = ''  # Column with the user; '' makes every row a user of its own.
  # Column with the item; '' means that all rows have the same one. With a
  # separator a row lists several of them, in time.
  item: str = ''
  # Column of numbers that orders the rows, in seconds; '' means the order of
  # the rows.
  time: str = ''
  # Column with the item's text, perhaps of the items; '' means `item`.
  text: str = ''
  # Column with the item's title in sequences, perhaps of the items; '' means
  # `text`.
  title: str = ''
  # Column with the item's domain, perhaps of the items; '' means one domain.
  domain: str = ''
  label: str = ''  # Column of 0 and 1; '' for none.
  # Further columns of 0 and 1, of which models of several tasks learn too.
  labels: tuple[str, ...] = ()
  rating: str = ''  # Column of numbers that make the label; '' for none.
  positive_from: float | None = None  # Least rating of a label of 1.
  task: str = ''  # Column whose values are the tasks; '' means `user`.
  # Column with the split of a row, in data that come split; '' for none.
  split: str = ''
  # Split -> values of that column, in their form as text; empty: its name, or
  # valid or val.
  split_values: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )
  # Split -> names or patterns of its files in the source, instead of such a
  # column; empty: all files are one log.
  files: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  # Split -> files beside the log that list its pairs of user and item, instead
  # of either; events in no list are left out.
  lists: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  # Columns of long texts, each a sequence of its own.
  texts: tuple[str, ...] = ()
  # Columns of categorical features, beside user and item.
  ids: tuple[str, ...] = ()
  # Numeric columns x that become sign(x) log(1 + |x|).
  log: tuple[str, ...] = ()
  # Columns of `ids` and `numeric` that belong to the item.
  item_columns: tuple[str, ...] = ()
  # Which sequences past rows form: one of the positive ones, one each of
  # positive and negative, one a domain, or none.
  histories: Literal['all', 'outcome', 'domain', 'none'] = 'all'
  # Names of these sequences; () means 'history', or 'positive' and 'negative',
  # or the domains.
  history_names: tuple[str, ...] = ()
  # Whether only what was liked makes a sequence of a user.
  liked_only: bool = True
  # A second table, None for none; its features come after the log's.
  items: ItemTable | None = None

  def __post_init__(self) -> None:
    checks = (
      self._wrong,
      *((self.items._wrong,) if self.items else ()),
      self._unknown_columns,
      self._wrong_types,
      self._wrong_names,
      self._wrong_lists,
      self._wrong_roles,
    )
    for check in checks:
      for why in check():
        raise ValueError(f'schema of {self.name}: {why}.')

  # What a column is for.

  @property
  def label_column(self) -> str:
    """Column that makes the label; '' for none."""
    return self.label or self.rating

  @property
  def label_names(self) -> tuple[str, ...]:
    """What examples have labels of, the main one first."""
    return (self.label_column or 'label', *self.labels)

  @property
  def task_column(self) -> str:
    """Column whose values are the tasks; '' for none."""
    return self.task or self.user

  @property
  def split_column(self) -> str:
    """Column of the rows with their split; '' for none."""
    return f'{OWN}split' if self.files or self.lists else self.split

  @property
  def split_of(self) -> dict[str, str]:
    """Value of the column `split` -> the split."""
    given = self.split_values or _SPLIT_VALUES
    return {value: split for split, found in given.items() for value in found}

  @property
  def features(self) -> tuple[str, ...]:
    """Columns of the log that become ids: user, item and categories."""
    names = (self.user, self.item, *self.ids)
    return tuple(dict.fromkeys(filter(None, names)))

  @property
  def all_ids(self) -> tuple[str, ...]:
    """Categorical features of both tables."""
    return self.ids + (self.items.ids if self.items else ())

  @property
  def all_numeric(self) -> tuple[str, ...]:
    """Numeric features of both tables."""
    return self.numeric + (self.items.numeric if self.items else ())

  @property
  def all_item_columns(self) -> tuple[str, ...]:
    """Features that belong to the item."""
    items = self.items
    return self.item_columns + (items.ids + items.numeric if items else ())

  @property
  def used(self) -> list[str]:
    """Columns of the log that are read."""
    names = [*self._single, self.text, self.title, self.domain]
    names += [*self.texts, *self.ids, *self.numeric, *self.labels]
    return [n for n in dict.fromkeys(names) if n in self.columns]

  @property
  def needed(self) -> list[str]:
    """Columns that must not be blank."""
    return [n for n in (self.user, self.item) if n]

  @property
  def limits(self) -> dict[str, float]:
    """Columns whose numbers must be below a limit in size."""
    names = [n for n in (*self.numeric, self.rating) if n not in self.log]
    return dict.fromkeys(names, LIMIT) | {self.time: _TIME_LIMIT}

  @property
  def _single(self) -> list[str]:
    """Columns of the log that are one thing each."""
    names = (self.user, self.item, self.time, self.label, self.rating)
    return [n for n in (*names, self.task, self.split) if n]

  def kind_of(self, column: str) -> Kind:
    """Type of a column of either table; of equal names, the log's."""
    if column in self.columns or self.items is None:
      return self.columns[column]
    return self.items.columns[column]

  # What cannot be.

  def _unknown_columns(self) -> Iterator[str]:
    items = self.items
    log = [*self._single, *self.texts, *self.ids, *self.numeric]
    log += [*self.labels, *self.log, *self.item_columns]
    log += [*self.empty, *self.separator]
    other = items.columns if items else {}
    both = {**other, **self.columns}
    either = [self.text, self.title, self.domain]
    of_items = [items.item, *items.ids, *items.numeric] if items else []
    for names, known, what in (
      (log, self.columns, 'column; the columns are'),
      (either, both, 'column; the columns are'),
      (of_items, other, 'column of items; they are'),
    ):
      if unknown := [n for n in names if n and n not in known]:
        yield (
          f'{", ".join(map(repr, dict.fromkeys(unknown)))} is no {what}'
          f' {", ".join(known)}'
        )

  def _wrong_types(self) -> Iterator[str]:
    numbers = (self.label, *self.labels, self.rating, *self.all_numeric)
    for name in (*numbers, self.time):
      if name and self.kind_of(name) == 'string':
        more = ', or the type time, which reads ISO 8601' * (name == self.time)
        yield f'column {name!r} is text; a number is needed{more}'
    for name in self.texts:
      if self.columns[name] != 'string':
        yield f'column {name!r} is {self.columns[name]}; texts are strings'

  def _wrong_names(self) -> Iterator[str]:
    items = self.items
    of_items = [*items.ids, *items.numeric] if items else []
    names = [*self.texts, *self.ids, *self.numeric, *of_items]
    names += [n for n in {*self.used} & {*of_items} if names.count(n) < 2]
    every = [*names, *self.labels]
    if twice := [n for n in dict.fromkeys(every) if every.count(n) > 1]:
      yield f'{", ".join(map(repr, twice))} is used more than once'
    label = {self.label, *self.labels, self.rating} - {''}
    if wrong := sorted(label & {*self.features, *names}):
      yield (
        'a column is a feature, or numeric, or the label; more than one of'
        f' them: {", ".join(wrong)}'
      )
    names = [*self.used, *(items.used if items else ())]
    if own := [n for n in names if n.startswith(OWN)]:
      yield f'{", ".join(own)} is the name of a field of our own; rename it'

  def _wrong_lists(self) -> Iterator[str]:
    for name in (n for n in self.separator if n in self.used):
      is_text = self.columns[name] == 'string'
      is_one = name in (self.user, self.task_column)
      if not is_text or is_one or name not in self.features:
        yield (
          f'column {name!r} has a separator; only a feature of the type string'
          ' that is not the task may have many values'
        )
    if self.items and self.items.separator:
      yield 'a column of items has a separator; it has one value a row'
    if self.item in self.separator and (self.time or self.label_column):
      yield (
        'with a separator of the item a row holds many events: its columns'
        ' time, label and rating would not say of which'
      )

  def _wrong_roles(self) -> Iterator[str]:
    if self.histories not in ('all', 'outcome', 'domain', 'none'):
      yield (
        f'histories={self.histories!r}; needed: all, outcome, domain or none'
      )
    if self.label and self.rating:
      yield 'label and rating: only one of them makes the label'
    if self.labels and self.label_column in ('', *self.labels):
      yield 'labels are further ones: name the first as label or rating'
    if self.positive_from is not None and not self.rating:
      yield 'positive_from is of a rating; name its column'
    if self.histories == 'outcome' and not self.label_column:
      yield 'histories=outcome needs a label or a rating'
    if self.histories == 'domain' and not self.domain:
      yield 'histories=domain needs a domain'
    needed = {'all': 1, 'outcome': 2}.get(self.histories, 0)
    if self.history_names and len(self.history_names) != needed:
      yield (
        f'history_names={self.history_names}: histories={self.histories} needs'
        f' {needed} of them'
      )
    if self.histories == 'none' and not self.texts:
      yield 'histories=none and no texts: there is no sequence at all'
    if self.items and not self.item:
      yield 'items need an item'
    given = [n for n in ('files', 'lists', 'split') if getattr(self, n)]
    if len(given) > 1:
      yield f'{" and ".join(given)} both say the split of a row; keep one'
    if self.lists and not (self.user and self.item):
      yield 'lists are of users and items; name the columns of both'
    if self.split_values and not self.split:
      yield 'split_values are of a split; name its column'
    if {*self.log} - {*self.numeric}:
      yield 'log names columns that are not numeric'
    if {*self.item_columns} - {*self.ids, *self.numeric}:
      yield 'item_columns names columns that are no feature'
