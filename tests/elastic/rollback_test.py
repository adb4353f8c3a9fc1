# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A coordinator whose journal has lost its end gives nothing out twice."""

import contextlib
import functools
import os
import shutil
import sqlite3
import time

import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import requests, writer
from antjax.elastic.client import (
  CoordinatorClient,
  CoordinatorGoneError,
  StaleError,
)
from antjax.elastic.jobs import Jobs
from antjax.shards.journal import Journal
from tests.cases import slow_but
from tests.elastic.coordinator_server import (
  CoordinatorProcess,
  exchange,
  head,
  join,
  Server,
)
from tests.elastic.event_loop import run
from tests.elastic.jobs_test import (
  counts,
  INVALID,
  refused,
  STALE,
  start,
  Worker,
)


def known(jobs, worker):
  """The worker's next requests say what the last reply has told it."""
  worker.head.revision = jobs.job('j').revision
  return worker


def test_who_knows_more_than_the_journal_makes_all_begin_again():
  jobs = Jobs()
  assert start(jobs, 'a', 'b') == 1
  a, b = (Worker(jobs, name, generation=1).join() for name in 'ab')
  a.exchange(1)
  older = jobs.to_bytes()
  known(jobs, b)
  shard = known(jobs, a).exchange(1).leases[0].shard
  a.exchange(consumed=[shard])
  known(jobs, a)
  jobs = Jobs.from_bytes(older)
  assert jobs.recovery(b.head) is None
  recovery = jobs.recovery(a.head)
  assert '2 changes of the job are gone' in recovery.reason
  jobs.apply(recovery, 5.0)
  job = jobs.job('j')
  assert job.phase == 'waiting' and 'are gone' in job.actions[-1][1]
  assert counts(jobs)['doing'] == 0 and not job.history[-1].counts
  assert jobs.recovery(a.head) is None
  # Nobody who was there before is heard, whatever the generation is now.
  assert start(jobs, 'a', 'b') == 2
  for worker in (a, b):
    worker.jobs, worker.head.generation = jobs, 2
    refused(jobs, STALE, 'has lost a part of its journal', worker.exchange)
    alive = functools.partial(jobs.check_alive, worker.head)
    refused(jobs, STALE, 'lost a part', alive)
  new = Worker(jobs, 'a', generation=2)
  assert new.join().exchange(9).leases
  assert Jobs.from_bytes(jobs.to_bytes()).to_bytes() == jobs.to_bytes()


def test_a_journal_that_overtakes_a_worker_is_still_behind_it():
  jobs = Jobs()
  a, b = (Worker(jobs, name).join() for name in 'ab')
  known(jobs, a)
  older = jobs.to_bytes()
  b.exchange(3)
  known(jobs, b)
  jobs = Jobs.from_bytes(older)
  for _ in range(3):  # The coordinator restarts.
    later = jobs.job('j').revision + (1 << 20)
    jobs.apply(pb.ResumeJob(job='j', revision=later), 2.0)
  a.jobs = jobs
  for _ in range(9):
    a.exchange(1)
    known(jobs, a)
  assert jobs.recovery(a.head) is None
  jobs = Jobs.from_bytes(jobs.to_bytes())
  recovery = jobs.recovery(b.head)
  assert '1 changes of the job are gone' in recovery.reason
  jobs.apply(recovery, 3.0)
  for worker in (a, b):
    assert jobs.recovery(worker.head) is None
    worker.jobs = jobs
    refused(jobs, STALE, 'lost a part of its journal', worker.exchange)


