# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the Controller lets pass, and what it holds back."""

import math

import pytest

from antjax.elastic.actions import (
  AdjustBatch,
  AdjustLR,
  BackupWorkers,
  KillRestart,
  Nothing,
)
from antjax.elastic.controller import Controller, ControllerConfig
from antjax.elastic.view import ClusterView, WorkerView


def _view(slowness=1.0, num_steps=20, counts=(8, 8), **fields):
  return ClusterView(
    fields.pop('job', 'job'),
    workers=tuple(
      WorkerView(
        name,
        count,
        short_s_per_sample=0.1 * slow,
        is_measured=True,
        num_steps=num_steps,
        samples_per_micro_batch=10.0,
        max_micro_batches=16,
      )
      for name, slow, count in zip('ab', (1.0, slowness), counts)
    ),
    **fields,
  )


def _says(*actions):
  """A policy that always wants the same."""
  return lambda view: list(actions)


def _controller(*actions, **fields):
  return Controller(_says(*actions), ControllerConfig(**fields))


_SHIFT = AdjustBatch({'a': 12, 'b': 4}, 'b is slow')
_KILL = KillRestart('b', 'b has been slow')


def test_it_decides_once_a_period():
  seen = []

  def policy(view):
    seen.append(view)
    return [_SHIFT]

  controller = Controller(policy, ControllerConfig(period_s=10.0))
  assert controller.is_due('job', 0.0)
  assert controller.decide(_view(3.0), 0.0) == [_SHIFT]
  assert not controller.is_due('job', 9.9)
  assert controller.decide(_view(3.0), 9.9) == []
  assert controller.decide(_view(3.0), 10.0) == [_SHIFT]
  assert len(seen) == 2
  # Jobs have periods of their own.
  assert controller.decide(_view(3.0, job='other'), 10.1) == [_SHIFT]


def test_nothing_is_not_an_action_but_its_reason_is_kept():
  controller = _controller(Nothing('all is well'))
  assert controller.idle_reason('job') == ''
  assert controller.decide(_view(), 0.0) == []
  assert controller.idle_reason('job') == 'all is well'


def test_it_waits_for_enough_steps_of_every_worker():
  controller = _controller(_SHIFT, min_samples=5)
  assert controller.decide(_view(3.0, num_steps=4), 0.0) == []
  assert controller.idle_reason('job') == (
    '2 of 2 workers have made fewer than 5 steps: a, b'
  )
  assert controller.decide(_view(3.0, num_steps=5), 10.0) == [_SHIFT]
  assert controller.decide(ClusterView('job'), 20.0) == []


def test_a_known_speed_from_before_needs_no_steps():
  controller = _controller(_SHIFT)
  workers = tuple(
    WorkerView(name, 8, prior_s_per_sample=slow)
    for name, slow in (('a', 0.1), ('b', 0.4))
  )
  assert controller.decide(ClusterView('job', workers=workers), 0.0) == [_SHIFT]


def test_small_gains_are_ignored():
  workers = tuple(
    WorkerView(name, 100, prior_s_per_sample=0.1) for name in 'ab'
  )
  view = ClusterView('job', workers=workers)
  small = AdjustBatch({'a': 102, 'b': 98}, 'tiny')  # 10 s to 10.2 s.
  controller = _controller(small)
  assert controller.decide(view, 0.0) == []
  assert controller.idle_reason('job') == 'too small a change: tiny'
  large = AdjustBatch({'a': 104, 'b': 96}, 'more')
  assert _controller(large).decide(view, 0.0) == [large]


def test_a_small_gain_waits_until_the_last_change_has_settled():
  def view(a, b):
    workers = (
      WorkerView('a', a, prior_s_per_sample=0.1),
      WorkerView('b', b, prior_s_per_sample=0.1),
    )
    return ClusterView('job', workers=workers)

  moves = iter([{'a': 104, 'b': 96}, {'a': 100, 'b': 100}] * 3)
  asked = []

  def policy(seen):
    asked.append(AdjustBatch(next(moves), 'a gain of 4 %'))
    return asked[-1:]

  config = ControllerConfig(period_s=1.0, settle_s=60.0, large_change=0.15)
  controller = Controller(policy, config)
  assert controller.decide(view(100, 100), 0.0) == asked
  assert controller.decide(view(104, 96), 59.0) == []
  assert 'so soon' in controller.idle_reason('job')
  next(moves)
  assert controller.decide(view(104, 96), 60.0) == asked[-1:]
  # A large one does not wait.
  large = Controller(lambda _: [AdjustBatch({'a': 100, 'b': 100})], config)
  assert large.decide(view(120, 80), 0.0) and large.decide(view(120, 80), 1.0)


def test_a_wrong_sum_is_put_right_at_any_price():
  small = AdjustBatch({'a': 9}, 'the sum')
  assert _controller(small).decide(_view(4.0), 0.0) == [small]


