# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Predicts the traffic of a row exchange, without needing the mesh."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from antjax.embedding.exchange import Exchange
from antjax.embedding.layout import Levels, Stack
from antjax.embedding.two_level import TwoLevel


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes that a device sends in a step: ids, rows, and gradients with ids.

  Attributes:
    inside: Bytes sent to devices of its group.
    between: Bytes sent to devices of other groups.
    rounds: Number of rounds in the first level, and in total in the second.
    least: Minimum bytes between groups, as the mean over devices: each row that
      a group needs is sent once, in full messages.
  """

  inside: int
  between: int
  rounds: tuple[int, int]
  least: float


def count(
  stack: Stack,
  positions: Sequence[np.ndarray],
  *,
  factor: float = 1.25,
  levels: Levels = 'auto',
  row_bytes: int = 0,
  num_unique: int = 0,
) -> Traffic:
  """Counts what the devices of a mesh send for one batch.

  Args:
    stack: Stack at level global; it says how many owners and groups there are.
    positions: Sorted distinct positions of each device, group by group.
    factor: Option `capacity_factor` of `EmbeddingTables`.
    levels: Option `exchange_levels` of `EmbeddingTables`.
    row_bytes: Bytes of a row when sent; 0: float32.
    num_unique: Positions that messages have room for; 0: a device's maximum.
  """
  num_groups = stack.num_groups
  members = stack.num_owners // num_groups
  size = num_unique or max(map(len, positions))
  ex = stack.exchange(size, factor, levels=levels)
  slot_bytes = 8 + 2 * (row_bytes or 4 * stack.dim)
  least = _least(stack, positions, members) * slot_bytes
  first = _rounds(ex, [ex.fit_shift(p) for p in positions])
  if isinstance(ex, Exchange):
    slots = first * ex.capacity * slot_bytes
    others = stack.num_owners - members
    return Traffic((members - 1) * slots, others * slots, (first, 0), least)
  inside, between = ex.inside, ex.between
  shift = min(ex.fit_shift(p) for p in positions)
  second = sum(
    _rounds(between, [between.fit_shift(p) for p in asked])
    for asked in _asked(ex, positions, members, shift)
  )
  return Traffic(
    (members - 1) * first * inside.capacity * slot_bytes,
    (num_groups - 1) * second * between.capacity * slot_bytes,
    (first, second),
    least,
  )


def _rounds(ex: Exchange | TwoLevel, shifts: list[int]) -> int:
  rows = (ex.inside if isinstance(ex, TwoLevel) else ex).rows_per_device
  return (rows - 1 >> min(shifts)) + 1


def _least(
  stack: Stack, positions: Sequence[np.ndarray], members: int
) -> float:
  """Rows that a group needs from others, per device."""
  total = 0
  for group in range(stack.num_groups):
    mine = positions[group * members : (group + 1) * members]
    owners = np.unique(np.concatenate(mine)) // stack.rows_per_device
    total += int(np.count_nonzero(owners % stack.num_groups != group))
  return total / len(positions)


def _asked(ex: TwoLevel, positions, members: int, shift: int):
  """Rows that each member requests from other groups, for each round."""
  rows = ex.inside.rows_per_device
  for round_ in range((rows - 1 >> shift) + 1):
    low, high = round_ << shift, min((round_ + 1) << shift, rows)
    yield [
      np.unique(
        np.concatenate(
          [
            p[np.searchsorted(p, base + low) : np.searchsorted(p, base + high)]
            for p in positions[at : at + members]
          ]
        )
      )
      - base
      for at in range(0, len(positions), members)
      for base in range(0, members * rows, rows)
    ]
