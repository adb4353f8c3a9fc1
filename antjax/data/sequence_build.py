# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events of several domains become sequences of users, as ibis expressions.

The order of the steps is that of LLM-Rec's recipe (Tang et al. 2025, section
5.1, https://arxiv.org/abs/2310.14304): events of unknown items go, domains are
merged, the k-core of the merged events is taken, events are put in order, and
then repeats go. So a user may end with fewer than k events.

The same expressions run on DuckDB and on Spark, with equal results, out of
core.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any, Literal

import ibis
from ibis.expr import types as ir

from antjax.data import prepare, sequence_core
from antjax.data.sequence_data import MIN_EVENTS

# White space and control characters: one blank in a title.
_BLANKS = r'[\s\x00-\x1f\x7f]+'


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig:
  """How events become sequences.

  Attributes:
    k_core: Fewest events of each user and of each item; 0: any number.
    untitled: Whether events of items without a title are dropped or kept.
    drop_repeats: Whether, of an item that comes several times in a row, only
      the first event is kept.
  """

  k_core: int = 5
  untitled: Literal['drop', 'keep'] = 'drop'
  drop_repeats: bool = True

  def __post_init__(self) -> None:
    if self.k_core < 0:
      raise ValueError(f'k_core={self.k_core} must not be negative.')


@dataclasses.dataclass(frozen=True)
class SequenceSource:
  """What a reader has written, as folders of Parquet files.

  Attributes:
    events: user text, item text, time int64, tie float64: the order of a
      user's events is that of (time, item, tie).
    items: item text, domain text, title text, row int64. Of several rows of an
      item the first one with a title counts.
    domains: All domains, in the order of their ids.
    users: user text, split int8 (a place in `sequence_data.SPLITS`); None where
      the source does not split its users.
    about: Entries for `dataset.json`: name, licence, counts.
  """

  events: pathlib.Path
  items: pathlib.Path
  domains: tuple[str, ...]
  users: pathlib.Path | None
  about: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sequences:
  """What is to be written.

  Attributes:
    events: (item int32), users one after the other, each in time.
    users: (key, num_domains, split, size), in the order of users.
    items: (key, domain, title, count), in the order of items from 1 on.
    about: counts, domains and users_by_num_domains for `dataset.json`.
  """

  events: ir.Table
  users: ir.Table
  items: ir.Table
  about: Mapping[str, Any]


def build(
  con: ibis.BaseBackend,
  source: SequenceSource,
  config: SequenceConfig,
  folder: pathlib.Path,
  progress: Callable[[str], None] = lambda text: None,
) -> Sequences:
  """Makes sequences of a source.

  Args:
    con: DuckDB or Spark.
    source: From a reader.
    config: How events become sequences.
    folder: Existing folder for intermediate files; it outlives the result.
    progress: Called with a text at the start of each step.

  Raises:
    ValueError: No event is left.
  """
  steps = sequence_core.Steps(con, folder)
  counts: dict[str, int] = {}
  progress('matching events with items')
  items = steps.stored('known', _one_row_an_item(steps, source, counts))
  events, users = _coded(steps, source, items, config, counts)
  events = sequence_core.k_core(steps, events, config.k_core, counts, progress)
  progress('putting events in order')
  ordered = _in_order(events, config.drop_repeats)
  num_before = sequence_core.count(events)
  kept = steps.stored('ordered', ordered)
  counts['repeats_dropped'] = num_before - sequence_core.count(kept)
  if not sequence_core.count(kept):
    raise ValueError(
      f'prepare_sequences: no event is left of {counts["events_read"]}:'
      f' {counts}; lower k_core={config.k_core}, or look at the source.'
    )
  progress('numbering users and items')
  return _numbered(steps, source, kept, items, users, counts)


