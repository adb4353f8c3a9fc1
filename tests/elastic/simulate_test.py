# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole jobs on paper: what the policies win, and that they do no harm."""

import dataclasses
import random

import pytest

from antjax.elastic import policy
from antjax.elastic.actions import AdjustBatch, BackupWorkers, KillRestart
from antjax.elastic.controller import ControllerConfig
from antjax.elastic.windows import MonitorConfig
from antjax.shards.ledger import Ledger
from antjax.shards.ledger_spec import LedgerSpec
from benchmarks import straggler_sim as simulate
from benchmarks.straggler_scenarios import Scenario, SCENARIOS
from tests.cases import first_fast

_SCENARIOS = {scenario.name: scenario for scenario in SCENARIOS}


class _Bsp:
  """Seconds that equal parts take, played when they are asked for."""

  def __getitem__(self, name):
    return simulate.played(_SCENARIOS[name], policy.static).job_s


@pytest.fixture
def bsp_s():
  return _Bsp()


@pytest.mark.parametrize('name', policy.BUILT_IN)
def test_nothing_slow_no_action(name):
  run = simulate.played(_SCENARIOS['none'], policy.BUILT_IN[name])
  assert run.decisions == ()


def test_nothing_slow_but_noisy_no_action():
  noisy = dataclasses.replace(_SCENARIOS['none'], noise=0.2)
  assert simulate.simulate(noisy, policy.antdt_nd).decisions == ()


@pytest.mark.slow
def test_x4_on_one_of_four_is_2_8_times_faster_than_bsp(bsp_s):
  scenario = _SCENARIOS['x4_one_of_4']
  run = simulate.played(scenario, policy.antdt_nd)
  assert bsp_s[scenario.name] / run.job_s >= 2.8
  # By less work alone, too: no host can be had.
  run = simulate.simulate(
    scenario,
    policy.antdt_nd,
    controller=ControllerConfig(max_policy_restarts=0),
  )
  assert run.num_generations == 1
  assert bsp_s[scenario.name] / run.job_s >= 2.8
  assert run.share_of_ideal >= 0.9


def test_x10_persistent_is_3_times_faster_through_a_restart(bsp_s):
  run = simulate.played(_SCENARIOS['x10_one_of_4'], policy.antdt_nd)
  assert bsp_s['x10_one_of_4'] / run.job_s >= 3
  kills = [d for d in run.decisions if isinstance(d.action, KillRestart)]
  assert [d.action.worker for d in kills] == ['w3']
  assert run.num_generations == 2


def test_two_classes_with_dd_reach_nine_tenths_of_the_ideal():
  run = simulate.played(_SCENARIOS['classes_1_2'], policy.antdt_dd)
  assert run.share_of_ideal >= 0.9
  assert run.num_generations == 1


# Speed-up over equal parts; `many_32` takes long.
@pytest.mark.parametrize(
  ('name', 'least'),
  [
    ('transient_x4', 1.15),
    ('rotating_x4', 3.0),
    *first_fast(('bursts_8s', 1.5), ('many_32', 2.12)),
  ],
)
def test_passing_stragglers_cost_little_and_no_restart(name, least, bsp_s):
  run = simulate.played(_SCENARIOS[name], policy.antdt_nd)
  assert run.num_generations == 1
  kinds = {type(d.action) for d in run.decisions}
  assert BackupWorkers in kinds and kinds <= {AdjustBatch, BackupWorkers}
  assert bsp_s[name] / run.job_s >= least


@pytest.mark.parametrize(
  'name',
  [
    'none',
    'x10_one_of_4',
    'transient_x4',
    'rotating_x4',
    *first_fast(
      'bursts_8s', 'x2_one_of_4', 'x4_one_of_4', 'classes_1_2', 'many_32'
    ),
  ],
)
def test_nd_is_never_slower_than_bsp(name, bsp_s):
  run = simulate.played(_SCENARIOS[name], policy.antdt_nd)
  assert run.job_s <= bsp_s[name] * 1.001