@pytest.mark.slow
def test_without_agents_an_idle_worker_gets_nothing_of_one_that_knows_more(
  tmp_path,
):
  wal = tmp_path / 'journal.db-wal'
  data_set = pb.DataSet(name='d', num_records=4000, shard_size=4)
  ask = pb.ExchangeRequest(data_set='d', pass_number=1, num_wanted=10)
  with contextlib.ExitStack() as stack:
    process = stack.enter_context(CoordinatorProcess(tmp_path))
    a, b = (
      stack.enter_context(
        CoordinatorClient(process.address, job='j', client=name, give_up_s=60)
      )
      for name in 'ab'
    )
    for client in (a, b):
      client.call('CreateDataSet', pb.CreateDataSetRequest(data_set=data_set))
      client.call('Begin', pb.BeginRequest(data_set='d', pass_number=1))
    size = wal.stat().st_size
    b.call('Exchange', ask)
    process.end()
    os.truncate(wal, size)
    process.start()
    with pytest.raises(CoordinatorGoneError, match='to hear 1 other workers'):
      a.call('Exchange', ask, give_up_s=1)
    while True:  # Until it waits no longer.
      with contextlib.suppress(CoordinatorGoneError):
        a.call('Exchange', ask, give_up_s=5)
        break
    for client in (b, a):
      with pytest.raises(StaleError, match='gone|lost a part'):
        client.call('Heartbeat', pb.HeartbeatRequest())


def test_a_coordinator_without_its_journal_goes_on_above_what_was(tmp_path):
  jobs = Jobs()
  beat = pb.Head(job='j', client='a', revision=7)
  jobs.apply(jobs.recovery(beat, generation=5), 1.0)
  assert start(jobs, 'a') == 6
  worker = Worker(jobs, 'a')
  worker.head.revision = 1 << 50
  recovery = functools.partial(jobs.recovery, worker.head)
  refused(jobs, INVALID, 'head.revision=', recovery)


def test_generations_go_on_above_those_that_agents_have_seen():
  jobs = Jobs()
  spare = pb.Head(job='j', client='spare', revision=7, generation=2)
  jobs.apply(jobs.recovery(spare, generation=2), 1.0)
  assert jobs.job('j').generation == 2
  # Another agent has heard less of what changed, and of a newer generation.
  other = pb.Head(job='j', client='a', revision=6, generation=3)
  recovery = jobs.recovery(other, generation=3)
  assert 'generation 3 is gone' in recovery.reason
  jobs.apply(recovery, 2.0)
  assert jobs.recovery(other, generation=3) is None
  assert start(jobs, 'a') == 4


def test_an_idle_agent_that_speaks_first_knows_the_generation(tmp_path):
  flags = ('--min_hosts=1', '--max_hosts=1', '--join_wait_s=0.1')
  with contextlib.ExitStack() as stack:
    process = stack.enter_context(CoordinatorProcess(tmp_path, *flags))
    a, spare = (
      stack.enter_context(
        CoordinatorClient(process.address, job='j', client=name, give_up_s=60)
      )
      for name in ('a', 'spare')
    )

    def generation_of(client):
      beat = pb.AgentBeatRequest(address='127.0.0.1', free_port=1)
      while True:
        reply = client.call('AgentBeat', beat)
        if reply.command == pb.AgentBeatReply.RUN:
          return reply.assignment.generation
        time.sleep(0.1)

    assert generation_of(a) == 1
    spare.call('AgentBeat', pb.AgentBeatRequest())
    process.end()
    for path in tmp_path.glob('journal.db*'):
      path.unlink()
    process.start()
    spare.call('AgentBeat', pb.AgentBeatRequest())
    assert generation_of(a) == 2


