# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a log become coded examples with histories, as ibis expressions.

The same expressions run on DuckDB and on Spark, with equal results. An example
sees the events of its user that are strictly earlier: events of the same second
are left out of each other's histories.
"""

from collections.abc import Callable, Mapping
import dataclasses
import datetime
from typing import Annotated, Any, Literal

import ibis
from ibis.expr import types as ir
import numpy as np

from antjax.data import behavior_negatives, prepare
from antjax.data.behavior_rows import RowLayout
from antjax.data.schema import Schema, SPLITS, STATES

ORDER = ('split', 'time', 'row', 'draw')
_MAX_JOINS = 12  # Of a query: engines hold their ids in memory.
_MOMENT = '%Y-%m-%d %H:%M:%S'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleConfig:
  """How rows become examples."""

  split: Annotated[
    Literal['auto', 'given', 'time', 'last', 'random'],
    'How rows are split. given: by a column or files that the schema names;'
    ' without times, histories contain events of train only. time: the newest'
    ' rows overall are validation and test. last: the last row of each user is'
    ' test, the one before validation. random: by the seed, for data without'
    ' times; histories may then reveal held-out rows. auto: given if the'
    ' schema has splits, else time.',
  ] = 'auto'
  validation_from: Annotated[
    float, 'For split=time and random: share of rows before validation begins.'
  ] = 0.8
  test_from: Annotated[
    float, 'For split=time and random: share of rows before test begins.'
  ] = 0.9
  train_until: Annotated[
    str,
    'For split=time, instead of shares: last moment of train, inclusive, as'
    " '2023-08-03 00:00:00' in UTC or seconds since 1970. Empty: shares.",
  ] = ''
  validation_until: Annotated[
    str, 'For split=time: last moment of validation, as train_until.'
  ] = ''
  negatives: Annotated[
    int,
    'For data without labels: number of negatives sampled per event, among'
    ' items of the same domain that the user never has.',
  ] = 1
  user_share: Annotated[
    float, 'Share of users to keep, with all their events, sampled by the seed.'
  ] = 1.0
  seed: Annotated[int, 'Seed of the sampled items and users.'] = 0
  min_history: Annotated[
    int, 'Minimum number of past events; other examples are excluded.'
  ] = 0

  def __post_init__(self) -> None:
    if not 0 < self.validation_from <= self.test_from <= 1:
      raise ValueError(
        'needed 0 < validation_from <= test_from <= 1; got'
        f' {self.validation_from}, {self.test_from}.'
      )
    if not 0 < self.user_share <= 1:
      raise ValueError(
        f'user_share={self.user_share} must be above 0 and at most 1.'
      )
    if min(self.negatives, self.min_history) < 0:
      raise ValueError(
        f'negatives={self.negatives} and min_history={self.min_history} must'
        ' not be negative.'
      )
    if not (self.train_until or self.validation_until):
      return
    given = (
      f'train_until={self.train_until!r} and validation_until='
      f'{self.validation_until!r}'
    )
    if self.split not in ('auto', 'time'):
      raise ValueError(f'{given}: they are for split=time, not {self.split}.')
    if not (self.train_until and self.validation_until):
      raise ValueError(f'{given}: give both, or neither.')
    if moment(self.train_until) > moment(self.validation_until):
      raise ValueError(f'{given}: train must not end after validation.')

  def split_for(self, schema: Schema) -> str:
    """The way of splitting rows of a schema, which 'auto' leaves open."""
    if self.split != 'auto':
      return self.split
    is_given = schema.split_column and not self.train_until
    return 'given' if is_given else 'time'


def moment(text: str) -> int:
  """Reads a moment, such as '2023-08-03 00:00:00' in UTC, or seconds.

  Returns:
    Seconds since 1970.

  Raises:
    ValueError: It is neither. A day alone is not read: its first second as the
      end of a split would leave the rest of the day out.
  """
  if text.isascii() and text.isdigit():
    return int(text)
  try:
    found = datetime.datetime.strptime(text, _MOMENT)
  except ValueError as e:
    raise ValueError(
      f'{text!r} is no moment; needed: seconds since 1970, or date and time'
      " as in '2023-08-03 00:00:00' (UTC). For a whole day write"
      " '2023-08-03 23:59:59'."
    ) from e
  return int(found.replace(tzinfo=datetime.UTC).timestamp())


@dataclasses.dataclass(frozen=True)
class Examples:
  """What is to be written."""

  # Examples of all splits, in the order of `ORDER`; `split` is the place in
  # `SPLITS`.
  table: ir.Table
  # History -> table (behavior), in the order of users and time.
  events: Mapping[str, ir.Table]
  # 'user', 'item' and names of features -> table (name, id).
  id_maps: Mapping[str, ir.Table]
  num_short: int  # Drawn items that are lacking, as none was found.


def _is_in_time(rows: ir.Table) -> bool:
  """Whether all rows of train are before those of other splits."""
  is_train = rows.part == 'train'
  found = rows.aggregate(
    last=rows.time.max(where=is_train), first=rows.time.min(where=~is_train)
  )
  (times,) = found.to_pyarrow().to_pylist()
  return None in times.values() or times['last'] <= times['first']


def build(
  stored: prepare.Steps,
  rows: ir.Table,
  layout: RowLayout,
  config: ExampleConfig,
  progress: Callable[[str], None],
  known_ids: Mapping[str, ir.Table],
) -> Examples:
  """Codes rows, ranges their histories, splits them, draws negatives.

  `rows` have the columns of `layout` and `title`, the int32 id of the text; the
  config's `split` is not auto. `known_ids` are name, as in `Examples.id_maps`,
  -> table (value, id) of an earlier day, whose values keep their ids.
  """
  if config.user_share < 1:
    progress('drawing users')
    users = stored('users', rows.select('user').distinct())
    is_kept = prepare.in_first_share(
      users, 'user', share=config.user_share, seed=config.seed, salt='users'
    )
    rows = rows.semi_join(users.filter(is_kept), 'user')
  progress('ids of users and items')
  id_maps = {}
  for name in ('user', 'item'):
    ids = prepare.dense_ids(rows, name, first=1, known=known_ids.get(name))
    id_maps[name] = stored(f'ids_{name}', ids)
  if config.split == 'given' and not (layout.has_time and _is_in_time(rows)):
    # Outcomes of held-out rows are not told to those of training.
    is_train = rows.part == 'train'
    rows = rows.mutate(history=is_train.ifelse(rows.history, ''))
  rows = stored('coded', prepare.to_ids(rows, id_maps))
  progress('ranging histories')
  ranged = stored('ranged', _with_ranges(rows, layout, stored))
  if config.min_history:
    past = sum(
      (ranged[f'before_{i}'] for i in range(len(layout.histories))),
      ibis.literal(0),
    )
    ranged = ranged.filter(past >= config.min_history)
  progress('splitting')
  split = stored('split', _with_split(ranged, config))
  train, coded = split.filter(split.split == 0), {}
  for i, name in enumerate(layout.ids):
    key, column = f'id:{name}', f'id_{i}'
    ids = prepare.dense_ids(train, column, first=1, known=known_ids.get(key))
    coded[column] = id_maps[key] = stored(f'ids_{i}', ids)
    if len(coded) == _MAX_JOINS:
      split = stored(f'features_{i}', prepare.to_ids(split, coded))
      coded = {}
  split = prepare.to_ids(split, coded)
  num_short = 0
  split = split.mutate(draw=ibis.literal(0, 'int32'))
  if not layout.is_labelled and config.negatives:
    progress('drawing negatives')
    split = stored('positives', split)
    drawn, num_short = behavior_negatives.draw(
      stored, split, rows, layout.columns_of_item, config.negatives, config.seed
    )
    split = ibis.union(split, drawn.select(split.columns))
  # Drawn items count as seen: else a model that takes new items as unknown
  # would learn in training that unknown means 0.
  split = stored('with_drawn', split)
  train = split.filter(split.split == 0)
  for name in ('user', 'item'):
    seen = train.group_by(_seen=train[name]).agg(_num=train.count())
    joined = split.left_join(seen, split[name] == seen['_seen'])
    split = joined.mutate(
      **{
        f'is_new_{name}': joined['_seen'].isnull(),
        f'{name}_count': ibis.coalesce(joined['_num'], 0).cast('int32'),
      }
    ).drop('_seen', '_num')
  events = {}
  for name in layout.histories:
    chosen = rows.filter(rows.history == name)
    chosen = chosen.order_by(['user', 'time', 'row'])
    events[name] = chosen.select(behavior='title')
  table = stored('examples', split).order_by(ORDER)
  return Examples(table, events, id_maps, num_short)


def _with_ranges(
  rows: ir.Table, layout: RowLayout, stored: prepare.Steps
) -> ir.Table:
  """Adds first_i and before_i: where history i starts, and its length.

  first_i counts the events of all users before this one, before_i those of the
  user that are strictly earlier.
  """
  names = [f'n_{i}' for i in range(len(layout.histories))]
  if not names:
    return rows
  sizes = {
    name: (rows.history == history).sum().cast('int64')
    for name, history in zip(names, layout.histories)
  }
  moments = stored('moments', rows.group_by(['user', 'time']).agg(**sizes))
  users = moments.group_by('user').agg(
    **{n: moments[n].sum().cast('int64') for n in names}
  )

  def earlier(
    table: ir.Table, window: ibis.Expr, name: str
  ) -> dict[str, ir.Value]:
    return {
      f'{name}_{i}': (table[n].sum().over(window) - table[n]).cast('int64')
      for i, n in enumerate(names)
    }

  in_time = ibis.cumulative_window(group_by='user', order_by='time')
  by_user = ibis.cumulative_window(order_by='user')
  before = moments.select('user', 'time', **earlier(moments, in_time, 'before'))
  first = users.select('user', **earlier(users, by_user, 'first'))
  return rows.join(before, ['user', 'time']).join(first, 'user')


def _with_split(rows: ir.Table, config: ExampleConfig) -> ir.Table:
  """Adds `split`, the place in `SPLITS`; a row has one split, whole."""
  if config.split == 'given':
    cases = [(rows.part == name, i) for i, name in enumerate(SPLITS)]
    cases.append((rows.part.isin(STATES), SPLITS.index('test')))
    return rows.mutate(split=ibis.cases(*cases).cast('int8'))
  if config.split == 'last':
    newest = ibis.window(
      group_by='user', order_by=[rows.time.desc(), rows.row.desc()]
    )
    ranked = rows.mutate(
      _age=ibis.row_number().over(newest),
      _size=rows.count().over(ibis.window(group_by='user')),
    )
    # Two rows are no history to train on and two to be held out.
    split = ibis.cases(
      (ranked['_size'] < 3, 0),
      (ranked['_age'] == 0, 2),
      (ranked['_age'] == 1, 1),
      else_=0,
    )
    return ranked.mutate(split=split.cast('int8')).drop('_age', '_size')
  if config.split == 'random':
    # The first digits of a digest are as good as a uniform number.
    value = prepare.digest(config.seed, 'split', rows.row).left(8)
    bounds: tuple[Any, ...] = tuple(
      f'{min(int(share * 2**32), 2**32 - 1):08x}'
      for share in (config.validation_from, config.test_from)
    )
  else:
    value, bounds = rows.time, _thresholds(rows, config)
  low, high = bounds
  split = ibis.cases((value <= low, 0), (value <= high, 1), else_=2)
  return rows.mutate(split=split.cast('int8'))


def _thresholds(rows: ir.Table, config: ExampleConfig) -> tuple[int, int]:
  """Returns the last times of train and of validation.

  Rows of one time stay together, so that shares are reached or exceeded.
  """
  counts = rows.group_by('time').agg(n=rows.count()).order_by('time')
  table = counts.to_pyarrow()
  if not table.num_rows:
    raise ValueError(
      'examples: no row is left to be an example; the source is empty,'
      f' or min_history={config.min_history} is more than any user has.'
    )
  if config.train_until:
    return moment(config.train_until), moment(config.validation_until)
  times = table['time'].to_numpy()
  total = np.cumsum(table['n'].to_numpy())
  first, second = (
    int(times[np.searchsorted(total, share * total[-1])])
    for share in (config.validation_from, config.test_from)
  )
  return first, second
