# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds hosts that are worse than the others of their job.

Agents measure their hosts when they are asked to (`host_check`): the devices,
memory, the disk, and the links to two other hosts, so that a good host beside a
bad one has a good link too. Here the figures are compared: nothing is known of
a host by itself, so that hosts that are all equally slow are all well.

Pure, as `rendezvous`.
"""

import bisect
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import statistics
from typing import Any

from absl import logging

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.rendezvous_room import (
  AgentRecord,
  natural_order,
  RendezvousConfig,
  Room,
)

NUM_PEERS = 2  # Hosts to which each measures its link.
_RING_S = 1.0  # Age of the order in which hosts measure their links.
_Check = pb.NodeCheck
# What is compared among hosts: figure -> what it is, divisor and unit.
_FIGURES = {
  'matmul_flops': ('products of matrices at', 1e9, 'GFLOP/s'),
  'memory_bytes': ('memory at', 1e9, 'GB/s'),
  'disk_bytes': ('writes to its disk at', 1e6, 'MB/s'),
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """What is the matter with a host."""

  share: float  # Of the others' median; below 0: it is no matter of speed.
  text: str


def findings(
  checks: Mapping[str, pb.NodeCheck], fraction: float
) -> dict[str, Finding]:
  """Returns what is the matter with hosts, the worst first.

  Below `fraction` of the median of the others a host is bad.
  """
  found: dict[str, Finding] = {}

  def add(name: str, share: float, text: str) -> None:
    if name not in found or share < found[name].share:
      found[name] = Finding(share, text)

  done = {n: one for n, one in checks.items() if one.state == _Check.DONE}
  for name, one in checks.items():
    if one.is_wrong:
      add(name, -3.0, f'it computes wrong: {one.error}')
    elif one.state == _Check.FAILED and done:
      add(name, -2.0, f'its check failed: {one.error}')
  for name, text in _odd_ones(done):
    add(name, -1.0, text)
  groups: dict[str, dict[str, pb.NodeCheck]] = {}
  for name, one in done.items():
    groups.setdefault(f'{one.platform} {one.device_kind}', {})[name] = one
  for figure, (what, divisor, unit) in _FIGURES.items():
    # Faster devices may be there on purpose.
    parts = groups.values() if figure == 'matmul_flops' else [done]
    for part in parts:
      values = {n: v for n, one in part.items() if (v := getattr(one, figure))}
      for name, value, middle in _slow(values, fraction):
        text = f'{what} {value / divisor:.3g} {unit}'
        add(name, value / middle, f'{text}, the others {middle / divisor:.3g}')
  for name, value, middle in _slow(_link_bytes(done), fraction):
    text = f'links at {value / 1e6:.3g} MB/s' if value else 'no link works'
    add(name, value / middle, f'{text}, the others {middle / 1e6:.3g}')
  return dict(sorted(found.items(), key=lambda item: item[1].share))


def _odd_ones(
  done: Mapping[str, pb.NodeCheck],
) -> Iterator[tuple[str, str]]:
  """Hosts that have lost a device, or all of them."""
  if len(done) < 3:
    return
  platform = statistics.mode(one.platform for one in done.values())
  same = {n: one for n, one in done.items() if one.platform == platform}
  usual = statistics.median_low(one.num_devices for one in same.values())
  for name, one in done.items():
    if one.platform != platform:
      yield name, f'its devices are {one.platform}, the others {platform}'
    elif one.num_devices < usual:
      yield name, f'it has {one.num_devices} devices, the others {usual}'


def _link_bytes(done: Mapping[str, pb.NodeCheck]) -> dict[str, float]:
  """The best link that each host is an end of; 0: none works."""
  best: dict[str, float] = {}
  for name, one in done.items():
    for link in one.links:
      for end in (name, link.peer):
        if end in done:
          best[end] = max(best.get(end, 0.0), link.bytes)
  return best


def _slow(
  values: Mapping[str, float], fraction: float
) -> Iterator[tuple[str, float, float]]:
  """Yields names, values and the others' medians of those far below these."""
  ordered = sorted(values.values())
  for name, value in values.items():
    at = bisect.bisect_left(ordered, value)
    rest = len(ordered) - 1  # Others.
    if rest < 1:
      return
    low, high = ((rest - 1) // 2, rest // 2)
    middle = sum(ordered[k + (k >= at)] for k in (low, high)) / 2
    if value < fraction * middle:
      yield name, value, middle


class NodeChecks:
  """The checks of a job's hosts: what they are asked, and what was found."""

  def __init__(self, job: str, room: Room, config: RendezvousConfig):
    self._job, self._room, self._config = job, room, config
    self._ring: dict[str, int] = {}
    self._order: list[str] = []
    self._ring_at = -float('inf')
    self.findings: dict[str, Finding] = {}  # By name of the host.
    self.kept_out: set[str] = set()

  def ask(self, agent: AgentRecord, now: float) -> pb.AgentBeatReply:
    """Returns what an idle agent is to measure now, if anything."""
    reply = pb.AgentBeatReply()
    if not self._is_used(agent) or agent.is_leaving:
      return reply
    if agent.beat.check.state == _Check.NONE:
      reply.is_to_check = True
    elif (link := self._link(agent, now)) is not None:
      reply.link.CopyFrom(link)
    if agent.name in self.kept_out:
      reply.reason = f'kept out: {self.findings[agent.name].text}'
    return reply

  def is_ready(self, agent: AgentRecord, now: float) -> bool:
    """Whether a host has measured what it is to, or takes too long for it."""
    if not self._is_used(agent):
      return True
    if now - agent.check_since > self._config.node_check_s:
      return True
    if agent.beat.check.state in (_Check.NONE, _Check.RUNNING):
      return False
    return self._link(agent, now) is None

  def are_awaited(self, now: float) -> bool:
    """Whether a host is still at its check: it could take part soon."""
    return any(
      one.is_idle and not one.is_leaving and not self.is_ready(one, now)
      for one in self._room.current_agents()
    )

  def admitted(
    self, candidates: Sequence[AgentRecord], min_hosts: int
  ) -> list[AgentRecord]:
    """Names bad hosts, and returns those that may take part."""
    self.kept_out = set()
    if self._config.node_check == 'off':
      return list(candidates)
    self._judge()
    there = {agent.name for agent in candidates}
    bad = [name for name in self.findings if name in there]
    if self._config.node_check != 'exclude':
      return list(candidates)
    spare = max(0, len(candidates) - min_hosts)
    self.kept_out = set(bad[:spare])
    for name in bad:
      logging.warning(
        'Job %s: %s %s.',
        self._job,
        name,
        'is kept out'
        if name in self.kept_out
        else f'takes part all the same: the job needs {min_hosts} hosts',
      )
    return [one for one in candidates if one.name not in self.kept_out]

  def may_grow_by(self, agent: AgentRecord) -> bool:
    """Whether a job that runs should be stopped to take a host in."""
    if self._config.node_check != 'exclude' or not self._is_used(agent):
      return True
    self._judge()
    return agent.name not in self.findings

  def _is_used(self, agent: AgentRecord) -> bool:
    # A job of one host has none to compare it with.
    _, most = self._room.num_hosts or (0, self._config.max_hosts)
    is_off = self._config.node_check == 'off' or most == 1
    return not is_off and agent.beat.HasField('check')

  def _judge(self) -> None:
    checks = {
      agent.name: agent.beat.check
      for agent in self._room.current_agents()
      if self._is_used(agent)
    }
    found = findings(checks, self._config.node_check_fraction)
    for name, one in found.items():
      if name not in self.findings or self.findings[name].text != one.text:
        logging.warning('Job %s: %s: %s.', self._job, name, one.text)
    self.findings = found
    self.kept_out &= found.keys()

  def _link(self, agent: AgentRecord, now: float) -> pb.LinkTask | None:
    """The next link that an agent is to measure; None: no more now.

    To the next idle hosts by name, the first after the last.
    """
    check = agent.beat.check
    measured = {link.peer for link in check.links}
    if check.state != _Check.DONE or len(measured) >= NUM_PEERS:
      return None
    if now - self._ring_at > _RING_S or agent.name not in self._ring:
      self._order = sorted(
        (
          one.name
          for one in self._room.current_agents()
          if one.is_idle and not one.is_leaving and one.beat.check.link_port
        ),
        key=natural_order,
      )
      self._ring = {name: i for i, name in enumerate(self._order)}
      self._ring_at = now
    at = self._ring.get(agent.name)
    if at is None:
      return None
    num = len(self._order)
    for step in range(1, min(NUM_PEERS + 2, num)):
      name = self._order[(at + step) % num]
      peer = self._room.current(name)
      if peer is not None and peer.is_idle and name not in measured:
        to = peer.beat.check
        return pb.LinkTask(
          peer=name,
          address=peer.beat.address,
          port=to.link_port,
          key=to.link_key,
        )
    return None


def as_json(
  check: pb.NodeCheck, finding: Finding | None
) -> dict[str, Any] | None:
  """Returns a host's check as plain values; None: it has none."""
  if check.state == _Check.NONE and finding is None:
    return None
  return {
    'state': _Check.State.Name(check.state).lower(),
    'finding': finding.text[:400] if finding else '',
    'num_devices': check.num_devices,
    **{name: getattr(check, name) for name in _FIGURES},
    'link_bytes': max((link.bytes for link in check.links), default=0.0),
  }
