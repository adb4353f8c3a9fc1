# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole jobs on paper: what the policies win, and that they do no harm."""

import dataclasses

import pytest

from antjax.elastic import policy
from antjax.elastic.actions import AdjustBatch, KillRestart
from antjax.elastic.controller import ControllerConfig
from tests.elastic import simulate

_SCENARIOS = {scenario.name: scenario for scenario in simulate.SCENARIOS}


@pytest.fixture(scope='module')
def bsp_s():
  return {
    name: simulate.played(scenario, policy.static).job_s
    for name, scenario in _SCENARIOS.items()
  }


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


@pytest.mark.parametrize('name', ['transient_x4', 'rotating_x4'])
def test_passing_stragglers_get_less_work_and_no_restart(name, bsp_s):
  run = simulate.played(_SCENARIOS[name], policy.antdt_nd)
  assert run.num_generations == 1
  assert {type(d.action) for d in run.decisions} == {AdjustBatch}
  assert (
    bsp_s[name] / run.job_s >= {'transient_x4': 1.1, 'rotating_x4': 2.5}[name]
  )


@pytest.mark.parametrize('name', _SCENARIOS)
def test_nd_is_never_slower_than_bsp(name, bsp_s):
  run = simulate.played(_SCENARIOS[name], policy.antdt_nd)
  assert run.job_s <= bsp_s[name] * 1.001


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