def test_no_lie_about_what_is_gone_leaves_a_job_stuck():
  jobs = Jobs()
  assert start(jobs, 'a') == 1
  lie = pb.Head(job='j', client='a', revision=9, generation=1 << 53)
  refused(jobs, INVALID, 'generation=', functools.partial(jobs.recovery, lie))
  lie.generation = 1
  later = functools.partial(jobs.recovery, lie, 1 << 53)  # As agents say it.
  refused(jobs, INVALID, 'generation=', later)
  # After thousands of lies that were believed.
  jobs.job('j').revision = (1 << 52) - 1
  lie.revision = (1 << 52) + 1
  refused(
    jobs, INVALID, 'head.revision=', functools.partial(jobs.recovery, lie)
  )
  lie.revision = 1 << 52
  jobs.apply(jobs.recovery(lie), 1.0)
  assert start(jobs, 'a') == 2
  worker = known(jobs, Worker(jobs, 'a', generation=2))
  beat = pb.HeartbeatRequest(head=worker.head)
  assert requests.parse(type(beat), beat.SerializeToString()) == beat
  assert worker.join().exchange(1).leases


def test_replies_say_the_revision_and_requests_repeat_it(tmp_path):
  with CoordinatorProcess(tmp_path) as process:
    with CoordinatorClient(process.address, job='j', client='a') as client:
      data_set = pb.DataSet(name='d', num_records=8, shard_size=4)
      create = pb.CreateDataSetRequest(data_set=data_set)
      assert client.call('CreateDataSet', create).revision == 1
      begin = pb.BeginRequest(data_set='d', pass_number=1)
      assert client.call('Begin', begin).revision == 2
      assert begin.head.revision == 1
      beat = client.call('Heartbeat', pb.HeartbeatRequest())
      assert beat.revision == 2


@run
async def test_nothing_is_leased_until_all_have_spoken(tmp_path):
  async with Server(tmp_path) as server:
    for name in 'ab':
      await join(server, name)
      await server.send('Exchange', exchange(3, name))
  async with Server(tmp_path) as server:
    await server.refused(
      'Exchange', exchange(4), 'UNAVAILABLE', 'hear 1 other workers'
    )
    await server.send('Heartbeat', pb.HeartbeatRequest(head=head(0, 'b')))
    assert (await server.send('Exchange', exchange(4))).leases
  async with Server(tmp_path) as server:
    server.clock.now += 31  # Then it is given up.
    assert (await server.send('Exchange', exchange(5))).leases


@run
async def test_a_revision_that_was_never_told_hurts_nobody(tmp_path):
  async with Server(tmp_path) as server:
    for name in 'ab':
      await join(server, name)
    told = await server.send('Exchange', exchange(3, num_wanted=1))
    before = server.jobs.to_bytes()
    later = told.revision + 1
    for revision, proof in (
      (later, b''),
      (later, told.revision_proof),
      (later, server.jobs.proof('another', later)),
      (1 << 52, b'x' * 16),
    ):
      lie = head(4, 'a')
      lie.revision, lie.revision_proof = revision, proof
      beat = pb.HeartbeatRequest(head=lie)
      ask = exchange(4)
      ask.head.CopyFrom(lie)
      for name, request in (('Heartbeat', beat), ('Exchange', ask)):
        await server.refused(
          name, request, 'INVALID_ARGUMENT', 'was never told to a worker'
        )
    assert server.jobs.to_bytes() == before
    assert (await server.send('Exchange', exchange(3, 'b'))).leases
    # One that was told once, and is gone from the journal, is proven.
    lie.revision = later
    lie.revision_proof = server.jobs.proof('j', later)
    server.jobs.job('j').revision = told.revision
    await server.refused(
      'Heartbeat', pb.HeartbeatRequest(head=lie), 'FAILED_PRECONDITION', 'gone'
    )


@run
async def test_the_proof_is_of_the_revision_that_is_told(tmp_path):
  async with Server(tmp_path) as server:
    await join(server)
    replies = [
      await server.send('Exchange', exchange(3)),
      await server.send('Heartbeat', pb.HeartbeatRequest(head=head(0))),
    ]
    replies.append(await server.send('Exchange', exchange(3)))  # Repeated.
    proofs = [server.jobs.proof('j', reply.revision) for reply in replies]
    assert [reply.revision_proof for reply in replies] == proofs
  async with Server(tmp_path) as server:  # Also of the journal's replies.
    assert (await server.send('Exchange', exchange(3))) == replies[0]