def _one_row_an_item(
  steps: sequence_core.Steps, source: SequenceSource, counts: dict[str, int]
) -> ir.Table:
  """(item, domain int32, title) with each item once."""
  rows = prepare.read_parquet(steps.con, source.items, '*.parquet')
  title = rows['title'].re_replace(_BLANKS, ' ').strip()
  rows = rows.mutate(title=title)
  order = [rows['title'] == '', rows['row']]
  rank = ibis.row_number().over(
    ibis.window(group_by=rows['item'], order_by=order)
  )
  ranked = rows.mutate(rank=rank)
  domain = ibis.cases(
    *((ranked['domain'] == name, i) for i, name in enumerate(source.domains))
  )
  items = ranked.mutate(domain=domain.cast('int32'))
  items = items.filter(items['rank'] == 0).drop('rank', 'row')
  counts['item_rows_read'] = sequence_core.count(rows)
  counts['item_rows_repeated'] = counts['item_rows_read'] - sequence_core.count(
    items
  )
  counts['items_without_title'] = sequence_core.count(
    items.filter(items['title'] == '')
  )
  return items


def _coded(
  steps: sequence_core.Steps,
  source: SequenceSource,
  items: ir.Table,
  config: SequenceConfig,
  counts: dict[str, int],
) -> tuple[ir.Table, ir.Table]:
  """Events of good items with numbers for texts, and the users' numbers.

  Numbers are in the order of the texts, so that sorting by either is the same.
  """
  rows = prepare.read_parquet(steps.con, source.events, '*.parquet')
  item_ids = steps.stored('item_ids', prepare.dense_ids(items, 'item'))
  named = items.join(item_ids, 'item')
  known = named.select(_key='item', _id='id', _title='title')
  joined = rows.left_join(known, rows['item'] == known['_key'])
  is_known = joined['_key'].notnull()
  is_titled = is_known & (joined['_title'] != '')
  found = joined.aggregate(
    events_read=joined.count(),
    known=is_known.sum(),
    titled=is_titled.sum(),
  )
  read, num_known, num_titled = (
    int(x or 0) for x in found.to_pyarrow().to_pylist()[0].values()
  )
  counts['events_read'] = read
  counts['events_of_unknown_items'] = read - num_known
  counts['events_of_untitled_items'] = num_known - num_titled
  is_good = is_titled if config.untitled == 'drop' else is_known
  good = joined.filter(is_good)
  good = steps.stored(
    'good', good.select('user', 'time', 'tie', item=good['_id'])
  )
  user_ids = steps.stored('user_ids', prepare.dense_ids(good, 'user'))
  keys = user_ids.select(_key='user', _id='id')
  with_users = good.join(keys, good['user'] == keys['_key'])
  events = steps.stored(
    'coded', with_users.select('time', 'tie', 'item', user=with_users['_id'])
  )
  steps.drop('good')
  return events, user_ids


def _in_order(events: ir.Table, drop_repeats: bool) -> ir.Table:
  """Adds `place`, from 0 for each user; repeats in a row are dropped.

  Rows that agree in (time, item, tie) are the same event twice, so that their
  order does not matter.
  """
  order = [events[name] for name in ('time', 'item', 'tie')]
  window = ibis.window(group_by=events['user'], order_by=order)
  events = events.mutate(place=ibis.row_number().over(window))
  if drop_repeats:
    in_time = ibis.window(group_by=events['user'], order_by=events['place'])
    events = events.mutate(before=events['item'].lag(1).over(in_time))
    is_new = events['before'].isnull() | (events['before'] != events['item'])
    events = events.filter(is_new)
    in_time = ibis.window(group_by=events['user'], order_by=events['place'])
    events = events.mutate(place=ibis.row_number().over(in_time))
  size = events.count().over(ibis.window(group_by=events['user']))
  return events.mutate(size=size).select('user', 'item', 'place', 'size')


