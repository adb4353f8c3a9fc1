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
import itertools
import pathlib
from typing import Any, Literal

import ibis
from ibis.expr import types as ir

from antjax.data import prepare
from antjax.data.events import clean_title, Events, ITEM, one_row_an_item
from antjax.data.sequence_data import MIN_EVENTS, SPLITS

# Domain of data without domains, and of items without one.
_ONE_DOMAIN, _UNKNOWN = 'all', 'unknown'


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig:
  """How events become sequences.

  Attributes:
    k_core: Smallest number of events of each user and item; 0: any number.
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
  events: Events,
  config: SequenceConfig,
  folder: pathlib.Path,
  progress: Callable[[str], None] = lambda text: None,
) -> Sequences:
  """Makes sequences of events.

  Args:
    events: Events to make sequences of.
    config: Settings of the sequences.
    folder: Existing folder for intermediate files; it outlives the result.
    progress: Function called with a text at the start of each step.

  Raises:
    ValueError: No event is left.
  """
  steps = prepare.Steps(events.con, folder)
  counts: dict[str, int] = {}
  progress('matching events with items')
  domains, items = _items(steps, events, counts)
  rows, users = _coded(steps, events, items, config, counts)
  rows = _k_core(steps, rows, config.k_core, counts, progress)
  progress('putting events in order')
  num_before = prepare.count(rows)
  kept = steps('ordered', _in_order(rows, config.drop_repeats))
  counts['repeats_dropped'] = num_before - prepare.count(kept)
  if not prepare.count(kept):
    raise ValueError(
      f'sequences: no event is left of {counts["events_read"]}: {counts}; lower'
      f' k_core={config.k_core}, or look at the source.'
    )
  progress('numbering users and items')
  return _numbered(steps, events, domains, kept, items, users, counts)


def _items(
  steps: prepare.Steps, events: Events, counts: dict[str, int]
) -> tuple[list[str], ir.Table]:
  """Domains, and (item, domain int32, title) with each item once."""
  schema, known = events.schema, events.items
  names = {schema.text, schema.title, schema.domain} - {''}
  if known is not None and names and names <= {*known.columns}:
    known = known.rename(**{schema.item: ITEM})
    rows = known.select(item=known[schema.item], **events.of_item(known))
  else:  # All that the rows say of items.
    joined = events.joined()
    event, of_item = events.of_event(joined), events.of_item(joined)
    rows = joined.select(item=event['item'], row=event['row'], **of_item)
    rows = rows.group_by(['item', 'domain', 'title']).agg(row=rows.row.min())
    rows = rows.mutate(title=clean_title(rows.title.fill_null('')))
    counts['item_rows_read'] = prepare.count(rows)
    rows = one_row_an_item(rows, 'item', 'title', 'row')
    counts['item_rows_repeated'] = counts['item_rows_read'] - prepare.count(
      rows
    )
  domain: ir.Value = ibis.literal(_ONE_DOMAIN)
  if schema.domain:
    given = rows['domain'].fill_null('').strip()
    domain = (given == '').ifelse(_UNKNOWN, given)
  title = clean_title(rows['title'].fill_null(''))
  rows = rows.select('item', title=title, domain=domain)
  domains = events.about.get('domains')
  if domains is None:
    found = rows.select('domain').distinct().order_by('domain').to_pyarrow()
    domains = found['domain'].to_pylist()
  number = ibis.cases(
    *((rows['domain'] == name, i) for i, name in enumerate(domains))
  )
  items = steps('known', rows.mutate(domain=number.cast('int32')))
  counts['items_without_title'] = prepare.count(
    items.filter(items['title'] == '')
  )
  return domains, items


def _coded(
  steps: prepare.Steps,
  events: Events,
  items: ir.Table,
  config: SequenceConfig,
  counts: dict[str, int],
) -> tuple[ir.Table, ir.Table]:
  """Events of good items with numbers for texts, and the users' numbers.

  Numbers are in the order of the texts, so that sorting by either is the same.
  """
  schema = events.schema
  rows = events.rows
  if schema.liked_only:
    liked = rows.filter(events.of_event(rows)['label'] > 0)
    counts['events_not_liked'] = prepare.count(rows) - prepare.count(liked)
    rows = liked
  of_event = events.of_event(rows)
  rows = rows.select(**{n: of_event[n] for n in ('user', 'item', 'time')})
  item_ids = steps('item_ids', prepare.dense_ids(items, 'item'))
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
  good = steps('good', good.select('user', 'time', item=good['_id']))
  user_ids = steps('user_ids', prepare.dense_ids(good, 'user'))
  keys = user_ids.select(_key='user', _id='id')
  with_users = good.join(keys, good['user'] == keys['_key'])
  coded = steps(
    'coded', with_users.select('time', 'item', user=with_users['_id'])
  )
  steps.drop('good')
  return coded, user_ids


def _k_core(
  steps: prepare.Steps,
  events: ir.Table,
  k: int,
  counts: dict[str, int],
  progress: Callable[[str], None] = lambda text: None,
) -> ir.Table:
  """The most events of which each user and each item has at least k.

  Users with fewer go, then items with fewer, and so on until nothing changes;
  what is left does not depend on the order.

  Args:
    steps: For the rounds.
    events: user, item and other columns.
    k: 0 or 1 leave all events.
    counts: Receives the numbers of dropped events and of rounds.
    progress: Function called at the start of each round.
  """
  num_events = first = prepare.count(events)
  counts['core_rounds'] = 0
  old = ''
  for number in itertools.count(1) if k > 1 else ():
    progress(f'{k}-core, round {number}: {num_events:,} events')
    for column in ('user', 'item'):
      sizes = events.group_by(column).agg(size=events.count())
      enough = sizes.filter(sizes['size'] >= k).select(column)
      name = f'core_{number}_{column}'
      events = steps(name, events.semi_join(enough, column))
      if old:
        steps.drop(old)
      old = name
    counts['core_rounds'] = number
    before, num_events = num_events, prepare.count(events)
    if num_events == before:
      break
  counts['events_outside_core'] = first - num_events
  return events


def _in_order(events: ir.Table, drop_repeats: bool) -> ir.Table:
  """Adds `place`, from 0 for each user; repeats in a row are dropped.

  Rows that agree in time and item are the same event twice, so that their
  order does not matter.
  """
  order = [events[name] for name in ('time', 'item')]
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
  steps: prepare.Steps,
  source: Events,
  domains: list[str],
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
  final_items = steps('final_items', _final_items(steps, kept, items))
  renamed = final_items.select(_old='old', _number='number', domain='domain')
  joined = kept.join(renamed, kept['item'] == renamed['_old'])
  events = steps(
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
  users = _with_split(source, users)
  users = steps('final_users', users)
  about = {
    'counts': counts | _totals(events, users, final_items),
    'domains': _domains(domains, events),
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
  steps: prepare.Steps, kept: ir.Table, items: ir.Table
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


def _with_split(source: Events, users: ir.Table) -> ir.Table:
  """Adds the source's split, a place in `SPLITS`; 0 where it has none."""
  schema = source.schema
  if not schema.split:
    return users.mutate(split=ibis.literal(0, 'int8'))
  rows = source.rows
  places = ((rows[schema.split] == name, i) for i, name in enumerate(SPLITS))
  place = ibis.cases(*places).cast('int8')
  given = rows.select(_user=rows[schema.user].cast('string'), split=place)
  given = given.group_by('_user').agg(
    split=given['split'].min(), _other=given['split'].nunique() != 1
  )
  if bad := given.filter(given['_other']).limit(1).to_pyarrow().to_pylist():
    raise ValueError(
      f'schema of {schema.name}: the user {bad[0]["_user"]!r} has not one part'
      f' in {schema.split!r}; needed: one of {", ".join(SPLITS)}, the same in'
      ' all rows of a user.'
    )
  given = given.drop('_other')
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
    prepare.count(users),
    prepare.count(items),
  )
  # A user's first event has no history.
  totals['train_examples'] = totals['train_events'] - totals['users']
  return totals


def _domains(names: list[str], events: ir.Table) -> list[dict[str, Any]]:
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
  columns = 'users items interactions train validation test'.split()
  nothing = dict.fromkeys(columns, 0)
  return [
    {'name': name, **{k: int(v) for k, v in found.get(i, nothing).items()}}
    for i, name in enumerate(names)
  ]


def _rows(table: ir.Table, by: str) -> list[dict[str, Any]]:
  return table.order_by(by).to_pyarrow().to_pylist()
