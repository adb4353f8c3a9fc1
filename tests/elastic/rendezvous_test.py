# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of antjax.elastic.rendezvous: hosts as toys, a clock by hand."""

import itertools
import random

import hypothesis
from hypothesis import strategies as st
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import jobs as jobs_lib
from antjax.elastic import rendezvous as rendezvous_lib
from antjax.elastic import rendezvous_room
from antjax.elastic.job_state import JobState
from antjax.elastic.rendezvous_room import natural_order
from tests.elastic.jobs_test import Worker

_Beat = pb.AgentBeatRequest
_Reply = pb.AgentBeatReply
_TICK_S = 0.5


class Host:
  """An agent and its worker; `is_alive` is the worker's process."""

  _incarnations = itertools.count(1)

  def __init__(self, name: str, address: str = '') -> None:
    self.name = name
    self.address = address or f'addr-{name}'
    self.num_hosts = (0, 0)
    self.check: pb.NodeCheck | None = None  # None: its agent cannot check.
    self.restart()

  def restart(self) -> None:
    """The agent process is new; its guard has killed the worker."""
    self.incarnation = next(self._incarnations)
    self.status, self.generation, self.code = _Beat.IDLE, 0, 0
    self.is_alive = False
    self.is_cut_off = False
    self.is_deaf = False  # Its worker cannot be killed.
    self.port = 7000 + self.incarnation
    self.assignment = None
    self.commands = []
    self.tail = f'tail of {self.name}'
    self.was_hung = False
    self.exit = None
    self.seen = 0.0

  def beat(self, rendezvous, job, now) -> None:
    if self.is_cut_off or self.exit is not None:
      return
    request = _Beat(
      address=self.address,
      free_port=self.port,
      status=self.status,
      generation=self.generation,
      exit_code=self.code,
      log_tail=self.tail if self.code else '',
      min_hosts=self.num_hosts[0],
      max_hosts=self.num_hosts[1],
      check=self.check,
    )
    request.head.client, request.head.incarnation = self.name, self.incarnation
    self.seen = now
    self.obey(rendezvous.beat(request, job, now))

  def obey(self, reply) -> None:
    self.commands.append(reply.command)
    self.was_hung |= reply.is_hung
    if reply.command == _Reply.RUN:
      assert self.status == _Beat.IDLE
      self.status, self.is_alive = _Beat.RUNNING, True
      self.assignment = reply.assignment
      self.generation, self.code = reply.assignment.generation, 0
    elif reply.command == _Reply.KILL and not self.is_deaf:
      self.status, self.is_alive = _Beat.IDLE, False
    elif reply.command == _Reply.STOP and self.is_alive:
      self.die(143)  # It saves at once.
    elif reply.command == _Reply.EXIT:
      self.is_alive = False
      self.exit = (reply.exit_code, reply.reason)

  def die(self, code: int) -> None:
    if self.status == _Beat.RUNNING:
      self.status, self.code, self.is_alive = _Beat.EXITED, code, False


class World:
  """A job, its rendezvous and its hosts; half a second a tick."""

  def __init__(self, *names: str, **config) -> None:
    self.config = rendezvous_room.RendezvousConfig(**config)
    self.rendezvous = rendezvous_lib.Rendezvous(self.config)
    self.jobs = jobs_lib.Jobs()
    self.now = 1000.0
    self.hosts = {name: Host(name) for name in names}
    self.ends: list[pb.EndGeneration] = []
    self.hung: set[str] = set()
    self.has_stepped = False
    self.lazy: random.Random | None = None  # Beats come late at times.

  def add(self, name: str, address: str = '') -> Host:
    self.hosts[name] = Host(name, address)
    return self.hosts[name]

  @property
  def job(self) -> JobState:
    return self.jobs.job('job')

  def apply(self, message) -> None:
    is_start = isinstance(message, pb.StartGeneration)
    if is_start:
      assert self.job.phase == 'waiting'
      assert not self.alive(), 'two generations at once'
    else:
      self.ends.append(message)
    before = self.job.generation
    self.jobs.apply(message, self.now)
    assert self.job.generation == before + is_start

  def operate(self, action: str, target: str = '') -> None:
    Worker(self.jobs, 'operator', job='job').operate(action, target=target)

  def tick(self, count: int = 1) -> None:
    for _ in range(count):
      self.now += _TICK_S
      for host in self.hosts.values():
        if self.lazy is not None and self.lazy.random() < 0.4:
          continue
        host.beat(self.rendezvous, self.job, self.now)
      for message in self.rendezvous.decide(
        self.job, self.now, self.hung, self.has_stepped
      ):
        self.apply(message)

  def until(self, condition, limit_s: float = 300.0) -> float:
    """Ticks until it holds; returns the seconds that took."""
    begin = self.now
    while not condition():
      assert self.now - begin < limit_s, self.job
      self.tick()
    return self.now - begin

  def run(self, generation: int, limit_s: float = 300.0) -> float:
    """Ticks until all members of a generation run."""
    return self.until(
      lambda: (
        self.job.generation == generation
        and self.job.phase == 'running'
        and all(
          self.hosts[name].is_alive
          and self.hosts[name].generation == generation
          for name in self.job.members
        )
      ),
      limit_s,
    )

  def alive(self) -> set[str]:
    """Hosts whose workers run and are not known to be lost."""
    return {
      name
      for name, host in self.hosts.items()
      if host.is_alive
      and not host.is_deaf
      and self.now - host.seen <= self.config.agent_timeout_s
    }

  def restart_coordinator(self) -> None:
    self.rendezvous = rendezvous_lib.Rendezvous(self.config)


