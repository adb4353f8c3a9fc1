# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events of several domains become sequences of users, as ibis expressions.

The order of the steps is that of LLM-Rec's recipe (Tang et al. 2025, section
5.1, https://arxiv.org/abs/2310.14304): events of unknown items go, domains are
merged, the k-core of the merged events is taken, events are put in order, and
then repeats go. So a user may end with fewer than k events.

The same expressions run on DuckDB and on Spark, with equal results, out of
core. They write a folder that `sequence_data` reads:

items.parquet   key, domain, title, count: row i is item i, row 0 the padding
users.parquet   key, num_domains, split: row u is user u
events.npy      int32 [E]: items of all users, each user's in time
offsets.npy     int64 [U + 1]: user u has events[offsets[u]:offsets[u + 1]]
dataset.json    domains, counts, settings
"""

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import os
from typing import Annotated, Any, ClassVar, Literal

import ibis
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa

from antjax.data import k_core, output_folder, prepare, record_writer, view
from antjax.data import sequence_data as files
from antjax.data.events import clean_title, Events, ITEM, one_row_an_item
from antjax.data.record_schema import Field
from antjax.data.schema import Schema

# Domain of data without domains, and of items without one.
_ONE_DOMAIN, _UNKNOWN = 'all', 'unknown'
_ROW_GROUP = 65_536
_ITEM_SCHEMA = {
  'key': Field('str'),
  'domain': Field('int32'),
  'title': Field('str'),
  'count': Field('int64'),
}
_USER_SCHEMA = {
  'key': Field('str'),
  'num_domains': Field('int32'),
  'split': Field('int8'),
}
_PADDING = pa.record_batch(
  {'key': [''], 'domain': [-1], 'title': [''], 'count': [0]}
)
# What is counted of each domain.
_COUNTS = ('users', 'items', 'interactions', 'train', 'validation', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig:
  """How events become sequences."""

  k_core: Annotated[
    int | None,
    'Minimum number of events per user and per item, over all domains. 0: no'
    ' minimum. none: 5 for amazon-2018, 0 for other data sets.',
  ] = None
  untitled: Annotated[
    Literal['drop', 'keep'], 'Drop or keep items without a title.'
  ] = 'drop'
  without_events: Annotated[
    Literal['drop', 'keep'],
    'Drop or keep titled items without events. Kept items are candidates and'
    ' can be recommended.',
  ] = 'drop'
  drop_repeats: Annotated[
    bool, 'Keep only the first of consecutive events of the same item.'
  ] = True

  def __post_init__(self) -> None:
    if (self.k_core or 0) < 0:
      raise ValueError(f'k_core={self.k_core} must not be negative.')


@dataclasses.dataclass(frozen=True)
class SequenceView:
  """Sequences of users, as a `view.View`."""

  config: SequenceConfig = SequenceConfig()
  version: ClassVar[int] = 2

  def check(self, schema: Schema) -> None:
    """Refuses a schema without users or items."""
    if not (schema.user and schema.item):
      raise ValueError(
        f'schema of {schema.name}: sequences need a user and an item; name'
        ' their columns.'
      )

  def settings(
    self, out: str | os.PathLike[str], schema: Schema
  ) -> dict[str, Any]:
    del out
    return dataclasses.asdict(self.config)

  def build(self, job: view.ViewJob) -> dict[str, Any]:
    """Writes the four files."""
    with job.opened() as events:
      about = _Builder(events, self.config, job).write()
    return {
      'kind': files.KIND,
      'has_user_split': bool(job.schema.split),
      **about,
      'files': output_folder.list_files(job.stage),
    }

  def tables(self, description: Mapping[str, Any]) -> list[view.Table]:
    domains = [['domain', *_COUNTS]]
    for domain in description['domains']:
      numbers = (f'{domain[name]:,}' for name in _COUNTS)
      domains.append([domain['name'], *numbers])
    counts = description['counts']
    total = ['users', 'items', 'events', 'train_events']
    total += ['validation_examples', 'test_examples']
    domains.append(['all', *(f'{counts[name]:,}' for name in total)])
    users = [['domains of a user', 'users']]
    for number, size in description['users_by_num_domains'].items():
      users.append([number, f'{size:,}'])
    return [domains, users]


class _Builder:
  """Makes the sequences of some events, and counts what it leaves out."""

  def __init__(self, events: Events, config: SequenceConfig, job: view.ViewJob):
    self._source, self._config, self._job = events, config, job
    self._schema = events.schema
    self._steps = prepare.Steps(events.con, job.work / 'steps')
    self._counts: dict[str, int] = {}

  def write(self) -> dict[str, Any]:
    """Writes all files; returns counts, domains and users_by_num_domains."""
    self._job.progress('matching events with items')
    domains, items = self._items()
    rows, user_ids = self._coded(items)
    num_coded = prepare.count(rows)
    rows, self._counts['core_rounds'] = k_core.cut(
      rows, self._config.k_core or 0, self._steps, self._job.progress
    )
    self._job.progress('putting events in order')
    num_before = prepare.count(rows)
    self._counts['events_outside_core'] = num_coded - num_before
    kept = self._steps('ordered', self._in_order(rows))
    num_kept = prepare.count(kept)
    self._counts['repeats_dropped'] = num_before - num_kept
    if not num_kept:
      raise ValueError(
        f'sequences: no event is left of {self._counts["events_read"]}:'
        f' {self._counts}; lower k_core={self._config.k_core}, or look at the'
        ' source.'
      )
    self._job.progress('numbering users and items')
    items = self._steps('final_items', self._final_items(kept, items))
    named = kept.join(items.select('number', 'domain', item='old'), 'item')
    events = named.select('user', 'place', 'role', 'domain', item='number')
    events = self._steps('final_events', events)
    users = self._steps('final_users', self._final_users(events, user_ids))
    by_domains = users.group_by('num_domains').agg(n=users.count())
    found = by_domains.order_by('num_domains').to_pyarrow().to_pylist()
    counted = _domains(domains, events)
    num_events, *num_in = (
      sum(domain[name] for domain in counted) for name in _COUNTS[2:]
    )
    num_users = prepare.count(users)
    self._counts |= {
      'events': num_events,
      'train_events': num_in[0],
      'validation_examples': num_in[1],
      'test_examples': num_in[2],
      'users': num_users,
      'items': prepare.count(items),
      # A user's first event has no history.
      'train_examples': num_in[0] - num_users,
    }
    self._job.progress('writing events, users and items')
    self._write_files(events, users, items)
    return {
      'counts': self._counts,
      'domains': counted,
      'users_by_num_domains': {str(x['num_domains']): x['n'] for x in found},
    }

  def _items(self) -> tuple[list[str], ir.Table]:
    """Domains, and (item, domain int32, title) with each item once."""
    events, schema = self._source, self._schema
    known = events.items
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
      num_read = self._counts['item_rows_read'] = prepare.count(rows)
      rows = one_row_an_item(rows, 'item', 'title', 'row')
      self._counts['item_rows_repeated'] = num_read - prepare.count(rows)
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
    items = self._steps('known', rows.mutate(domain=number.cast('int32')))
    untitled = items.filter(items['title'] == '')
    self._counts['items_without_title'] = prepare.count(untitled)
    return domains, items

  def _coded(self, items: ir.Table) -> tuple[ir.Table, ir.Table]:
    """Events of good items with numbers for texts, and the users' numbers.

    Numbers are in the order of the texts: sorting by either is the same.
    """
    rows, steps = self._source.rows, self._steps
    if self._schema.liked_only:
      liked = rows.filter(self._source.of_event(rows)['label'] > 0)
      num_other = prepare.count(rows) - prepare.count(liked)
      self._counts['events_not_liked'] = num_other
      rows = liked
    of_event = self._source.of_event(rows)
    rows = rows.select(**{n: of_event[n] for n in ('user', 'item', 'time')})
    item_ids = steps('item_ids', prepare.dense_ids(items, 'item'))
    named = items.join(item_ids, 'item')
    known = named.select(_key='item', _id='id', _title='title')
    joined = rows.left_join(known, rows['item'] == known['_key'])
    is_known = joined['_key'].notnull()
    is_titled = is_known & (joined['_title'] != '')
    found = joined.aggregate(
      events_read=joined.count(), known=is_known.sum(), titled=is_titled.sum()
    )
    num_read, num_known, num_titled = (
      int(x or 0) for x in found.to_pyarrow().to_pylist()[0].values()
    )
    self._counts |= {
      'events_read': num_read,
      'events_of_unknown_items': num_read - num_known,
      'events_of_untitled_items': num_known - num_titled,
    }
    good = joined.filter(
      is_titled if self._config.untitled == 'drop' else is_known
    )
    good = steps('good', good.select('user', 'time', item=good['_id']))
    user_ids = steps('user_ids', prepare.dense_ids(good, 'user'))
    named = good.join(user_ids, 'user').select('time', 'item', user='id')
    coded = steps('coded', named)
    steps.drop('good')
    return coded, user_ids

  def _in_order(self, events: ir.Table) -> ir.Table:
    """Adds place, from 0 for each user, size and role; drops repeats in a row.

    Rows that agree in time and item are the same event twice, so that their
    order does not matter. The role is the place in `sequence_data.SPLITS`.
    """
    order = [events[name] for name in ('time', 'item')]
    window = ibis.window(group_by=events['user'], order_by=order)
    events = events.mutate(place=ibis.row_number().over(window))
    if self._config.drop_repeats:
      in_time = ibis.window(group_by=events['user'], order_by=events['place'])
      events = events.mutate(before=events['item'].lag(1).over(in_time))
      is_new = events['before'].isnull() | (events['before'] != events['item'])
      events = events.filter(is_new)
      in_time = ibis.window(group_by=events['user'], order_by=events['place'])
      events = events.mutate(place=ibis.row_number().over(in_time))
    size = events.count().over(ibis.window(group_by=events['user']))
    events = events.mutate(size=size)
    role = ibis.cases(
      (events['size'] < files.MIN_EVENTS, 0),
      (events['place'] == events['size'] - 1, 2),
      (events['place'] == events['size'] - 2, 1),
      else_=0,
    )
    return events.select(
      'user', 'item', 'place', 'size', role=role.cast('int8')
    )

  def _final_items(self, kept: ir.Table, items: ir.Table) -> ir.Table:
    """(old, number, key, domain, title, count) of the items that are left.

    They are numbered by domain and name.
    """
    item_ids = self._steps.again('item_ids').rename(old='id')
    count = (kept['role'] == 0).sum().cast('int64')
    counts = kept.group_by(_old='item').agg(count=count)
    coded = item_ids.left_join(counts, item_ids['old'] == counts['_old'])
    full = coded.join(items, 'item')
    is_kept = full['_old'].notnull()
    no_event = full.filter(~is_kept & (full['title'] != ''))
    self._counts['items_without_events'] = prepare.count(no_event)
    if self._config.without_events == 'keep':
      is_kept |= full['title'] != ''
    full = full.filter(is_kept).mutate(count=full['count'].fill_null(0))
    by_domain = ibis.window(order_by=[full['domain'], full['item']])
    number = (ibis.row_number().over(by_domain) + 1).cast('int32')
    return full.select(
      'old', 'domain', 'title', 'count', number=number, key='item'
    )

  def _final_users(self, events: ir.Table, user_ids: ir.Table) -> ir.Table:
    """(user, num_domains, size, key, split); split is a place in `SPLITS`."""
    users = events.group_by('user').agg(
      num_domains=events['domain'].nunique().cast('int32'), size=events.count()
    )
    users = users.join(user_ids.select(key='user', user='id'), 'user')
    schema, rows = self._schema, self._source.rows
    if not schema.split:
      return users.mutate(split=ibis.literal(0, 'int8'))
    places = [
      (rows[schema.split] == name, i) for i, name in enumerate(files.SPLITS)
    ]
    place = ibis.cases(*places).cast('int8')
    given = rows.select(_user=rows[schema.user].cast('string'), split=place)
    given = given.group_by('_user').agg(
      split=given['split'].min(), _other=given['split'].nunique() != 1
    )
    if bad := given.filter(given['_other']).limit(1).to_pyarrow().to_pylist():
      raise ValueError(
        f'schema of {schema.name}: the user {bad[0]["_user"]!r} has not one'
        f' part in {schema.split!r}; needed: one of {", ".join(files.SPLITS)},'
        ' the same in all rows of a user.'
      )
    given = given.drop('_other')
    return users.join(given, users['key'] == given['_user']).drop('_user')

  def _write_files(
    self, events: ir.Table, users: ir.Table, items: ir.Table
  ) -> None:
    stage, work = self._job.stage, self._job.work
    options = {'block_size': _ROW_GROUP}
    table = events.order_by(['user', 'place']).select('item')
    num_events = prepare.write_int32(stage / files.EVENTS, table, 'item', work)
    sizes: list[np.ndarray] = []

    def with_sizes() -> Iterator[pa.RecordBatch]:
      table = users.order_by('user').select(*_USER_SCHEMA, 'size')
      for batch in prepare.stream(table, work, batch_rows=_ROW_GROUP):
        sizes.append(batch['size'].to_numpy())
        yield batch

    record_writer.write(
      stage / files.USERS, with_sizes(), _USER_SCHEMA, **options
    )
    offsets = np.concatenate([[0], *sizes]).cumsum(dtype=np.int64)
    assert offsets[-1] == num_events, (offsets[-1], num_events)
    np.save(stage / files.OFFSETS, offsets)
    table = items.order_by('number').select(*_ITEM_SCHEMA)
    found = prepare.stream(table, work, batch_rows=_ROW_GROUP)
    record_writer.write(
      stage / files.ITEMS,
      itertools.chain([_PADDING], found),
      _ITEM_SCHEMA,
      **options,
    )


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
  found = {row.pop('domain'): row for row in grouped.to_pyarrow().to_pylist()}
  nothing = dict.fromkeys(_COUNTS, 0)
  return [
    {'name': name, **{k: int(v) for k, v in found.get(i, nothing).items()}}
    for i, name in enumerate(names)
  ]