def test_what_is_in_force_is_not_asked_for_again():
  controller = _controller(
    AdjustBatch({'a': 8, 'b': 8}), AdjustLR(0.5), BackupWorkers(2.0)
  )
  assert controller.decide(_view(lr_scale=0.5, deadline_s=2.0), 0.0) == []
  controller = _controller(AdjustLR(0.5), BackupWorkers(2.0))
  assert controller.decide(_view(), 0.0) == [AdjustLR(0.5), BackupWorkers(2.0)]
  controller = _controller(BackupWorkers(2.05))
  assert controller.decide(_view(deadline_s=2.0), 0.0) == []
  controller = _controller(BackupWorkers(0.0))
  assert controller.decide(_view(deadline_s=2.0), 0.0) == [BackupWorkers(0.0)]


def test_a_restart_comes_alone():
  controller = _controller(_SHIFT, _KILL, AdjustLR(0.5))
  assert controller.decide(_view(3.0), 0.0) == [_KILL]


def test_restarts_have_a_budget_and_a_cooldown():
  seen = []

  def policy(view):
    seen.append(view.restarts_left)
    return [_KILL]

  config = ControllerConfig(
    period_s=1.0, cooldown_s=100.0, max_policy_restarts=2
  )
  controller = Controller(policy, config)
  taken = [
    now for now in range(0, 1000) if controller.decide(_view(3.0), float(now))
  ]
  assert taken == [0, 100]
  assert seen[:2] == [2, 0] and seen[100] == 1 and set(seen[101:]) == {0}
  assert controller.restarts_left('job', 1000.0) == 0
  assert controller.restarts_left('other', 1000.0) == 2
  assert 'no restart is left' in controller.idle_reason('job')


def test_a_count_that_outlives_the_controller():
  controller = _controller(_KILL, max_policy_restarts=2)
  assert controller.decide(_view(3.0), 0.0, restarts_used=2) == []
  assert controller.decide(_view(3.0), 10.0, restarts_used=1) == [_KILL]


def test_two_hosts_in_one_restart_cost_one_of_the_budget():
  controller = _controller(KillRestart('a'), _KILL, max_policy_restarts=2)
  assert len(controller.decide(_view(3.0), 0.0)) == 2
  assert controller.restarts_left('job', 1e6) == 1


def test_a_policy_that_fails_does_no_harm_and_is_logged_once():
  def policy(view):
    raise KeyError('a bug')

  controller = Controller(policy, ControllerConfig(period_s=0.0))
  for now in range(5):
    assert controller.decide(_view(), float(now)) == []
  assert controller.idle_reason('job') == "the policy failed: KeyError: 'a bug'"
  assert isinstance(controller.take_failure('job'), KeyError)
  assert controller.take_failure('job') is None
  assert controller.take_failure('unknown') is None


def test_a_policy_may_yield_its_actions():
  def policy(view):
    del view
    yield _SHIFT

  controller = Controller(policy, ControllerConfig())
  assert controller.decide(_view(3.0), 0.0) == [_SHIFT]


@pytest.mark.parametrize(
  'action, message',
  [
    (AdjustBatch({'z': 1}), "'z' is no worker of 'job'"),
    (AdjustBatch({'a': -1}), "-1 micro-batches for 'a'"),
    (AdjustBatch({'a': 17}), 'a whole number from 0 to 16'),
    (AdjustBatch({'a': 1.5}), "1.5 micro-batches for 'a'"),
    (AdjustBatch({'a': 0, 'b': 0}), 'no worker would have a micro-batch'),
    (BackupWorkers(-1.0), 'deadline_s=-1.0'),
    (BackupWorkers(math.nan), 'deadline_s=nan'),
    (AdjustLR(0.0), 'lr_scale=0.0'),
    (KillRestart('z'), "'z' is no worker of 'job'"),
    ('restart', "'restart' is no action"),
  ],
)
def test_actions_that_cannot_be_carried_out(action, message):
  controller = _controller(_SHIFT, action)
  assert controller.decide(_view(3.0), 0.0) == []
  assert message in controller.idle_reason('job')


def test_a_batch_is_bounded_where_the_workers_name_no_bound():
  workers = tuple(
    WorkerView(name, 8, prior_s_per_sample=0.1 * slow)
    for name, slow in (('a', 1.0), ('b', 4.0))
  )
  view = ClusterView('job', workers=workers, global_micro_batches=16)
  controller = _controller(AdjustBatch({'a': 10**6, 'b': 10**6}))
  assert controller.decide(view, 0.0) == []
  assert controller.idle_reason('job') == (
    'the policy failed: ValueError: AdjustBatch: 2000000 micro-batches a step;'
    ' needed are at most 64, 4 times those of the job'
  )
  most = AdjustBatch({'a': 60, 'b': 4})
  assert _controller(most).decide(view, 0.0) == [most]