def _running(*names: str, **config) -> World:
  world = World(*names, **config)
  world.run(1)
  return world


@pytest.fixture
def world() -> World:
  return _running('a', 'b', min_hosts=2, max_hosts=2)


def test_ranks_follow_names_in_natural_order():
  world = _running('host-10', 'host-2', 'host-1', min_hosts=3, max_hosts=3)
  assert world.job.members == ['host-1', 'host-2', 'host-10']
  first = world.hosts['host-1']
  assert world.job.jax_coordinator == f'{first.address}:{first.port}'
  for rank, name in enumerate(world.job.members):
    assert world.hosts[name].assignment == pb.Assignment(
      generation=1,
      rank=rank,
      num_hosts=3,
      jax_coordinator=world.job.jax_coordinator,
    )


def test_an_address_with_colons_is_put_in_brackets():
  world = World(min_hosts=1, max_hosts=1)
  host = world.add('a', 'fe80::1')
  world.run(1)
  assert world.job.jax_coordinator == f'[fe80::1]:{host.port}'


@hypothesis.given(st.lists(st.text(st.sampled_from('ab019-'), max_size=6)))
def test_natural_order_does_not_depend_on_who_came_first(names):
  backwards = names[::-1]
  assert sorted(names, key=natural_order) == sorted(
    backwards, key=natural_order
  )


def test_waits_for_the_minimum_then_a_while_for_more():
  world = World('a', min_hosts=2, max_hosts=4, join_wait_s=2)
  world.tick(100)
  assert world.job.phase == 'waiting'
  world.add('b')
  assert 2 <= world.run(1) <= 3.5
  assert world.job.members == ['a', 'b']


def test_the_maximum_starts_at_once_and_is_not_exceeded():
  world = World('a', 'b', 'c', min_hosts=1, max_hosts=2, grow_after_s=0)
  assert world.run(1) <= 2 * _TICK_S
  assert world.job.members == ['a', 'b']
  world.tick(200)
  assert world.job.generation == 1
  world.hosts.pop('a')  # Gone; the spare one takes its place.
  world.run(2)
  assert world.job.members == ['b', 'c']


def test_agents_may_want_another_number_of_hosts_for_their_job():
  world = World('a', 'b', 'c', 'd', min_hosts=1, max_hosts=1, grow_after_s=5)
  for host in world.hosts.values():
    host.num_hosts = (2, 3)
  d = world.hosts.pop('d')
  c = world.hosts.pop('c')
  world.run(1)
  assert world.job.members == ['a', 'b']
  world.hosts['c'] = c  # There is room for it,
  world.run(2)
  assert world.job.members == ['a', 'b', 'c']
  world.restart_coordinator()
  world.hosts['d'] = d  # and for no more.
  world.tick(100)
  assert world.job.generation == 2


