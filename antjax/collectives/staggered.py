# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""HO-Ring's all-reduce with its lanes shifted in time, for serial backends.

If a device runs its collectives one after the other, as on XLA:CPU, HO-Ring as
published does not overlap: all lanes of a group communicate between groups at
the same time, and then all inside. Here each lane owns every m-th chunk of the
array. While some lanes exchange chunks between groups, neighbors among the
others pass chunks inside the group.

A chunk owned by lane L starts at lane L + 1 and travels around to L, each lane
adding its addend. L sums it over groups with its peers. Then the sum travels
around once more. Each lane repeatedly receives from its left neighbor, sends to
its right one, and exchanges its own chunk with the other groups. A hop involves
two lanes only, so a lane that exchanges between groups delays only its
neighbors. This schedule, which fills the uplink for groups of at least four, is
ours, not the paper's.

A group's uplink carries the minimum, 2 (n - 1) / n of the array. All hops
inside a group have one size, even the first and last, which carry fewer chunks:
with R chunks per lane a device sends about (R + 2) / R times the minimum.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.collectives import blocks
from antjax.collectives.varying import to_varying
from antjax.mesh.mesh import INTER, INTRA

_BOTH = (INTER, INTRA)
# Measured on XLA:CPU across processes; larger chunks fill and drain longer.
_CHUNK_BYTES = 256 << 10


@dataclasses.dataclass(frozen=True)
class _Phase:
  """One hop of some lanes to their right, then their sums over groups.

  Chunks are rows of the array, one per lane; -1: none.
  """

  senders: tuple[int, ...]  # Lanes that send; their right neighbors receive.
  # [m - 1][lane] of partial sums received, by their number of hops so far.
  partial: tuple[tuple[int, ...], ...]
  result: tuple[tuple[int, ...], ...]  # [m - 1][lane] of sums received.
  outside: tuple[int, ...]  # [lane] of chunks that senders sum over groups.


def schedule(num_lanes: int, num_rounds: int) -> list[_Phase]:
  """Phases that sum `num_rounds` chunks of each lane."""
  m = num_lanes
  classes: list[tuple[int, ...]]
  if m % 2:
    classes = [(lane,) for lane in range(m)]
  else:
    classes = [tuple(range(0, m, 2)), tuple(range(1, m, 2))]
  started = [0] * m
  held_partial = [[-1] * m for _ in range(m)]  # [hops][lane]
  held_result = [[-1] * m for _ in range(m)]
  missing = m * num_rounds * (m - 1)
  phases: list[_Phase] = []
  while missing:
    senders = classes[len(phases) % len(classes)]
    partial = [[-1] * m for _ in range(m - 1)]
    result = [[-1] * m for _ in range(m - 1)]
    outside = [-1] * m
    for lane in senders:
      after = (lane + 1) % m
      if started[lane] < num_rounds:
        held_partial[0][lane] = started[lane] * m + (lane - 1) % m
        started[lane] += 1
      else:
        held_partial[0][lane] = -1
      for hops in range(m - 1):
        partial[hops][after] = held_partial[hops][lane]
        result[hops][after] = held_result[hops][lane]
        missing -= held_result[hops][lane] >= 0
      outside[lane] = held_partial[m - 1][lane]
      held_result[0][lane] = outside[lane]
    for lane in senders:
      after = (lane + 1) % m
      for hops in range(1, m):
        held_partial[hops][after] = partial[hops - 1][after]
        held_result[hops][after] = result[hops - 1][after]
    phases.append(
      _Phase(
        senders,
        tuple(map(tuple, partial)),
        tuple(map(tuple, result)),
        tuple(outside),
      )
    )
  return phases


