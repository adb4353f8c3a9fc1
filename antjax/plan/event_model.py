# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Predicts the seconds of a compiled step by running through its schedule.

A device issues instructions in the order of the text. One that computes takes
as many cycles as the compiler estimates, if the text has that (libtpu's), else
the longer of its operations at the device's rate and its bytes at the memory's.
A collective that starts occupies its links, of a group, between groups or both,
from when they are free, for its latencies and bytes; where it ends, the device
waits for it. Links are used by one collective at a time. Loops whose trip count
the text does not tell run `unknown` times.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import functools
import re

from antjax.collectives.cost_model import Cluster, Op
from antjax.mesh.mesh import INTER, INTRA
from antjax.plan import census, hlo_text, op_cost
from antjax.plan.census import Collective
from antjax.plan.op_cost import Instruction

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_BODY = re.compile(r'body=%?([\w.\-]+)')
_OPS: dict[str, Op] = {
  census.ALL_GATHER: 'all_gather',
  census.ALL_REDUCE: 'all_reduce',
}


@dataclasses.dataclass(frozen=True)
class Device:
  """Rates of a device."""

  flops_per_s: float  # Of products.
  bytes_per_s: float  # Of its memory.
  cycles_per_s: float = 0.0  # Its clock; 0: the text's cycles are not used.


@dataclasses.dataclass
class ScheduledTime:
  """Seconds of a step: `step_s` is the sum of the other two."""

  compute_s: float = 0.0
  waiting_s: float = 0.0  # For collectives.

  @property
  def step_s(self) -> float:
    return self.compute_s + self.waiting_s


def run(
  program: census.Program, cluster: Cluster, device: Device, unknown: int = 1
) -> ScheduledTime:
  """Predicts a program's seconds on one device.

  Args:
    program: From `census.program`, of a scheduled text.
    cluster: Groups and the speeds of their links.
    device: Rates of computation.
    unknown: Iterations of a loop without a known count.
  """
  model = _Model(program, cluster, device, unknown)
  model.run(program.entry)
  return model.time


class _Model:
  def __init__(
    self,
    program: census.Program,
    cluster: Cluster,
    device: Device,
    unknown: int,
  ):
    self.time = ScheduledTime()
    self._program, self._cluster = program, cluster
    self._device, self._unknown = device, unknown
    self._costs = op_cost.Costs(program.bodies)
    self._collectives = {c.name: c for c in program.read()}
    self._by_chain = {
      c.chain: c.name for c in self._collectives.values() if c.chain
    }
    self._free = {INTRA: 0.0, INTER: 0.0}  # Second at which links are free.

  def run(self, computation: str) -> None:
    """Goes through a computation's instructions."""
    ends: dict[str, float] = {}  # Open starts -> second of their end.
    later: dict[str, Iterable[str]] = {}  # Begin at their update.
    listed = self._costs.instructions(computation)
    # A receive may come before its send, which stands for both.
    meetings = {
      met[1]: x.name
      for x in listed.values()
      if x.op == 'send' and (met := hlo_text.RENDEZVOUS.search(x.rest))
    }
    last = {c: x.name for x in listed.values() for c in self._chains(x)}
    for x in listed.values():
      first = x.operands[0] if x.operands else ''
      if x.op.endswith('-done'):
        self._wait(ends.pop(first, 0.0))
      elif x.op.endswith('-update'):
        end = ends.pop(first, 0.0)
        ends[x.name] = max(end, self._start(later.pop(first, ())))
      elif x.op in ('send', 'recv'):
        met = hlo_text.RENDEZVOUS.search(x.rest)
        sent = meetings.get(met[1], x.name) if met else x.name
        if sent not in ends:
          ends[sent] = self._start([sent])
        ends[x.name] = ends[sent]
      elif x.op.endswith('-start') and (names := self._names(x)):
        is_later = x.op.startswith('custom-call')
        later[x.name] = names if is_later else frozenset()
        ends[x.name] = 0.0 if is_later else self._start(names)
      elif x.op == 'while':
        self._loop(x)
      elif x.op in ('call', 'conditional'):
        for called in hlo_text.called(x.rest)[:1]:
          self.run(called)
      else:
        self._compute(x, computation, ends, last)

  def _compute(
    self,
    x: Instruction,
    computation: str,
    ends: dict[str, float],
    last: Mapping[str, str],
  ) -> None:
    """Computes, and moves what is inside: chains at once, all else alone."""
    alone = [n for n in self._names(x) if not self._collectives[n].chain]
    if alone:
      self._wait(self._start(alone))
      return
    chains = self._chains(x)
    for chain in chains - ends.keys():
      ends[chain] = self._start([self._by_chain[chain]])
    device, cycles = self._device, _CYCLES.search(x.rest)
    if cycles and device.cycles_per_s:
      self.time.compute_s += int(cycles[1]) / device.cycles_per_s
    else:
      self.time.compute_s += max(
        self._costs.flops(x, computation) / device.flops_per_s,
        self._costs.num_bytes(x, computation) / device.bytes_per_s,
      )
    for chain in chains:
      if last[chain] == x.name:
        self._wait(ends.pop(chain))

  def _loop(self, x: Instruction) -> None:
    """One turn, and another that stands for all the following."""
    body, trips = _BODY.search(x.rest), self._program.trips(x.rest)
    assert body, x.rest
    trips = self._unknown if trips is None else trips
    for _ in range(min(trips, 2)):
      before = dataclasses.replace(self.time)
      self.run(body[1])
    if trips > 2:
      at, times = self.time.step_s, trips - 2
      self.time.compute_s += times * (self.time.compute_s - before.compute_s)
      self.time.waiting_s += times * (self.time.waiting_s - before.waiting_s)
      for axis in self._free:
        self._free[axis] += self.time.step_s - at

  def _start(self, names: Iterable[str]) -> float:
    """Second at which collectives that begin now will have ended."""
    end = 0.0
    for name in names:
      if (found := self._collectives.get(name)) is None:
        continue
      for axis, seconds in self._seconds(found).items():
        begin = max(self.time.step_s, self._free[axis])
        self._free[axis] = begin + seconds
        end = max(end, self._free[axis])
    return end

  def _wait(self, end: float) -> None:
    self.time.waiting_s += max(0.0, end - self.time.step_s)

  def _seconds(self, c: Collective) -> dict[str, float]:
    """Axis -> seconds of one run on its links."""
    cluster, links = self._cluster, self._cluster.links
    n, m = cluster.num_groups, cluster.group_size
    op: Op = _OPS.get(c.kind, 'reduce_scatter')
    times = 2 if op == 'all_reduce' else 1
    found = {}
    if c.intra_bytes:
      found[INTRA] = times * (m - 1) * links.intra_latency_s
      found[INTRA] += c.intra_bytes * links.intra_seconds_per_byte(op)
    if c.inter_bytes:
      found[INTER] = times * (n - 1) * links.inter_latency_s
      found[INTER] += c.inter_bytes / links.lane_bytes_per_s(m)
    return found

  def _names(self, x: Instruction) -> frozenset[str]:
    """Names of the collectives that an instruction is, or calls."""
    if x.name in self._collectives:
      return frozenset([x.name])
    return frozenset().union(*map(self._names_in, hlo_text.called(x.rest)))

  @functools.cache  # noqa: B019 - lives as long as the program does.
  def _names_in(self, computation: str) -> frozenset[str]:
    listed = self._costs.instructions(computation).values()
    return frozenset().union(*map(self._names, listed))

  def _chains(self, x: Instruction) -> set[str]:
    """Chains of collectives of which a fusion has parts."""
    return {
      chain[1]
      for called in hlo_text.called(x.rest)
      for inner in self._costs.instructions(called).values()
      if (chain := hlo_text.CHAIN.search(inner.rest))
      and chain[1] in self._by_chain
    }