@pytest.mark.parametrize('code', [1, 3, -9, -11])
def test_a_death_kills_all_and_starts_the_next_generation(code):
  world = _running('a', 'b', 'c', min_hosts=3, max_hosts=3)
  world.hosts['b'].die(code)
  assert world.run(2) <= 4 * _TICK_S
  (end,) = world.ends
  assert end.counts and not end.is_final and end.reason.startswith('b: ')
  assert world.job.restarts_used == 1
  assert all(_Reply.KILL in host.commands for host in world.hosts.values())
  ports = {end.port for end in world.hosts.values()}
  assert int(world.job.jax_coordinator.split(':')[1]) in ports


def test_the_cause_is_the_first_death(world):
  world.hosts['b'].die(-9)
  world.hosts['b'].beat(world.rendezvous, world.job, world.now + 0.1)
  world.hosts['a'].die(1)  # Its peer's connection is gone.
  world.tick()
  assert world.ends[0].reason == 'b: its worker died of signal 9 (SIGKILL)'


def _lose_an_agent(world):
  """The agent of b is killed; a's worker fails at a broken connection."""
  world.run(1)
  world.hosts['b'].is_cut_off = True
  world.hosts['a'].die(1)


def test_a_silent_agent_is_named_beside_what_it_broke():
  world = World('a', 'b', min_hosts=2, agent_timeout_s=9)
  _lose_an_agent(world)
  took_s = world.until(lambda: world.ends)
  assert world.ends[0].reason == (
    'a: its worker exited with code 1; b: no beat of its agent for 4 s, which'
    ' may be the cause'
  )
  assert 3 <= took_s <= 4 and world.ends[0].counts


def test_an_agent_that_comes_back_is_the_cause_of_what_broke():
  world = World('a', 'b', min_hosts=2, max_hosts=2, agent_timeout_s=9)
  _lose_an_agent(world)
  world.tick(3)
  assert not world.ends  # Others are to speak first.
  world.hosts['b'].restart()
  assert world.run(2) <= 4 * _TICK_S
  assert [end.reason for end in world.ends] == ['b: its agent was started anew']


def test_an_agent_that_speaks_again_is_not_the_cause():
  world = World('a', 'b', min_hosts=2, max_hosts=2, agent_timeout_s=9)
  _lose_an_agent(world)
  world.tick(3)
  world.hosts['b'].is_cut_off = False
  world.tick()
  assert world.ends[0].reason == 'a: its worker exited with code 1'


def test_a_lost_agent_is_the_cause_of_what_breaks_later():
  world = _running('a', 'b', min_hosts=2, agent_timeout_s=9)
  world.hosts['b'].is_cut_off = True
  world.tick(17)
  world.hosts['a'].die(1)
  world.until(lambda: world.ends)
  assert world.ends[0].reason == 'b: no beat of its agent for 10 s'


def test_no_generation_starts_before_all_have_killed():
  world = _running('a', 'b', 'c', min_hosts=1, join_wait_s=0, kill_timeout_s=60)
  world.hosts['c'].is_deaf = True
  world.hosts['a'].die(1)
  world.tick(20)
  assert world.job.phase == 'waiting' and world.job.generation == 1
  world.hosts['c'].is_deaf = False
  world.run(2, limit_s=3)
  assert world.job.members == ['a', 'b', 'c']


def test_a_host_that_cannot_kill_is_left_behind():
  world = _running('a', 'b', min_hosts=1, kill_timeout_s=20)
  world.hosts['b'].is_deaf = True
  world.hosts['a'].die(1)
  assert 20 <= world.run(2) < 25
  assert world.job.members == ['a']


def test_a_lost_agent_shrinks_the_job_and_its_return_grows_it():
  world = _running(
    'a', 'b', min_hosts=1, max_hosts=2, agent_timeout_s=10, grow_after_s=30
  )
  world.hosts['a'].is_cut_off = True
  assert 10 <= world.run(2) <= 16
  assert world.job.members == ['b']
  assert world.hosts['a'].is_alive  # Nobody could tell it; it is fenced off.
  assert world.ends[0].counts and 'no beat' in world.ends[0].reason
  world.hosts['a'].is_cut_off = False
  world.tick()
  assert not world.hosts['a'].is_alive  # Killed before anything else.
  assert 30 <= world.run(3) <= 35
  assert world.job.members == ['a', 'b']
  assert _Reply.STOP in world.hosts['b'].commands  # It could save.
  assert not world.ends[1].counts and 'taking in a' in world.ends[1].reason