def _pattern(seed):
  """Workers of several speeds, with bursts of all lengths, and noise."""
  draw = random.Random(seed)
  num = draw.choice([2, 4, 4, 8])
  bases = [draw.choice([1, 1, 1, 1.1, 1.25, 2]) for _ in range(num)]
  bursts = [
    (
      draw.choice([6, 12, 25, 50, 100, 200, 500]),
      draw.uniform(0.05, 0.8),
      draw.choice([1.2, 1.5, 2, 4, 10]),
      draw.random(),
    )
    for _ in range(num)
  ]
  is_bursting = [draw.random() < 0.6 for _ in range(num)]

  def slowness(worker, now):
    period_s, share, times, phase = bursts[worker]
    is_slow = is_bursting[worker] and (now / period_s + phase) % 1 < share
    return bases[worker] * (times if is_slow else 1.0)

  return Scenario(
    f'pattern_{seed}',
    slowness,
    device_kinds=('cpu',) * num,
    num_steps=400,
    noise=draw.choice([0.0, 0.02, 0.05, 0.1, 0.2]),
    num_micro_batches=draw.choice([4, 8, 16]),
    s_per_micro_batch=0.1,
  )


@pytest.mark.parametrize('seed', first_fast(0, *range(1, 30)))
def test_nd_is_not_slower_than_bsp_whatever_the_pattern(seed):
  scenario = _pattern(seed)
  nd = simulate.simulate(scenario, policy.antdt_nd)
  bsp = simulate.simulate(scenario, policy.static)
  # Both draw other noise once their steps differ.
  assert nd.job_s <= 1.01 * bsp.job_s


class _Data:
  """Records of a simulated job, leased by a real ledger."""

  def __init__(self, num_micro_batches):
    spec = LedgerSpec(num_records=2 * num_micro_batches - 1, shard_size=2)
    self.ledger = Ledger(spec)
    self.used = []
    self.commit()

  def step(self, counts):
    for worker, count in counts.items():
      # One more is fetched ahead, and comes back.
      leases = self.ledger.lease(worker, count + 1)
      for shard, _ in leases[:count]:
        self.used.extend(range(shard.start, shard.stop))
        self.ledger.consume(worker, shard)
      for shard, _ in leases[count:]:
        self.ledger.give_back(worker, shard)

  def commit(self):
    self.saved = self.ledger.state(), list(self.used)

  def restart(self):
    self.ledger.begin(self.saved[0])
    self.used = list(self.saved[1])


@pytest.mark.parametrize('name', policy.BUILT_IN)
@pytest.mark.parametrize('scenario', ['x10_one_of_4', 'rotating_x4'])
def test_no_policy_loses_or_doubles_a_record(name, scenario):
  """Whatever counts, deadlines and restarts it asks for."""
  scenario = dataclasses.replace(
    _SCENARIOS[scenario], num_steps=60, commit_s=17.0
  )
  data = _Data(scenario.total_micro_batches)
  run = simulate.simulate(
    scenario,
    policy.BUILT_IN[name],
    monitor=MonitorConfig(short_s=4.0, long_s=40.0, restart_cost_s=5.0),
    controller=ControllerConfig(period_s=2.0),
    watcher=data,
  )
  assert name == 'static' or run.decisions
  assert data.ledger.outcome() == 'FINISHED'
  assert sorted(data.used) == list(range(data.ledger.spec.num_records))


def test_a_run_can_be_repeated():
  scenario = dataclasses.replace(_SCENARIOS['rotating_x4'], num_steps=200)
  first, second = (
    simulate.simulate(scenario, policy.antdt_nd, seed=7) for _ in range(2)
  )
  assert first == second
  assert first != simulate.simulate(scenario, policy.antdt_nd, seed=8)


def test_a_restart_repeats_what_was_not_committed():
  scenario = _SCENARIOS['x10_one_of_4']
  run = simulate.played(scenario, policy.antdt_nd)
  assert run.num_steps > scenario.num_steps
  # Ideal: 3.1 workers' speed for 38,400 micro-batches of an eighth of a second.
  assert run.ideal_s == pytest.approx(38_400 / 8 / 3.1)


def test_replay_sees_what_the_trace_holds():
  scenario = dataclasses.replace(_SCENARIOS['x4_one_of_4'], num_steps=20)
  trace = simulate.record(scenario)
  assert len(trace) == 80
  decisions = simulate.replay(trace, policy.antdt_nd)
  assert isinstance(decisions[0].action, AdjustBatch)
  assert simulate.replay(trace, policy.static) == []