def all_reduce(
  x: jax.Array, *, num_rounds: int | None = None, payload_dtype: Any = None
) -> jax.Array:
  """Sums over all devices; pads any shape inside.

  Args:
    x: This device's addend.
    num_rounds: Number of chunks per lane; more chunks fill the uplink sooner
      and cost more latency. None: chunks of about 256 KiB, 4 to 64 per lane.
    payload_dtype: Dtype to which wider floating-point addends and sums are
      rounded for sending; sums are formed in at least fp32.
  """
  n, m, _, lane = blocks.grid()
  x = blocks.addend(x)
  if m < 2 or x.size > np.iinfo(np.int32).max:
    raise ValueError(
      f'staggered.all_reduce: groups of {m} and {x.size} elements; needed are '
      'groups of at least 2 and fewer than 2**31 elements. Use ho_ring.'
    )
  if not x.size:
    return x
  if num_rounds is None:
    num_bytes = x.size * x.dtype.itemsize
    num_rounds = min(max(num_bytes // (m * _CHUNK_BYTES), 4), 64)
  num_chunks = num_rounds * m
  size = -(-x.size // (num_chunks * n)) * n  # Elements of a chunk.
  flat = x.reshape(-1)
  if size * num_chunks != x.size:
    flat = jnp.pad(flat, (0, size * num_chunks - x.size))
  run = _Run(flat, size, n, m, lane, payload_dtype)
  phases = schedule(m, num_rounds)
  for number in range(len(phases)):
    run.advance(number, phases)
  total = run.whole
  if total.size != x.size:
    total = lax.slice(total, (0,), (x.size,))
  return total.reshape(x.shape)


class _Run:
  """The values of a schedule while it is traced."""

  def __init__(
    self,
    flat: jax.Array,
    size: int,
    n: int,
    m: int,
    lane: jax.Array,
    payload_dtype: Any,
  ):
    self.flat, self.size, self.n, self.m = flat, size, n, m
    self.lane, self.payload_dtype = lane, payload_dtype
    self.whole = to_varying(jnp.zeros_like(flat))
    self._sum_dtype = blocks.summing_dtype(flat.dtype)
    self._wire = blocks.wire_dtype(flat, payload_dtype)
    self._zero = jnp.zeros((), jnp.int32)
    self._moved: list[jax.Array] = []
    # From the previous phase, whose receivers are the senders of this one. A
    # chunk keeps its slot on its way and frees it on arrival.
    empty = jnp.zeros((m - 1, size))
    self._partials = to_varying(empty.astype(self._sum_dtype))
    self._results = to_varying(empty.astype(flat.dtype))
    self._rows: tuple[tuple[int, ...], ...] = ((-1,) * m,) * (m - 1)
    self._own_results: dict[tuple[int, ...], jax.Array] = {}

  def advance(self, number: int, phases: list[_Phase]) -> None:
    """Traces phase `number`."""
    m, phase, later = self.m, phases[number], phases[number + 1 :]
    slots = [(number - hops) % (m - 1) for hops in range(m - 1)]
    self._wait()
    partials = self._partials
    complete = None
    for hops, rows in enumerate(self._rows):
      if max(rows) < 0:
        continue
      held = (number - 1 - hops) % (m - 1) + self._zero
      total = blocks.read(partials, held) + self._own(rows)
      if hops == m - 2:
        complete = total
      else:
        partials = blocks.write(partials, held, total)
    new = [phase.partial[0][(lane + 1) % m] for lane in range(m)]
    if max(new) >= 0:
      partials = blocks.write(partials, slots[0] + self._zero, self._own(new))
    results = self._results
    if max(phase.result[0]) >= 0:
      own = self._own_results[phase.senders]
      results = blocks.write(results, slots[0] + self._zero, own)
    self._partials = self._hop(partials, phase.partial, self._wire)
    self._results = self._hop(results, phase.result, self.payload_dtype)
    self._rows = phase.partial
    for slot, rows in zip(slots, phase.result, strict=True):
      if max(rows) >= 0:
        self._store(blocks.read(self._results, slot), rows, later)
    if max(phase.outside) >= 0:
      assert complete is not None
      self._wait()
      total = self._over_groups(self._after(complete), phase.outside)
      total = blocks.rounded(total.astype(self.flat.dtype), self.payload_dtype)
      self._own_results[phase.senders] = total
      self._store(total, phase.outside, later)

  def _hop(
    self, value: jax.Array, slots: tuple[tuple[int, ...], ...], wire: Any
  ) -> jax.Array:
    """Sends `value` to the right from lanes whose neighbor gets a row."""
    n, m = self.n, self.m
    pairs = [
      (group * m + (lane - 1) % m, group * m + lane)
      for group in range(n)
      for lane in range(m)
      if max(rows[lane] for rows in slots) >= 0
    ]
    return self._permute(value, pairs, wire) if pairs else value

  def _over_groups(self, value: jax.Array, rows: tuple[int, ...]) -> jax.Array:
    """The sum of a chunk over groups, for the lanes that have one."""
    n, m = self.n, self.m
    lanes = [lane for lane, row in enumerate(rows) if row >= 0]
    if n == 1:
      return value
    pairs = [
      (group * m + lane, (group + 1) % n * m + lane)
      for group in range(n)
      for lane in lanes
    ]
    if n == 2:
      # The same bytes as a reduce-scatter and an all-gather, in one step.
      other = self._permute(value, pairs, self._wire)
      mine = blocks.from_wire(
        blocks.to_wire(value, self._wire), value.dtype, self._wire
      )
      return mine + other
    group = lax.axis_index(INTER)
    parts = value.reshape(n, -1)
    total = blocks.read(parts, (group - 1) % n)
    for k in range(1, n):
      moved = self._permute(total, pairs, self._wire)
      total = moved + blocks.read(parts, (group - 1 - k) % n)
    total = blocks.rounded(total.astype(self.flat.dtype), self.payload_dtype)
    whole = to_varying(jnp.zeros((n, total.size), total.dtype))
    whole = blocks.write(whole, group, total)
    for k in range(1, n):
      total = self._permute(total, pairs, self.payload_dtype)
      whole = blocks.write(whole, (group - k) % n, total)
    return whole.reshape(-1)

  def _permute(
    self, value: jax.Array, pairs: list[tuple[int, int]], wire: Any
  ) -> jax.Array:
    moved = lax.ppermute(blocks.to_wire(value, wire), _BOTH, pairs)
    moved = blocks.from_wire(moved, value.dtype, wire)
    self._moved.append(moved)
    return moved

  def _wait(self) -> None:
    """Makes later values depend on all transfers so far.

    XLA orders independent collectives freely, and drops barriers before it
    does. So reads start at an offset computed from transferred values, which is
    zero because no lane is beyond the last.
    """
    if self._moved:
      seen = self._zero
      for x in self._moved:
        seen += x.reshape(-1)[0].astype(jnp.int32)
      self._zero = jnp.where(self.lane >= self.m, seen, 0)
      self._moved = []

  def _after(self, value: jax.Array) -> jax.Array:
    """A copy of `value` that depends on `_zero`."""
    return jnp.where(self._zero > 0, jnp.zeros_like(value), value)

  def _own(self, rows: Sequence[int]) -> jax.Array:
    """This device's addend to its lane's chunk; arbitrary if there is none."""
    start = self._row(rows) * self.size + self._zero
    own = lax.dynamic_slice(self.flat, (start,), (self.size,))
    return own.astype(self._sum_dtype)

  def _row(self, rows: Sequence[int]) -> jax.Array:
    return jnp.asarray(np.maximum(rows, 0), jnp.int32)[self.lane]

  def _store(
    self,
    value: jax.Array,
    rows: tuple[int, ...],
    later: list[_Phase],
  ) -> None:
    """Writes a chunk of the sum; lanes without one write scratch values."""
    value = value.astype(self.flat.dtype)
    targets, keeps = [], [False] * self.m
    for lane, row in enumerate(rows):
      if row < 0:
        futures = [
          found
          for phase in later
          for found in (phase.outside[lane], *(r[lane] for r in phase.result))
          if found >= 0
        ]
        keeps[lane] = not futures
        row = futures[-1] if futures else 0
      targets.append(row)
    start = self._row(targets) * self.size
    if any(keeps):
      old = lax.dynamic_slice(self.whole, (start,), (self.size,))
      value = jnp.where(jnp.asarray(keeps)[self.lane], old, value)
    self.whole = lax.dynamic_update_slice(self.whole, value, (start,))