def test_below_the_minimum_the_job_waits():
  world = _running('a', 'b', min_hosts=2)
  world.hosts['b'].is_cut_off = True
  world.tick(200)
  assert world.job.phase == 'waiting' and not world.alive()
  world.add('c')
  world.run(2)
  assert world.job.members == ['a', 'c']


def test_split_brain_one_of_two_agents_of_a_name_leaves(world):
  second = world.hosts['twin'] = Host('b', 'elsewhere')
  world.until(lambda: world.hosts['b'].exit is not None, 5)
  assert world.hosts['b'].exit[0] == 1
  assert 'another agent joined job job as b' in world.hosts['b'].exit[1]
  assert not world.hosts['b'].is_alive
  world.hosts['b'] = world.hosts.pop('twin')
  world.run(2)
  assert second.assignment.generation == 2 and second.exit is None
  world.tick(100)
  assert world.job.generation == 2  # They do not take turns.


def test_a_twin_elsewhere_may_still_run_until_it_speaks_or_is_lost():
  world = _running('a', min_hosts=1, max_hosts=1, agent_timeout_s=10)
  old = world.hosts['a']
  old.is_cut_off = True
  world.add('a', 'elsewhere')
  world.tick(10)
  assert world.job.phase == 'waiting'
  assert 3 <= world.run(2) <= 8


def test_an_agent_started_again_on_its_host_need_not_wait():
  world = _running('a', 'b', min_hosts=2, max_hosts=2, agent_timeout_s=10)
  world.hosts['a'].restart()
  assert world.run(2) <= 4 * _TICK_S
  assert 'a: its agent was started anew' in world.ends[0].reason


def test_an_agent_that_restarts_while_waiting_is_no_fault():
  world = World('a', 'b', min_hosts=3, max_hosts=3)
  world.tick(5)
  world.hosts['a'].restart()
  world.tick(5)
  world.add('c')
  world.run(1)
  world.tick(50)
  assert world.job.generation == 1 and not world.ends


def test_the_budget_ends_the_job_with_the_cause():
  world = World('a', 'b', min_hosts=2, max_hosts=2, max_restarts=2)
  for generation in (1, 2, 3):
    world.run(generation)
    world.hosts['b'].die(7)
  world.until(lambda: all(host.exit for host in world.hosts.values()))
  assert world.job.phase == 'ended' and not world.job.is_success
  for host in world.hosts.values():
    code, reason = host.exit
    assert code == 1
    assert reason.startswith('b: its worker exited with code 7')
    assert 'budget of 2' in reason and 'tail of b' in reason
  assert [end.is_final for end in world.ends] == [False, False, True]
  late = world.add('c')
  world.tick()
  assert late.exit[0] == 1
  assert '--operate=restart --job=job`' in late.exit[1]
  assert 'b: its worker exited with code 7' in late.exit[1]


_TYPE_ERROR = 'Traceback\n  File "job.py", line 7\nTypeError: {} is no array'


def _fail(world: World, generations, text: str = _TYPE_ERROR) -> None:
  for generation in generations:
    world.run(generation)
    world.hosts['b'].tail = text.format(hex(generation))
    world.hosts['b'].die(1)


def test_an_error_that_repeats_before_any_step_ends_the_job_with_its_text():
  world = World('a', 'b', min_hosts=2, max_hosts=2)
  _fail(world, (1, 2, 3))
  world.until(lambda: all(host.exit for host in world.hosts.values()))
  code, reason = world.hosts['a'].exit
  assert code == 1 and world.job.restarts_used == 3
  assert '3 times in a row before any step: TypeError: # is no' in reason
  assert 'line 7' in reason
  world.operate('restart')  # Once it is mended.
  for host in world.hosts.values():
    host.restart()
  _fail(world, (4, 5))
  world.run(6)


@pytest.mark.parametrize('case', ['steps', 'commits', 'others', 'passes'])
def test_errors_that_may_be_others_use_the_budget(case):
  world = World('a', 'b', min_hosts=2, max_hosts=2)
  world.has_stepped = case == 'steps'
  for generation in range(1, 6):
    if case == 'commits':
      world.job.last_step = generation
    text = {
      'others': f'{"ab"[generation % 2]}.SomeError: no',
      'passes': 'XlaRuntimeError: UNAVAILABLE: connection refused',
    }.get(case, _TYPE_ERROR)
    _fail(world, [generation], text)
  world.run(6)


