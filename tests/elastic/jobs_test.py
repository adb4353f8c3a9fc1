# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
import functools
import itertools
import json

import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import jobs as jobs_lib
from antjax.elastic.jobs import Jobs
from antjax.elastic.liveness import Liveness
from antjax.elastic.protocol import Refused
from antjax.shards.ledger_spec import LedgerSpec
from tests.shards.states import state_of

SPEC = LedgerSpec(num_records=20, shard_size=4)
STALE, INVALID = 'FAILED_PRECONDITION', 'INVALID_ARGUMENT'


class Worker:
  """Sends requests to a Jobs under one name."""

  incarnations = itertools.count(1)

  def __init__(self, jobs, name='a', generation=0, job='j'):
    self.jobs = jobs
    self.head = pb.Head(
      job=job,
      client=name,
      incarnation=next(self.incarnations),
      generation=generation,
    )

  def send(self, request, now=0.0):
    self.head.sequence += 1
    request.head.CopyFrom(self.head)
    return pb.ExchangeReply.FromString(self.jobs.apply(request, now))

  def create(self, **fields):
    spec = {'name': 'd', 'num_records': 20, 'shard_size': 4, 'num_epochs': 1}
    data_set = pb.DataSet(**{**spec, **fields})
    return self.send(pb.CreateDataSetRequest(data_set=data_set))

  def begin(self, state=b'', number=1):
    return self.send(
      pb.BeginRequest(data_set='d', state=state, pass_number=number)
    )

  def join(self, **fields):
    self.create(**fields)
    self.begin()
    return self

  def exchange(self, num_wanted=0, number=1, **fields):
    return self.send(
      pb.ExchangeRequest(
        data_set='d', pass_number=number, num_wanted=num_wanted, **fields
      )
    )

  def commit(self, state, step=1):
    return self.send(pb.CommitRequest(step=step, states={'d': state}))

  def operate(self, action, **fields):
    return self.send(pb.OperateRequest(action=action, **fields))


@pytest.fixture
def jobs():
  return Jobs()


def said(client, generation):
  return pb.Head(job='j', client=client, generation=generation)


def counts(jobs):
  return jobs.job('j').data_sets['d'].counts()


def counted(*numbers):
  states = ('todo', 'doing', 'consumed', 'done', 'set_aside')
  return dict(zip(states, numbers, strict=True))


def start(jobs, *members, job='j', now=1.0):
  message = pb.StartGeneration(job=job, members=members, jax_coordinator='h:1')
  jobs.apply(message, now)
  return jobs.job(job).generation


def end(jobs, job='j', now=2.0, **fields):
  generation = jobs.job(job).generation
  jobs.apply(pb.EndGeneration(job=job, generation=generation, **fields), now)


def refused(jobs, code, match, call):
  before = jobs.to_bytes()
  with pytest.raises(Refused, match=match) as caught:
    call()
  assert caught.value.code == code
  assert jobs.to_bytes() == before


def json_state(records):
  return json.dumps(state_of({(0, r) for r in records}, SPEC)).encode()


def test_workers_share_the_shards_of_a_data_set(jobs):
  a, b = Worker(jobs, 'a').join(), Worker(jobs, 'b').join()
  first = a.exchange(3)
  second = b.exchange(3)
  indices = [lease.shard.index for lease in (*first.leases, *second.leases)]
  assert sorted(indices) == [0, 1, 2, 3, 4]
  assert b.exchange(1).outcome == pb.ExchangeReply.WAIT
  done = [lease.shard for lease in first.leases]
  assert not a.exchange(1, consumed=done).leases
  returned = pb.Lease(shard=second.leases[0].shard, consumed=b'\x03')
  b.exchange(0, returned=[returned])
  [lease] = a.exchange(1).leases
  assert lease == returned


def test_a_request_is_applied_once_however_often_it_comes(jobs):
  worker = Worker(jobs).join()
  request = pb.ExchangeRequest(data_set='d', pass_number=1, num_wanted=2)
  reply = worker.send(request)
  before = jobs.to_bytes()
  assert pb.ExchangeReply.FromString(jobs.apply(request, 9.0)) == reply
  assert jobs.to_bytes() == before
  worker.exchange(1)
  refused(jobs, STALE, 'older than', lambda: jobs.apply(request, 9.0))


