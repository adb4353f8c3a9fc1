# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Chooses the sharding level of each table, from bytes and traffic.

Our own derivation, for n groups of m devices, a table of V rows of width D and
u distinct rows that a device looks up in a step (floats and ids of 4 bytes):

  level    bytes a device    sent by a device in a step
  none     V (4 D + slots)   all-reduce of the dense gradient and of what is
                             touched, V (4 D + 4), and the optimizer passes over
                             the whole table
  intra    1 / m of that     u (8 D + 8) inside its group, and each group's
                             gradients to the others, u (4 D + 4) (n - 1)
  global   1 / (n m)         u (8 D + 8), of which (n - 1) / n to other groups

A table pays the latencies of its messages as if it were a stack of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any, Literal

import jax
import numpy as np

from antjax.collectives.cost_model import Cluster, Links
from antjax.embedding.layout import TableSpec
from antjax.mesh.mesh import INTER
from antjax.mesh.paro import Level

# Number of passes of a dense step over the table, its gradient and slots.
_DENSE_PASSES = 6
# The same for a touched row: gathers, scatters, copies of the exchange. On CPU
# a dense step over 100,000 rows took as long as a sparse one with 11,000
# distinct rows.
_TOUCHED_PASSES = 50
_ALL_TO_ALLS = 3
_MEMORY_BYTES_PER_S = 2e10  # Speed of a device's pass over a dense table.
_NAMES: dict[Level, Literal['none', 'intra', 'global']] = {
  Level.NONE: 'none',
  Level.INTRA: 'intra',
  Level.GLOBAL: 'global',
}


@dataclasses.dataclass(frozen=True)
class Placement:
  """Cost of a table at one level."""

  level: Level  # Level of the table.
  state_bytes: float  # Bytes of the table and its slots on each device.
  inter_bytes: float  # Bytes that a device sends to other groups in a step.
  intra_bytes: float  # Bytes that it sends inside its group.
  step_s: float  # Time of a step spent on the table, in seconds.


@dataclasses.dataclass(frozen=True)
class TablePlan:
  """Planned placement of a table."""

  spec: TableSpec  # The table, at the chosen level.
  chosen: Placement  # Cost at that level.
  others: tuple[Placement, ...]  # Cost at the other levels.
  reason: str  # Reason in one sentence.


def plan_tables(
  specs: Sequence[TableSpec],
  distinct_rows: Mapping[str, float],
  links: Links,
  *,
  num_groups: int,
  group_size: int,
  device_bytes: float = math.inf,
) -> list[TablePlan]:
  """Chooses the level of each 'auto' table; returns a plan for each spec.

  Each table gets its fastest level. While the tables do not fit in memory, the
  one that loses the least time per byte saved moves to a finer level.

  Args:
    specs: Tables to place.
    distinct_rows: Table name -> distinct rows that a device looks up in a step;
      see `count_distinct`.
    links: Speeds of the cluster's links.
    num_groups: Number of groups, n.
    group_size: Devices of a group, m.
    device_bytes: Memory for tables and slots per device, in bytes.

  Raises:
    ValueError: A table has no count, or the tables do not fit even at level
      global.
  """
  if missing := [s.name for s in specs if s.name not in distinct_rows]:
    raise ValueError(
      f'plan_tables(distinct_rows=...): no count for {missing}; count them on'
      ' a few batches with count_distinct.'
    )
  cluster = Cluster(links, num_groups, group_size)
  options: list[dict[Level, Placement]] = []
  for spec in specs:
    levels = list(Level) if spec.level == 'auto' else [spec.resolved_level()]
    options.append(
      {
        level: placement(spec, level, distinct_rows[spec.name], cluster)
        for level in levels
      }
    )
  fastest = [min(o.values(), key=_by_time) for o in options]
  chosen = list(fastest)
  while (excess := sum(p.state_bytes for p in chosen) - device_bytes) > 0:
    moves = [
      (_price(p, finer), i, finer)
      for i, p in enumerate(chosen)
      for finer in options[i].values()
      if finer.state_bytes < p.state_bytes
    ]
    if not moves:
      raise ValueError(
        f'plan_tables: the tables take {excess:.4g} bytes a device more than'
        f' device_bytes={device_bytes:.4g} even at the finest levels they may'
        f' have on {num_groups} x {group_size} devices. Use more devices, fewer'
        ' or narrower rows, or an optimizer with fewer slots.'
      )
    _, i, finer = min(moves, key=lambda move: move[:2])
    chosen[i] = finer
  return [
    TablePlan(
      dataclasses.replace(spec, level=_NAMES[p.level]),
      p,
      tuple(q for q in o.values() if q.level is not p.level),
      _reason(spec, p, best),
    )
    for spec, p, best, o in zip(specs, chosen, fastest, options, strict=True)
  ]