@pytest.mark.parametrize(
  'line, error',
  [
    ("KeyError: 'connections'", "KeyError: 'connections'"),  # No network's.
    ('lib.Misconfigured: no x', 'lib.Misconfigured: no x'),
    ('StopIteration', 'StopIteration'),
    ('OSError: /tmp/tmpab_xk{}zq/f', 'OSError: /tmp/#/f'),
    ('ValueError: id 3fa8f{}-57ab-4cde', 'ValueError: id #'),
    ('RuntimeError: connection refused', ''),
    ('RuntimeError: Connection string is wrong',) * 2,
    ('OSError: /tmp/tmp{}b_x9k/f', 'OSError: /tmp/#/f'),
    ('  | Traceback\n  | ValueError: no\n    +----', 'ValueError: no'),
    ('    | lib.Misconfigured: no', 'lib.Misconfigured: no'),
  ],
)
def test_the_same_error_is_known_again(line, error):
  for at in (1, 7):
    text = f'Traceback\n  File "a.py"\n    go()\n{line.format(at)}\nBye: {at}'
    assert rendezvous_room.error_of(text) == error


def test_an_ended_job_that_is_restarted_has_all_its_budget_again():
  world = World('a', min_hosts=1, max_hosts=1, max_restarts=3, backoff_s=40)
  for generation in (1, 2, 3, 4):
    world.run(generation)
    world.hosts['a'].die(7)
  world.until(lambda: world.hosts['a'].exit)
  world.operate('restart')
  world.hosts['a'].restart()
  assert world.run(5) < 10
  world.hosts['a'].die(7)
  assert world.run(6) < 10
  assert world.job.restarts_used == 1


def test_wrong_settings_end_the_job_at_once(world):
  world.hosts['a'].die(-6)  # By the end of the other one.
  world.hosts['b'].die(64)
  world.tick()
  assert world.job.phase == 'ended' and world.job.generation == 1
  assert world.ends[0].reason == (
    'b: its worker exited with code 64, which a restart does not mend. Its last'
    ' lines:\ntail of b'
  )


def test_a_host_of_wrong_settings_does_not_end_a_job_that_has_run(world):
  world.job.last_step = 7
  world.hosts['b'].die(64)
  world.run(2)


def test_restarts_in_a_row_come_slower_until_one_was_healthy():
  world = World(
    'a',
    min_hosts=1,
    max_hosts=1,
    backoff_s=4,
    max_backoff_s=10,
    healthy_s=60,
  )
  waits = []
  world.run(1)
  for generation in range(2, 7):
    world.hosts['a'].die(1)
    waits.append(world.run(generation))
  assert waits[0] <= 2
  assert 4 <= waits[1] <= 6 and 8 <= waits[2] <= 10
  assert 10 <= waits[3] <= 12 and 10 <= waits[4] <= 12
  world.tick(200)
  world.hosts['a'].die(1)
  assert world.run(7) <= 2


def test_success_needs_all_workers(world):
  world.hosts['a'].die(0)
  world.tick(100)
  assert world.job.phase == 'running'
  world.hosts['b'].die(0)
  world.until(lambda: all(host.exit for host in world.hosts.values()))
  assert world.job.is_success
  assert [host.exit[0] for host in world.hosts.values()] == [0, 0]


def test_a_worker_that_finished_and_one_that_died_run_again(world):
  world.hosts['a'].die(0)
  world.tick(2)
  world.hosts['b'].die(-9)
  world.run(2)
  assert world.hosts['a'].is_alive


def test_a_hung_worker_ends_the_generation(world):
  world.hung = {'b', 'of another job'}
  world.tick()
  world.hung = set()
  world.run(2)
  assert world.ends[0].reason == (
    'b: its worker is silent or makes no progress'
  )
  assert world.ends[0].counts
  assert world.hosts['b'].was_hung  # It is to show its stacks.
  world.hosts['b'].was_hung = False
  world.hosts['b'].die(1)
  world.run(3)
  assert not world.hosts['b'].was_hung


def test_workers_without_agents_only_lose_their_leases():
  world = World()
  decisions = world.rendezvous.decide(world.job, 5.0, {'w1', 'w0'})
  assert decisions == [
    pb.ExpireWorkers(job='job', workers=['w0', 'w1'], reason='no progress')
  ]