def test_a_new_process_of_a_name_fences_off_the_one_before(jobs):
  old = Worker(jobs).join()
  new = Worker(jobs).join()
  refused(jobs, STALE, 'another process has its name', old.exchange)
  refused(jobs, STALE, 'fenced off', old.create)
  assert new.exchange(1).leases


def test_an_exchange_is_applied_wholly_or_not_at_all(jobs):
  worker = Worker(jobs).join()
  leases = worker.exchange(2).leases
  good, held = leases[0].shard, leases[1].shard
  other = next(
    pb.Shard(epoch=0, index=i, start=4 * i, stop=4 * i + 4)
    for i in range(5)
    if i not in (good.index, held.index)
  )
  for fields in (
    {'consumed': [good, other]},
    {'consumed': [good, good]},
    {'consumed': [good], 'returned': [pb.Lease(shard=good)]},
    {'consumed': [good], 'progress': [pb.Lease(shard=held, consumed=b'\xff')]},
    {'consumed': [good], 'failed': [pb.DataError(shard=other)]},
  ):
    wrong = functools.partial(worker.exchange, 1, **fields)
    refused(jobs, INVALID, 'not leased|named twice|so many', wrong)


def test_begin_is_once_a_pass(jobs):
  a, b = Worker(jobs, 'a'), Worker(jobs, 'b')
  a.create()
  refused(jobs, STALE, 'none has begun', lambda: a.exchange(1))
  a.begin(json_state(range(8)))
  a.exchange(1)
  b.begin(json_state(range(8)))
  assert counts(jobs)['doing'] == 1
  other = functools.partial(b.begin, json_state(range(4)))
  refused(jobs, STALE, 'restored different', other)
  b.begin(json_state(range(12)), number=2)
  assert counts(jobs) == counted(2, 0, 0, 3, 0)
  refused(jobs, STALE, 'pass 2 has begun', lambda: a.exchange(1))
  refused(jobs, STALE, 'pass 1 of data set .* is over', lambda: a.begin())
  a.begin(json_state(range(12)), number=2)
  assert a.exchange(1, number=2).leases


@pytest.mark.parametrize('state', [b'{', b'[1]', b'\xff', b'[' * 10**5])
def test_a_state_that_is_none_is_refused(jobs, state):
  worker = Worker(jobs)
  worker.create()
  refused(jobs, INVALID, 'tate', lambda: worker.begin(state))
  worker.begin()
  refused(jobs, INVALID, 'tate', lambda: worker.commit(state))


def test_a_commit_makes_what_it_has_done(jobs):
  worker = Worker(jobs).join()
  shards = [lease.shard for lease in worker.exchange(5).leases]
  worker.exchange(consumed=shards)
  worker.commit(json_state(range(20)), step=7)
  job = jobs.job('j')
  assert (job.last_step, counts(jobs)['done']) == (7, 5)
  assert worker.exchange(1).first_open_epoch == 1


def test_a_commit_of_a_pass_that_is_over_is_not_one_in_the_next(jobs):
  """The checkpoint is written while a faster worker begins the next pass."""
  a, b = Worker(jobs, 'a').join(), Worker(jobs, 'b').join()
  b.begin(number=2)
  b.exchange(1, number=2)
  a.commit(json_state(range(20)), step=3)
  assert counts(jobs)['todo'] == 4
  assert jobs.job('j').last_step == 3


def test_a_commit_to_two_data_sets_is_wholly_or_not_at_all(jobs):
  worker = Worker(jobs).join()
  worker.create(name='e')
  worker.send(pb.BeginRequest(data_set='e', pass_number=1))
  good = json_state(range(20))
  bad = json.dumps(state_of({(3, 1)}, SPEC)).encode()
  for states in ({'d': good, 'e': bad}, {'d': bad, 'e': good}):
    request = pb.CommitRequest(states=states)
    refused(jobs, INVALID, 'only 0', lambda: worker.send(request))