def test_a_journal_keeps_its_key_whatever_its_log_loses(tmp_path):
  path, wal = tmp_path / 'journal.db', tmp_path / 'journal.db-wal'
  with Journal(path) as journal:
    key = journal.key
    assert len(key) == 32
    journal.append([(0, b'x', 1.0)])
    copy = tmp_path / 'killed.db'  # As it is when it is killed.
    shutil.copy(path, copy)
    assert wal.stat().st_size
  with Journal(copy) as journal:
    assert journal.key == key and journal.load()[0] is None
  db = sqlite3.connect(path)  # As older versions have made it.
  db.execute('DROP TABLE secret')
  db.close()
  with Journal(path) as journal:
    assert len(journal.key) == 32 and journal.key != key
    assert list(journal.load()[1]) == [(0, b'x', 1.0)]
  with Journal(tmp_path / 'other.db') as other:
    assert other.key not in (key, journal.key)


DAMAGE = {
  'cut': lambda wal: wal.write_bytes(wal.read_bytes()[:40_000]),
  'flipped': lambda wal: wal.write_bytes(
    wal.read_bytes()[:30_000] + b'\xff' + wal.read_bytes()[30_001:]
  ),
  'removed': lambda wal: wal.unlink(),
}


@pytest.mark.parametrize(
  'damage',
  slow_but(DAMAGE, 'removed'),
)
def test_a_log_that_lost_its_end_is_found_out(tmp_path, damage):
  wal = tmp_path / 'journal.db-wal'
  data_set = pb.DataSet(name='d', num_records=4000, shard_size=4)
  with CoordinatorProcess(tmp_path) as process:
    a, b = (
      CoordinatorClient(process.address, job='j', client=name, give_up_s=60)
      for name in 'ab'
    )
    for client in (a, b):
      client.call('CreateDataSet', pb.CreateDataSetRequest(data_set=data_set))
      client.call('Begin', pb.BeginRequest(data_set='d', pass_number=1))
    ask = pb.ExchangeRequest(data_set='d', pass_number=1, num_wanted=1)
    b.call('Exchange', ask)
    for _ in range(40):
      a.call('Exchange', ask)
    process.end()
    DAMAGE[damage](wal)
    process.start()
    with pytest.raises(StaleError, match='changes of the job are gone'):
      a.call('Exchange', ask)
    with pytest.raises(StaleError):
      b.call('Exchange', ask)
    for client in (a, b):
      client.close()
    with CoordinatorClient(process.address, job='j', client='a') as new:
      new.call('CreateDataSet', pb.CreateDataSetRequest(data_set=data_set))
      new.call('Begin', pb.BeginRequest(data_set='d', pass_number=1))
      ask.num_wanted = 1000
      assert len(new.call('Exchange', ask).leases) == 1000


def test_a_copy_of_the_journal_is_the_same(tmp_path):
  with Journal(tmp_path / 'a.db') as journal:
    journal.append([(0, b'x', 1.0)])
  shutil.copy(tmp_path / 'a.db', tmp_path / 'b.db')
  (tmp_path / 'b.db').write_bytes((tmp_path / 'b.db').read_bytes()[:5000])
  with pytest.raises(RuntimeError, match='A copy of it is older'):
    Journal(tmp_path / 'b.db')


def test_a_journal_that_another_program_has_open_is_not_damaged(tmp_path):
  Journal(tmp_path / 'journal.db').close()
  other = sqlite3.connect(tmp_path / 'journal.db', isolation_level=None)
  other.execute('BEGIN EXCLUSIVE')
  with pytest.raises(
    RuntimeError, match='is locked; another program'
  ) as caught:
    Journal(tmp_path / 'journal.db')
  other.close()
  assert 'whole' not in str(caught.value)
  with Journal(tmp_path / 'journal.db') as journal:
    assert writer.load(journal).names() == []