def test_a_preempted_host_saves_and_the_others_go_on():
  world = _running('a', 'b', min_hosts=1, max_hosts=2, stop_grace_s=30)
  host = world.hosts['a']
  host.port = 0  # It leaves.
  world.tick()
  host.die(143)
  world.tick(3)
  assert world.job.phase == 'running'  # The other one is still saving.
  world.hosts['b'].die(130)
  host.status = _Beat.IDLE
  world.tick(2)
  world.hosts.pop('a')
  world.run(2)
  assert world.job.members == ['b'] and world.job.restarts_used == 0
  assert 'a: its host' in world.ends[0].reason and not world.ends[0].counts


def test_peers_that_do_not_save_are_killed_after_the_grace():
  world = _running('a', 'b', min_hosts=1, stop_grace_s=20)
  world.hosts['a'].die(-15)
  assert 20 <= world.run(2) <= 24
  # Nobody had asked for it: a script that ends so does not start for ever.
  assert world.job.restarts_used == 1


@pytest.mark.parametrize('code, is_at_once', [(-15, True), (143, False)])
def test_a_leaver_that_has_not_saved_leaves_nobody_waiting(code, is_at_once):
  world = _running('a', 'b', 'c', min_hosts=2, max_hosts=3, stop_grace_s=60)
  leaver = world.hosts['c']
  leaver.port = 0
  world.tick()
  leaver.die(code)
  world.tick()
  leaver.status = _Beat.IDLE  # In its last beat.
  world.tick(2)
  assert (world.job.phase == 'waiting') == is_at_once
  world.run(2)
  assert world.job.members == ['a', 'b'] and world.job.restarts_used == 0


def test_what_breaks_because_a_host_left_does_not_count():
  world = _running('a', 'b', min_hosts=1)
  world.hosts['a'].port = 0
  world.hosts['a'].die(143)
  world.tick()
  world.hosts['b'].die(1)
  world.run(2, limit_s=5)
  assert world.job.restarts_used == 0


def test_restart_as_asked_lets_all_save(world):
  world.operate('restart')
  world.run(2, limit_s=5)
  assert all(_Reply.STOP in host.commands for host in world.hosts.values())
  assert world.job.restarts_used == 0
  assert world.ends[0].reason == 'restarted as asked'


def test_replaced_host_leaves_and_a_new_one_of_its_name_is_welcome(world):
  world.operate('replace', 'b')
  world.until(lambda: world.hosts['b'].exit is not None)
  assert world.hosts['b'].exit[0] == rendezvous_lib.EXIT_REPLACED
  assert 'replacing b as asked' in world.hosts['b'].exit[1]
  world.tick(10)
  assert world.job.phase == 'waiting'
  world.add('b')
  world.run(2)
  world.hosts['b'].die(1)
  world.run(3)  # Its generation was another one's end.


def test_stop_as_asked_ends_the_job_once_all_have_saved(world):
  world.operate('stop')
  world.until(lambda: all(host.exit for host in world.hosts.values()), 10)
  assert world.job.phase == 'ended' and not world.job.is_success
  assert all(_Reply.STOP in host.commands for host in world.hosts.values())


def test_stop_while_waiting_ends_the_job(world):
  world.hosts.pop('b')
  world.tick(40)
  assert world.job.phase == 'waiting'
  world.operate('stop')
  world.tick(2)
  assert world.job.phase == 'ended'


def test_a_job_that_was_stopped_before_it_ran_can_be_restarted():
  world = World('a', min_hosts=2, max_hosts=2)
  world.tick()
  # What makes the job known without a generation.
  Worker(world.jobs, job='job').create()
  world.operate('stop')
  world.until(lambda: world.job.phase == 'ended')
  world.operate('restart')
  assert world.job.phase == 'waiting'


def test_a_new_coordinator_changes_nothing():
  world = _running('a', 'b', min_hosts=1, max_hosts=2)
  for _ in range(5):
    world.restart_coordinator()
    world.tick(15)
  assert world.job.generation == 1 and world.alive() == {'a', 'b'}


def test_a_new_coordinator_loses_those_that_are_gone():
  world = _running('a', 'b', min_hosts=1, agent_timeout_s=10)
  world.hosts['b'].is_cut_off = True
  world.restart_coordinator()
  world.run(2)
  assert world.job.members == ['a']


