# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A job of ten thousand hosts: one limit, cheap heartbeats, spaced beats."""

import time

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.protocol import beat_s, MAX_HOSTS
from antjax.elastic.windows import MonitorConfig
from tests.elastic.coordinator_server import (
  head,
  Server,
)
from tests.elastic.event_loop import beside

_HOSTS = 10_000
_MOST_S = 200e-6  # Took 3.6 ms; 26 us on an idle core.


@beside(Server)
async def test_heartbeats_of_ten_thousand_hosts_are_cheap_and_spaced(server):
  names = [f'host-{i}' for i in range(_HOSTS)]
  server.writer.decide(
    pb.StartGeneration(job='j', members=names, jax_coordinator='h:1')
  )
  plan = pb.Plan(num_micro_batches=dict.fromkeys(names, 4))
  server.writer.decide(pb.SetPlan(job='j', plan=plan))
  await server.writer.settled()
  took_s = 0.0
  for number, name in enumerate(names[:6000]):
    times = pb.BatchTime(
      step=1, end_unix_s=5.0, compute_s=1, num_micro_batches=4, num_samples=8
    )
    beat = pb.HeartbeatRequest(
      head=head(0, name, incarnation=number + 1, generation=1),
      batch_times=[times],
      plan_version=int(number > 0),
    )
    began = time.process_time()
    data = await server.coordinator._heartbeat(beat, b'')
    took_s += time.process_time() - began
    reply = pb.HeartbeatReply.FromString(data)
    # Only who has not got it is told the plan.
    assert len(reply.plan.num_micro_batches) == (0 if number else _HOSTS)
  assert took_s / 6000 < _MOST_S
  assert reply.beat_s == 5.0
  # All of them are measured.
  assert len(server.coordinator._monitor.view('j', 0.0).workers) == 6000


def test_beats_are_spaced_by_the_size_of_the_job():
  assert beat_s(1.0, 100) == 1.0 and beat_s(1.0, MAX_HOSTS) == 10.0
  assert MonitorConfig().max_workers == MAX_HOSTS
