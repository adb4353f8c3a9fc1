# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The k-core of events of users and items, as ibis expressions."""

from collections.abc import Callable
import itertools

from ibis.expr import types as ir

from antjax.data import prepare


def cut(
  events: ir.Table,
  k: int,
  steps: prepare.Steps,
  progress: Callable[[str], None],
) -> tuple[ir.Table, int]:
  """The most (user, item) events of which each user and item has at least k.

  Users with fewer go, then items with fewer, and so on until nothing changes;
  what is left does not depend on the order. Up to k = 1 nothing goes.

  Returns:
    (events, number of rounds).
  """
  old, rounds = '', 0
  num_events = prepare.count(events)
  for rounds in itertools.count(1) if k > 1 else ():
    progress(f'{k}-core, round {rounds}: {num_events:,} events')
    for column in ('user', 'item'):
      sizes = events.group_by(column).agg(size=events.count())
      enough = sizes.filter(sizes['size'] >= k).select(column)
      name = f'core_{rounds}_{column}'
      events = steps(name, events.semi_join(enough, column))
      if old:
        steps.drop(old)
      old = name
    before, num_events = num_events, prepare.count(events)
    if num_events == before:
      break
  return events, rounds
