# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which split each row of a task is in: its state.

By rule, tasks are warm or cold, and items where `cold_item_share` says so: rows
of warm tasks and warm items are trained on, all others are evaluated in their
states. In data that come split, rows of `train` are trained on. Those of
`validation` and `test` are queries, their task's latest rows of `train` the
support; `test` is parted by whether `train` has the task and the item. A split
that is named after a state is one whose tasks have their own support.
"""

from typing import Any

import ibis
from ibis.expr import types as ir
import numpy as np

from antjax.data import prepare
from antjax.data.events import ROW
from antjax.data.schema import Schema, STATES
from antjax.data.task_spans import TaskConfig

NAMES = ('train', 'validation', *STATES, 'task_cold')
# The state of a row, a place in `NAMES`; whether a row is a copy of one of
# training, for support alone.
STATE, IS_GIVEN = '__state', '__is_given'
_TASK, _ITEM, _RANK = '__known_task', '__known_item', '__latest'


def trained(schema: Schema) -> int:
  """The state that is trained on."""
  return NAMES.index('train' if schema.split_column else 'warm')


def evaluated(
  state: np.ndarray, schema: Schema, config: TaskConfig
) -> tuple[str, ...]:
  """Names of the states to evaluate, of all that occur."""
  if schema.split_column:
    return tuple(NAMES[i] for i in np.unique(state) if i)
  return STATES if config.cold_item_share else ('warm', 'task_cold')


def drawn(tasks: ir.Table, key: str, config: TaskConfig) -> ir.Table:
  """Adds the state to a table of tasks that are warm or cold."""
  is_cold = prepare.in_first_share(
    tasks, key, share=config.cold_share, seed=config.seed, salt='cold'
  )
  cold, warm = NAMES.index('task_cold'), NAMES.index('warm')
  return tasks.mutate(**{STATE: is_cold.ifelse(cold, warm).cast('int8')})


def order(rows: ir.Table, schema: Schema, config: TaskConfig) -> list[Any]:
  """What the rows of a task are ordered by."""
  first = rows[schema.time or ROW]
  if config.order == 'random':
    first = prepare.digest(config.seed, 'row', rows[ROW])
  return [first, rows[ROW]]


def with_states(rows: ir.Table, schema: Schema, config: TaskConfig) -> ir.Table:
  """Adds `STATE` to rows where it is not that of their task; see `drawn`.

  Of data that come split there are further rows, see `IS_GIVEN`.
  """
  if schema.split_column:
    return _given(rows, schema, config)
  if not config.cold_item_share:
    return rows
  is_cold = []
  for column, share, salt in (
    (schema.task_column, config.cold_share, 'cold'),
    (schema.item, config.cold_item_share, 'cold_item'),
  ):
    values = rows.select(**{_TASK: rows[column]}).distinct()
    chosen = prepare.in_first_share(
      values, _TASK, share=share, seed=config.seed, salt=salt
    )
    name = f'__{salt}'
    known = values.mutate(**{name: chosen})
    rows = rows.join(known, rows[column] == known[_TASK]).drop(_TASK)
    is_cold.append(name)
  state = _of_cold(rows[is_cold[0]], rows[is_cold[1]])
  return rows.mutate(**{STATE: state}).drop(*is_cold)


def _of_cold(task: ir.BooleanValue, item: ir.BooleanValue) -> ir.Value:
  """The state, by whether the task and the item are cold."""
  warm, user_cold, item_cold, both_cold = map(NAMES.index, STATES)
  return ibis.cases(
    (task & item, both_cold),
    (task, user_cold),
    (item, item_cold),
    else_=warm,
  ).cast('int8')


def _given(rows: ir.Table, schema: Schema, config: TaskConfig) -> ir.Table:
  train = rows.filter(rows[schema.split_column] == 'train')
  is_cold: list[Any] = []
  for column, name in ((schema.task_column, _TASK), (schema.item, _ITEM)):
    if not column:
      is_cold.append(ibis.literal(False))
      continue
    known = train.select(**{name: train[column]}).distinct()
    rows = rows.left_join(known, rows[column] == known[name])
    is_cold.append(ibis._[name].isnull())
  split = rows[schema.split_column]
  named = [(split == name, i) for i, name in enumerate(NAMES)]
  state = ibis.cases(*named, else_=_of_cold(is_cold[0], is_cold[1]))
  rows = rows.mutate(
    **{
      STATE: state.cast('int8'),
      IS_GIVEN: ibis.literal(0, 'int8'),
      # Whether there is support in training.
      _RANK: split.isin(['validation', 'test']) & rows[_TASK].notnull(),
    }
  )
  key = schema.task_column
  parts = rows.filter(rows[_RANK]).select(_TASK, STATE).distinct()
  rows = rows.drop(*(n for n in (_TASK, _ITEM, _RANK) if n in rows.columns))
  # The latest rows of training are copied to where they are support.
  train = rows.filter(rows[STATE] == NAMES.index('train'))
  latest = ibis.window(
    group_by=train[key],
    order_by=[x.desc() for x in order(train, schema, config)],
  )
  train = train.mutate(**{_RANK: ibis.row_number().over(latest)})
  train = train.filter(train[_RANK] < config.max_support).drop(_RANK, STATE)
  copies = train.join(parts, train[key] == parts[_TASK])
  copies = copies.mutate(**{IS_GIVEN: ibis.literal(1, 'int8')})
  return ibis.union(rows, copies.select(*rows.columns))
