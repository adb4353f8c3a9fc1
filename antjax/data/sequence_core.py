# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The k-core of events, by rounds that each write what they leave."""

from collections.abc import Callable
import itertools
import pathlib
import shutil

import ibis
from ibis.expr import types as ir

from antjax.data import prepare


class Steps:
  """Intermediate tables, each a file that the next step reads."""

  def __init__(self, con: ibis.BaseBackend, folder: pathlib.Path):
    self.con, self._folder = con, folder

  def stored(self, name: str, table: ir.Table) -> ir.Table:
    """Computes a table; its file outlives the result."""
    path = self.path(name)
    table.to_parquet(str(path))
    return prepare.read_parquet(self.con, path)

  def drop(self, name: str) -> None:
    """Gives the room of a table back."""
    path = self.path(name)
    if path.is_dir():  # Spark's.
      shutil.rmtree(path)
    else:
      path.unlink()

  def path(self, name: str) -> pathlib.Path:
    """File of a table, or folder of them."""
    return self._folder / f'{name}.parquet'


def k_core(
  steps: Steps,
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
    counts: Gets the events dropped and the rounds.
    progress: Called at the start of each round.
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
      events = steps.stored(name, events.semi_join(enough, column))
      if old:
        steps.drop(old)
      old = name
    counts['core_rounds'] = number
    before, num_events = num_events, prepare.count(events)
    if num_events == before:
      break
  counts['events_outside_core'] = first - num_events
  return events