def test_workers_must_say_the_same_of_a_data_set(jobs):
  Worker(jobs, 'a').join()
  for name, old, new in (('shard_size', 4, 5), ('num_epochs', 1, 2)):
    other = functools.partial(Worker(jobs, 'b').create, **{name: new})
    refused(jobs, INVALID, f'created with {name}={old}; got {new}', other)


def test_a_later_generation_may_train_for_more_epochs(jobs):
  Worker(jobs, 'a', generation=start(jobs, 'a')).join()
  end(jobs)
  worker = Worker(jobs, 'a', generation=start(jobs, 'a'))
  worker.join(num_epochs=3)
  assert len(worker.exchange(100).leases) == 15


def test_what_is_not_there_is_named(jobs):
  worker = Worker(jobs)
  refused(jobs, 'NOT_FOUND', "no job 'j'", worker.begin)
  worker.create()
  for call in (
    lambda: worker.send(pb.BeginRequest(data_set='x', pass_number=1)),
    lambda: worker.send(pb.ExchangeRequest(data_set='x', pass_number=1)),
    lambda: worker.send(pb.CommitRequest(states={'x': b'{}'})),
    lambda: worker.send(pb.ExtendStreamRequest(data_set='x')),
    lambda: worker.operate('retry_set_aside', target='x'),
  ):
    refused(jobs, 'NOT_FOUND', "no data set 'x'", call)


def test_a_stream_is_extended_by_several_in_any_order(jobs):
  worker = Worker(jobs)
  worker.create(is_stream=True, num_records=0)
  worker.begin()

  def extend(num_records, is_closed=False, generation=0):
    worker.head.generation = generation
    worker.send(
      pb.ExtendStreamRequest(
        data_set='d', num_records=num_records, is_closed=is_closed
      )
    )

  extend(9)
  extend(5)
  assert len(worker.exchange(9).leases) == 2
  extend(10, True)
  extend(9)
  assert jobs.job('j').sets['d'].spec.num_records == 10
  refused(jobs, INVALID, 'closed', lambda: extend(12))
  [lease] = worker.exchange(9).leases
  assert (lease.shard.start, lease.shard.stop) == (8, 10)


# --- Generations. -------------------------------------------------------------


def test_only_the_running_generation_may_change_a_job(jobs):
  old = Worker(jobs, 'a', generation=start(jobs, 'a', 'b')).join()
  leases = old.exchange(2).leases
  end(jobs, counts=True, reason='b died')
  assert counts(jobs)['doing'] == 0
  late = pb.ExchangeRequest(
    data_set='d', pass_number=1, consumed=[leases[0].shard]
  )
  refused(jobs, STALE, 'generation 1 of job .* is over', old.exchange)
  new = Worker(jobs, 'a', generation=start(jobs, 'a'))
  refused(jobs, STALE, 'at generation 2', lambda: old.send(late))
  refused(jobs, STALE, 'at generation 2', old.join)
  new.join()
  assert len(new.exchange(9).leases) == 5
  ahead = Worker(jobs, 'z', generation=3)
  refused(jobs, STALE, 'is of generation 3', ahead.create)


def test_a_job_without_agents_begins_later_generations_itself(jobs):
  old = Worker(jobs, 'a', generation=0).join()
  old.exchange(3)
  newer = Worker(jobs, 'b', generation=1)
  refused(jobs, STALE, 'at generation 0', newer.exchange)
  new = Worker(jobs, 'a', generation=1).join()
  refused(jobs, STALE, 'at generation 1', old.exchange)
  assert len(new.exchange(9).leases) == 5


def test_a_request_that_is_refused_begins_no_generation(jobs):
  Worker(jobs, 'a').join()
  newer = Worker(jobs, 'a', generation=4)
  refused(jobs, INVALID, 'created', lambda: newer.create(shard_size=3))


def test_no_generation_or_pass_is_so_late_that_none_can_follow(jobs):
  Worker(jobs, 'a').join()
  last = Worker(jobs, 'b', generation=(1 << 53) - 1)
  refused(jobs, INVALID, 'head.generation=', last.create)
  worker = Worker(jobs, 'b', generation=1_700_000_000)  # By the clock.
  worker.create()
  late = functools.partial(worker.begin, number=(1 << 53) - 1)
  refused(jobs, INVALID, 'pass_number=', late)


