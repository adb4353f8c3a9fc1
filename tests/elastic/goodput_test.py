# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the time of a job went."""

import time

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.decisions import ActionLog
from antjax.elastic.goodput import Goodput
from antjax.elastic.jobs import Jobs
from antjax.elastic.monitor import Monitor
from antjax.elastic.rendezvous import Rendezvous
from antjax.elastic.status import Snapshots
from tests.elastic.jobs_test import start


def beat(steps, generation=1, client='a', at=0.0):
  return pb.HeartbeatRequest(
    head=pb.Head(job='j', client=client, generation=generation),
    batch_times=[
      pb.BatchTime(step=s, end_unix_s=at + s, compute_s=0.7, wait_s=0.2)
      for s in steps
    ],
  )


def test_steps_done_again_are_no_progress():
  goodput = Goodput()
  assert goodput.shares('j', 0.0) is None
  goodput.note(beat([]), 100.0)
  goodput.note(beat(range(2, 12)), 115.0)
  goodput.note(beat(range(2, 12), client='b'), 115.0)  # The same steps.
  goodput.note(beat(range(2, 12)), 116.0)  # A repeat.
  goodput.note(beat(range(7, 17), generation=2, at=50.0), 150.0)
  goodput.note(beat(range(12, 14)), 151.0)  # Of a generation that is over.
  shares = goodput.shares('j', 160.0)
  # Ten steps and then five, of a second with their input; the first is known
  # without it.
  assert shares == {
    'goodput': 0.2483,
    'new_steps_s': 14.9,
    'repeated_steps_s': 4.9,
    'other_s': 40.2,
  }


def test_a_replacement_is_listed_once():
  jobs, log, now = Jobs(), ActionLog(), time.time()
  start(jobs, 'a', 'b')
  reason = 'b was slow for 5 min'
  log.record('j', now, 'KILL_RESTART', reason)
  log.record('j', now, 'ADJUST_BS', 'b is slow')
  head = pb.Head(job='j', client='controller')
  asked = pb.OperateRequest(
    head=head, action='replace', target='b', reason=reason
  )
  jobs.decide(asked, now)
  shares = {'goodput': 0.5}
  snapshot = Snapshots(
    jobs, Monitor(), Rendezvous(), log, goodput_fn=lambda job, at: shares
  ).take(now, 5.0)
  job = snapshot['jobs'][0]
  texts = sorted(action['text'] for action in job['actions'])
  assert texts == ['ADJUST_BS', f'replace b by controller: {reason}']
  assert job['time'] == shares