def _numbered(
  steps: sequence_core.Steps,
  source: SequenceSource,
  kept: ir.Table,
  items: ir.Table,
  user_ids: ir.Table,
  counts: dict[str, int],
) -> Sequences:
  """Final numbers: users by their names, items by domain and name."""
  role = ibis.cases(
    (kept['size'] < MIN_EVENTS, 0),
    (kept['place'] == kept['size'] - 1, 2),
    (kept['place'] == kept['size'] - 2, 1),
    else_=0,
  )
  kept = kept.mutate(role=role.cast('int8'))
  final_items = steps.stored('final_items', _final_items(steps, kept, items))
  renamed = final_items.select(_old='old', _number='number', domain='domain')
  joined = kept.join(renamed, kept['item'] == renamed['_old'])
  events = steps.stored(
    'final_events',
    joined.select(
      'user', 'place', 'size', 'role', 'domain', item=joined['_number']
    ),
  )
  per_user = events.group_by('user').agg(
    num_domains=events['domain'].nunique().cast('int32'),
    size=events.count(),
  )
  names = user_ids.select(key='user', _id='id')
  users = per_user.join(names, per_user['user'] == names['_id']).drop('_id')
  users = _with_split(steps, source, users)
  users = steps.stored('final_users', users)
  about = {
    'counts': counts | _totals(events, users, final_items),
    'domains': _domains(source, events),
    'users_by_num_domains': {
      str(row['num_domains']): int(row['n'])
      for row in _rows(
        users.group_by('num_domains').agg(n=users.count()), 'num_domains'
      )
    },
  }
  return Sequences(
    events.order_by(['user', 'place']).select('item'),
    users.order_by('user').select('key', 'num_domains', 'split', 'size'),
    final_items.order_by('number').select('key', 'domain', 'title', 'count'),
    about,
  )


def _final_items(
  steps: sequence_core.Steps, kept: ir.Table, items: ir.Table
) -> ir.Table:
  """(old, number, key, domain, title, count) of the items that are left."""
  item_ids = prepare.read_parquet(steps.con, steps.path('item_ids'))
  per_item = kept.group_by('item').agg(
    count=(kept['role'] == 0).sum().cast('int64')
  )
  coded = per_item.select('count', old='item')
  coded = coded.join(item_ids, coded['old'] == item_ids['id'])
  full = coded.select('old', 'item', 'count').join(items, 'item')
  by_domain = ibis.window(order_by=[full['domain'], full['item']])
  number = (ibis.row_number().over(by_domain) + 1).cast('int32')
  return full.select(
    'old', 'domain', 'title', 'count', number=number, key='item'
  )


def _with_split(
  steps: sequence_core.Steps, source: SequenceSource, users: ir.Table
) -> ir.Table:
  """Adds the source's split; 0 where it has none."""
  if source.users is None:
    return users.mutate(split=ibis.literal(0, 'int8'))
  given = prepare.read_parquet(steps.con, source.users, '*.parquet')
  given = given.select(_user='user', split='split')
  return users.join(given, users['key'] == given['_user']).drop('_user')


def _totals(
  events: ir.Table, users: ir.Table, items: ir.Table
) -> dict[str, int]:
  """Events, users, items, and what training and test have of them."""
  found = events.aggregate(
    events=events.count(),
    train_events=(events['role'] == 0).sum(),
    validation_examples=(events['role'] == 1).sum(),
    test_examples=(events['role'] == 2).sum(),
  )
  totals = {k: int(v) for k, v in found.to_pyarrow().to_pylist()[0].items()}
  totals['users'], totals['items'] = (
    sequence_core.count(users),
    sequence_core.count(items),
  )
  # A user's first event has no history.
  totals['train_examples'] = totals['train_events'] - totals['users']
  return totals


def _domains(source: SequenceSource, events: ir.Table) -> list[dict[str, Any]]:
  """Counts of each domain, in the order of their ids."""
  grouped = events.group_by('domain').agg(
    users=events['user'].nunique(),
    items=events['item'].nunique(),
    interactions=events.count(),
    train=(events['role'] == 0).sum(),
    validation=(events['role'] == 1).sum(),
    test=(events['role'] == 2).sum(),
  )
  found = {row.pop('domain'): row for row in _rows(grouped, 'domain')}
  names = 'users items interactions train validation test'.split()
  nothing = dict.fromkeys(names, 0)
  return [
    {'name': name, **{k: int(v) for k, v in found.get(i, nothing).items()}}
    for i, name in enumerate(source.domains)
  ]


def _rows(table: ir.Table, by: str) -> list[dict[str, Any]]:
  return table.order_by(by).to_pyarrow().to_pylist()