def test_a_new_coordinator_waits_for_workers_it_has_not_heard_of():
  world = _running('a', 'b', min_hosts=1, join_wait_s=0, agent_timeout_s=10)
  world.hosts['a'].die(1)
  world.hosts['b'].is_cut_off = True  # Slow to find it again.
  world.tick()
  world.restart_coordinator()
  world.tick(8)
  assert world.job.phase == 'waiting'
  world.hosts['b'].is_cut_off = False
  world.run(2)
  assert world.job.members == ['a', 'b']


def test_all_come_back_after_a_power_cut_as_a_new_generation(world):
  world.restart_coordinator()
  for host in world.hosts.values():
    host.restart()
  world.run(2)
  assert all(host.generation == 2 for host in world.hosts.values())
  assert 'gone when the coordinator came back' in world.ends[0].reason
  assert world.job.restarts_used == 0


def test_a_coordinator_that_dies_while_it_starts_a_generation():
  world = World('a', 'b', min_hosts=2, max_hosts=2)
  world.until(lambda: world.job.phase == 'running')
  assert not world.alive()  # Nobody was told yet.
  world.restart_coordinator()
  world.run(2)
  assert all(host.generation == 2 for host in world.hosts.values())


def test_an_agent_that_ran_under_a_lost_journal_starts_anew():
  world = _running('a', min_hosts=1, max_hosts=1)
  world.hosts['a'].generation = 1
  world.jobs = jobs_lib.Jobs()
  world.restart_coordinator()
  world.run(1)


def test_agents_are_listed_for_the_status_page():
  world = World('host-10', 'host-9', min_hosts=2)
  world.tick()
  names = [one.name for one in world.rendezvous.agents('job', world.now)]
  assert names == ['host-9', 'host-10']
  assert not world.rendezvous.agents('job', world.now + 11)
  assert not world.rendezvous.agents('unknown', world.now)


def test_memory_is_bounded_however_many_agents_come_and_go():
  world = World(min_hosts=10_000, agent_timeout_s=1)
  for index in range(300):
    world.hosts = {}
    world.add(f'host-{index}')
    world.hosts['again'] = Host('always', f'elsewhere-{index}')
    world.tick()
  room = world.rendezvous._rooms['job']
  assert len(list(room.agents())) < 60
  assert sum(map(len, room._fenced.values())) < 100


_EVENTS = ('die', 'stop', 'agent', 'cut', 'back', 'join', 'leave', 'coord')


@hypothesis.settings(max_examples=100)
@hypothesis.given(
  st.lists(
    st.tuples(st.sampled_from(_EVENTS), st.integers(0, 4), st.integers(1, 30)),
    max_size=30,
  ),
  st.integers(1, 3),
  st.integers(0, 9),
)
def test_whatever_happens_one_generation_runs_and_the_job_ends(
  events, minimum, seed
):
  world = World('h0', 'h1', 'h2', min_hosts=minimum, max_restarts=1000)
  world.lazy = order = random.Random(seed)
  for event, index, ticks in events:
    name = f'h{index}'
    host = world.hosts.get(name)
    if event == 'join' and (host is None or host.exit is not None):
      world.add(name)
    elif event == 'coord':
      world.restart_coordinator()
    elif host is not None:
      if event == 'die':
        host.die(order.choice([1, -9, -11, 139]))
      elif event == 'stop':
        host.die(order.choice([143, -15, 130]))
      elif event == 'agent':
        host.restart()
      elif event == 'cut':
        host.is_cut_off = True
      elif event == 'back':
        host.is_cut_off = False
      elif event == 'leave':
        host.port = 0
        host.die(143)
        host.beat(world.rendezvous, world.job, world.now)
        world.hosts.pop(name)
    world.tick(ticks)  # `apply` checks that nobody else runs at a start.
    running = {world.hosts[name].generation for name in world.alive()}
    assert len(running) <= 1 or world.job.phase == 'running'
  for index in range(minimum):
    host = world.hosts.get(f'h{index}') or world.add(f'h{index}')
    host.is_cut_off = False
    if host.exit is not None:
      host.restart()

  def finish() -> bool:
    members = [world.hosts.get(name) for name in world.job.members]
    if world.job.phase == 'running' and all(
      host is not None and host.generation == world.job.generation
      for host in members
    ):
      for host in members:
        host.die(0)
    return world.job.phase == 'ended'

  world.until(finish, limit_s=1000)
  assert world.job.is_success