@pytest.mark.parametrize('at_most_once', [False, True])
def test_an_epoch_that_no_message_could_name_changes_nothing(
  jobs, at_most_once
):
  worker = Worker(jobs, 'a')
  worker.create(delivery=int(at_most_once))
  state = {**json.loads(json_state([])), 'first_epoch': 1 << 70, 'epochs': []}
  begin = functools.partial(worker.begin, json.dumps(state).encode())
  refused(jobs, INVALID, 'first_epoch', begin)


def test_generations_are_recorded(jobs):
  start(jobs, 'a', 'b')
  end(jobs, counts=True, reason='a died', replaced=['a'])
  job = jobs.job('j')
  assert (job.phase, job.restarts_used, job.replaced) == ('waiting', 1, ['a'])
  start(jobs, 'a', 'c')
  assert job.replaced == []
  end(jobs, is_final=True, is_success=True)
  job = jobs.job('j')
  assert (job.phase, job.is_success, job.restarts_used) == ('ended', True, 1)
  assert [one.members for one in job.history] == [['a', 'b'], ['a', 'c']]
  assert (job.history[0].reason, job.history[0].counts) == ('a died', True)
  assert start(jobs, 'a') == 2  # It is over.


def test_the_time_between_faults_is_measured(jobs):
  assert jobs.job('j').mtbf_s == 0.0
  for began, until, is_fault in ((0, 100, 1), (200, 500, 0), (500, 600, 1)):
    start(jobs, 'a', now=began)
    end(jobs, now=until, counts=is_fault)
  assert jobs.job('j').mtbf_s == 250.0


def test_what_is_remembered_of_a_job_is_bounded(jobs):
  for _ in range(500):
    start(jobs, 'a')
    end(jobs, counts=True)
  job = jobs.job('j')
  assert (len(job.history), len(job.actions)) == (100, 200)
  assert job.history[-1].generation == 500


def test_a_plan_is_for_the_hosts_it_was_made_for(jobs):
  start(jobs, 'a', 'b')
  plan = pb.Plan(num_micro_batches={'a': 3, 'b': 1}, lr_scale=2.0)
  jobs.apply(pb.SetPlan(job='j', plan=plan), 0.0)
  job = jobs.job('j')
  assert (job.plan.version, job.plan.num_micro_batches['a']) == (1, 3)
  end(jobs)
  start(jobs, 'b', 'a')
  assert job.plan.version == 1
  end(jobs)
  start(jobs, 'a', 'c')
  assert (job.plan.version, job.plan.lr_scale) == (2, 1.0)
  assert not job.plan.num_micro_batches


# --- Operators. ---------------------------------------------------------------


def test_operators_stop_restart_and_replace(jobs):
  start(jobs, 'a', 'b')
  operator = Worker(jobs, 'operator')
  replace = functools.partial(operator.operate, 'replace', target='z')
  refused(jobs, INVALID, "'z' is no worker .* has a, b", replace)
  operator.operate('replace', target='b', reason='it smokes')
  job = jobs.job('j')
  assert job.replace_asked == ['b']
  assert job.actions[-1][1] == 'replace b by operator: it smokes'
  operator.operate('restart')
  assert job.is_restart_asked
  end(jobs)
  assert not job.is_restart_asked and not job.replace_asked
  operator.operate('stop')
  assert job.is_stopping
  end(jobs, is_final=True)
  assert job.phase == 'ended'
  operator.operate('restart')
  assert (job.phase, job.is_stopping) == ('waiting', False)
  explode = functools.partial(operator.operate, 'explode')
  refused(jobs, INVALID, 'one of stop, restart', explode)


