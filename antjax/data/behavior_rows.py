# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events as the rows that examples are made of, whatever their schema."""

import dataclasses
import re

from absl import logging
import ibis
from ibis.expr import types as ir

from antjax.data.events import Events
from antjax.data.schema import Schema

_MAX_DOMAINS = 32  # Each is a sequence of its own.
PART = '\x1f'  # Between values: no text has a control character.


@dataclasses.dataclass(frozen=True)
class RowLayout:
  """Columns of rows beside user, item, time, row, text and label."""

  # Values of the column `history`: the sequence an event joins.
  histories: tuple[str, ...]
  # Names of long texts, in the columns text_0, text_1, ...
  texts: tuple[str, ...]
  # Names of features with many values; their columns follow those of the texts,
  # the values parted by `PART`.
  bags: tuple[str, ...]
  ids: tuple[str, ...]  # Names of categorical features, text columns id_0, ...
  # Names of numeric features, float columns numeric_0, ...
  numeric: tuple[str, ...]
  labels: tuple[str, ...]  # Names of further labels, float columns label_0, ...
  # Those of `ids` and `numeric` that belong to the item.
  item_columns: tuple[str, ...]
  has_time: bool  # Whether times order the rows; else their place does.
  # Without labels all rows are positive and negatives are drawn.
  is_labelled: bool

  @property
  def parted(self) -> tuple[str, ...]:
    """Sequences of an event's own: its long texts and its bags."""
    return self.texts + self.bags

  @property
  def columns_of_item(self) -> list[str]:
    """Columns of the features that belong to the item."""
    return [
      f'{kind}_{i}'
      for kind, names in (('id', self.ids), ('numeric', self.numeric))
      for i, name in enumerate(names)
      if name in self.item_columns
    ]


def of_events(events: Events) -> tuple[ir.Table, RowLayout]:
  """Returns the rows of examples, and what they hold.

  Returns:
    row int64, user, item, domain, history, text, time int64, label float32, and
    the columns of the layout.
  """
  schema, table = events.schema, events.joined()
  lists = [n for n in schema.ids if table[n].type().is_array()]
  ids = tuple(n for n in schema.all_ids if n not in lists)
  # Those of a drawn item are not at hand.
  left = {*schema.item_columns} if not schema.label_column else set()
  bags = tuple(n for n in lists if n not in left)
  if left := left & {*lists}:
    logging.warning(
      '%s: without a label, examples leave out what has many values and belongs'
      ' to the item: %s.',
      schema.name,
      ', '.join(sorted(left)),
    )
  parted = [table[n] for n in schema.texts]
  parted += [table[n].join(PART) for n in bags]
  numeric = schema.all_numeric
  of_item = events.of_item(table)
  rows = table.select(
    **events.of_event(table),
    text=of_item['text'],
    domain=of_item['domain'],
    **({'part': table[schema.split_column]} if schema.split_column else {}),
    **{f'text_{i}': x for i, x in enumerate(parted)},
    **{f'id_{i}': table[n].cast('string') for i, n in enumerate(ids)},
    **{f'numeric_{i}': events.number(table, n) for i, n in enumerate(numeric)},
    **{
      f'label_{i}': table[n].cast('float32')
      for i, n in enumerate(schema.labels)
    },
  )
  rows, histories = _with_history(rows, schema)
  names = [*histories, *schema.texts, *bags]
  for name in names:
    if not re.fullmatch(r'[\w-]+', name) or names.count(name) > 1:
      raise ValueError(
        f'schema of {schema.name}: the sequence {name!r} needs a name of its'
        ' own, of letters, digits, _ and -; rename the column.'
      )
  return rows, RowLayout(
    tuple(histories),
    schema.texts,
    bags,
    ids,
    numeric,
    schema.labels,
    schema.all_item_columns,
    bool(schema.time),
    bool(schema.label_column),
  )


def _with_history(rows: ir.Table, schema: Schema) -> tuple[ir.Table, list[str]]:
  """Adds `history`, the sequence that an event joins; '' for none."""
  is_positive = rows.label > 0
  given = list(schema.history_names)
  if schema.histories == 'none':
    return rows.mutate(history=ibis.literal('')), []
  if schema.histories == 'all':
    (name,) = given or ['history']
    return rows.mutate(history=is_positive.ifelse(name, '')), [name]
  if schema.histories == 'outcome':
    positive, negative = given or ['positive', 'negative']
    history = is_positive.ifelse(positive, negative)
    return rows.mutate(history=history), [positive, negative]
  found = rows.select('domain').distinct().order_by('domain').limit(1000)
  domains = found.to_pyarrow()['domain'].to_pylist()
  if len(domains) > _MAX_DOMAINS:
    raise ValueError(
      f'schema of {schema.name}: {schema.domain!r} has {len(domains)} values or'
      f' more; histories=domain makes a sequence of each, at most'
      f' {_MAX_DOMAINS}. Use histories: all.'
    )
  names = [re.sub(r'\W+', '_', domain) for domain in domains]
  if not all(names) or len({*names}) < len(names):
    raise ValueError(
      f'schema of {schema.name}: histories=domain names a sequence after each'
      f' value of {schema.domain!r}, which are {sorted(domains)}: none may be'
      ' empty, and they must differ in letters and digits. Change the values,'
      ' or use histories: all.'
    )
  cases = [
    (is_positive & (rows.domain == domain), name)
    for domain, name in zip(domains, names)
  ]
  return rows.mutate(history=ibis.cases(*cases, else_='')), names