def placement(
  spec: TableSpec,
  level: Level,
  distinct_rows: float,
  cluster: Cluster,
) -> Placement:
  """Cost of a table at a level; see the module."""
  links, n, m = cluster.links, cluster.num_groups, cluster.group_size
  width = 4.0 * spec.embedding_dim
  dense_bytes = spec.num_embeddings * (width + 4)
  row = distinct_rows * (width + 4)
  state = _state_bytes(spec, level.num_pieces(n, m))
  if level is Level.NONE:
    step_s = cluster.seconds('all_reduce', 'xla', dense_bytes)
    step_s += _DENSE_PASSES * dense_bytes / _MEMORY_BYTES_PER_S
    once = 2 * dense_bytes / (n * m)
    inter = once * (n - 1) if n > 1 else 0.0
    return Placement(level, state, inter, once * (n * m - 1) - inter, step_s)
  step_s = _TOUCHED_PASSES * row / _MEMORY_BYTES_PER_S
  if level is Level.INTRA:
    intra = 2 * row * (m - 1) / m
    inter = row * (n - 1)
    step_s += cluster.axis_seconds('all_gather', INTER, row * n)
  else:
    intra = 2 * row * (m - 1) / (n * m)
    inter = 2 * row * (n - 1) / n
    step_s += inter / links.lane_bytes_per_s(m)
    step_s += _ALL_TO_ALLS * links.inter_latency_s * (n > 1)
  step_s += intra / links.intra_bytes_per_s
  step_s += _ALL_TO_ALLS * links.intra_latency_s * (m > 1)
  return Placement(level, state, inter, intra, step_s)


def count_distinct(
  ids: Iterable[Any], features: Mapping[str, str], num_devices: int
) -> dict[str, float]:
  """Table name -> mean number of distinct rows looked up per device and step.

  Args:
    ids: batch['ids'] of a few steps of a process, as for
      `EmbeddingTables.prepare`.
    features: Feature name -> table name.
    num_devices: Devices of the process.
  """
  totals = dict.fromkeys(features.values(), 0)
  num_batches = 0
  for batch in ids:
    num_batches += 1
    for device in range(num_devices):
      seen: dict[str, list[np.ndarray]] = {}
      for path, leaf in jax.tree.leaves_with_path(batch):
        part = np.split(np.asarray(leaf), num_devices)[device]
        table = features[path[-1].key]
        seen.setdefault(table, []).append(part[part >= 0])
      for table, parts in seen.items():
        totals[table] += len(np.unique(np.concatenate(parts)))
  if not num_batches:
    raise ValueError('count_distinct: there is no batch to count in.')
  steps = num_batches * num_devices
  return {table: total / steps for table, total in totals.items()}


def _state_bytes(spec: TableSpec, num_pieces: int) -> float:
  rows = -(-spec.num_embeddings // num_pieces)
  slots = jax.eval_shape(lambda: spec.optimizer.init(rows, spec.embedding_dim))
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(slots))
  return float(rows * spec.row_bytes + size)


def _by_time(place: Placement) -> tuple[float, float]:
  return place.step_s, place.state_bytes


def _price(old: Placement, new: Placement) -> float:
  """Seconds lost per byte saved."""
  return (new.step_s - old.step_s) / (old.state_bytes - new.state_bytes)


def _reason(spec: TableSpec, chosen: Placement, fastest: Placement) -> str:
  level = _NAMES[chosen.level]
  if spec.level != 'auto':
    return f'{level}: as asked for.'
  cost = f'{chosen.step_s * 1e3:.3g} ms a step'
  if chosen.level is fastest.level:
    return f'{level}: the least time, {cost}.'
  return (
    f'{level}: {cost}; {_NAMES[fastest.level]} would take'
    f' {fastest.step_s * 1e3:.3g} ms, but all tables do not fit then.'
  )