def test_operators_set_plans_and_retry_bad_shards(jobs):
  worker = Worker(jobs).join(max_data_errors=1)
  [lease] = worker.exchange(1).leases
  worker.exchange(failed=[pb.DataError(shard=lease.shard, message='torn')])
  assert counts(jobs)['set_aside'] == 1
  operator = Worker(jobs, 'operator', generation=99)
  operator.operate('retry_set_aside')
  assert counts(jobs)['set_aside'] == 0
  operator.operate('set_plan', plan=pb.Plan(deadline_s=2.0, version=55))
  assert jobs.job('j').plan.version == 1
  assert jobs.job('j').plan.deadline_s == 2.0


def test_the_controller_replaces_within_its_budget(jobs):
  start(jobs, 'a')
  asked = pb.OperateRequest(
    head=pb.Head(job='j', client='controller'), action='replace', target='a'
  )
  assert jobs.decide(asked, 0.0)
  assert jobs.job('j').policy_restarts == 1
  asked.target = 'z'
  refused(jobs, INVALID, 'no worker', lambda: jobs.decide(asked, 0.0))


def test_ended_jobs_make_room_for_new_ones(jobs, monkeypatch):
  monkeypatch.setattr(jobs_lib, 'MAX_JOBS', 2)
  start(jobs, 'a')
  Worker(jobs, job='k').create()
  other = Worker(jobs, job='l')
  refused(jobs, 'RESOURCE_EXHAUSTED', '2 jobs already', other.create)
  end(jobs, is_final=True)
  other.create()
  assert jobs.names() == ['k', 'l']


def test_names_of_clients_are_bounded(jobs, monkeypatch):
  monkeypatch.setattr(jobs_lib, 'MAX_CLIENTS', 1)
  Worker(jobs, 'a').join()
  refused(jobs, 'RESOURCE_EXHAUSTED', '1 clients', Worker(jobs, 'b').create)


def test_jobs_do_not_mix(jobs):
  one, other = Worker(jobs, job='j').join(), Worker(jobs, job='k').join()
  assert len(one.exchange(9).leases) == len(other.exchange(9).leases) == 5


def test_everything_is_stored(jobs):
  worker = Worker(jobs, 'a', generation=start(jobs, 'a')).join()
  worker.exchange(2)
  jobs.apply(pb.SetPlan(job='j', plan=pb.Plan(lr_scale=3.0)), 0.0)
  Worker(jobs, 'op').operate('replace', target='a')
  Worker(jobs, job='k').join()
  again = Jobs.from_bytes(jobs.to_bytes())
  assert again.to_bytes() == jobs.to_bytes()
  assert again.job('j') != jobs.job('j')  # Ledgers are compared by identity.
  ours, theirs = jobs.job('j'), again.job('j')
  for name in ('clients', 'history', 'plan', 'replace_asked', 'members'):
    assert getattr(ours, name) == getattr(theirs, name)


# --- Who is given up. ---------------------------------------------------------


@pytest.mark.parametrize(
  'lease_timeout_s, silent_from, hung_from', [(30, 60, 90), (1000, 200, 130)]
)
def test_workers_under_agents_are_given_up_when_silent_or_stuck(
  jobs, lease_timeout_s, silent_from, hung_from
):
  """B makes no step after 30 s, and says nothing from some time on."""
  generation = start(jobs, 'a', 'b')
  liveness = Liveness(lease_timeout_s, progress_timeout_s=100)
  assert liveness.hung(jobs.job('j'), 0) == []
  for now in range(10, 200, 10):
    liveness.note_progress(said('a', generation), now, (now, now))
    if now <= silent_from:
      liveness.note_progress(said('b', generation), now, (min(now, 30), 0))
    expected = ['b'] if now > hung_from else []
    assert liveness.hung(jobs.job('j'), now) == expected, now


def test_what_has_taken_long_before_may_take_as_long_again(jobs):
  liveness = Liveness(1000.0, 10.0)
  start(jobs, 'a')
  a = said('a', 1)
  for now, step in ((0.0, 1), (8.0, 2), (17.0, 3)):
    liveness.note_progress(a, now, (step, step))
  job = jobs.job('j')
  assert liveness.has_stepped(job)
  assert liveness.hung(job, 17.0 + 26.0) == []
  assert liveness.hung(job, 17.0 + 28.0) == ['a']


def test_a_worker_that_starts_has_time_to_compile(jobs):
  start(jobs, 'a')
  liveness = Liveness(lease_timeout_s=30, progress_timeout_s=100)
  assert liveness.hung(jobs.job('j'), 0) == []
  assert liveness.hung(jobs.job('j'), 99) == []
  assert liveness.hung(jobs.job('j'), 101) == ['a']


def test_a_worker_that_has_left_may_be_silent(jobs):
  """It evaluates, say; the next generation's worker of that name may not."""
  generation = start(jobs, 'a', 'b')
  liveness = Liveness(lease_timeout_s=30, progress_timeout_s=100)
  for name in 'ab':
    liveness.note_progress(said(name, generation), 0, (1, 1))
  liveness.leave(said('a', generation), 1)
  liveness.hear(said('a', generation), 2)  # Was on its way.
  assert liveness.hung(jobs.job('j'), 1000) == ['b']
  end(jobs)
  start(jobs, 'a', 'b')
  assert liveness.hung(jobs.job('j'), 1000) == []
  assert liveness.hung(jobs.job('j'), 1101) == ['a', 'b']


def test_without_agents_only_holders_are_given_up(jobs):
  a, b = Worker(jobs, 'a').join(), Worker(jobs, 'b').join()
  a.exchange(1)
  liveness = Liveness(lease_timeout_s=30, progress_timeout_s=100)
  for name in 'ab':
    liveness.hear(said(name, 0), 0)
  assert liveness.hung(jobs.job('j'), 31) == ['a']
  b.exchange(1)
  liveness.hear(said('a', 0), 31)
  assert liveness.hung(jobs.job('j'), 32) == ['b']


# --- Defects of DLRover, by their number in the dossier. ----------------------


def test_dlrover_defect_4_a_late_report_hits_no_other_shard(jobs):
  """Neither after a restore nor after a restart of the coordinator."""
  old = Worker(jobs, 'a', generation=start(jobs, 'a')).join()
  [lease] = old.exchange(1).leases
  end(jobs)
  new = Worker(jobs, 'b', generation=start(jobs, 'b')).join()
  leases = new.exchange(5).leases
  assert lease.shard in [one.shard for one in leases]
  for again in (jobs, Jobs.from_bytes(jobs.to_bytes())):
    old.jobs = again
    late = lambda: old.exchange(consumed=[lease.shard])  # noqa: E731
    refused(again, STALE, 'at generation 2', late)
    assert counts(again)['doing'] == 5


def test_dlrover_defect_8_a_hung_worker_loses_its_shards_and_is_fenced(jobs):
  hung, alive = Worker(jobs, 'hung').join(), Worker(jobs, 'alive').join()
  [lease] = hung.exchange(1).leases
  hung.exchange(progress=[pb.Lease(shard=lease.shard, consumed=b'\x01')])
  expire = pb.ExpireWorkers(job='j', workers=['hung'], reason='no progress')
  assert jobs.decide(expire, 5.0)
  assert not jobs.decide(expire, 6.0)
  [again] = alive.exchange(1).leases
  assert again == pb.Lease(shard=lease.shard, consumed=b'\x01')
  late = functools.partial(hung.exchange, consumed=[lease.shard])
  refused(jobs, STALE, 'its shards went to others', late)
  with pytest.raises(Refused, match='fenced off'):
    jobs.check_alive(hung.head)
  assert Worker(jobs, 'hung').join().exchange(1).leases
  assert 'hung expired (no progress): 1 shards' in jobs.job('j').actions[-1][1]


def test_dlrover_defect_10_data_sets_are_there_once_and_leases_end(jobs):
  """Registering twice is once; what was read ahead ends with a restore."""
  worker = Worker(jobs).join()
  worker.create()
  ahead = worker.exchange(3).leases
  assert len(jobs.job('j').data_sets) == 1
  worker.begin(number=2)
  assert counts(jobs)['doing'] == 0
  late = functools.partial(worker.exchange, consumed=[ahead[0].shard])
  refused(jobs, STALE, 'pass 2 has begun', late)
  refused(jobs, INVALID, 'not leased', functools.partial(late, number=2))
