# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What each policy does, on views written by hand."""

import dataclasses
import sys
import types

from hypothesis import given
from hypothesis import strategies as st
import pytest

from antjax.elastic import policy
from antjax.elastic.actions import (
  AdjustBatch,
  AdjustLR,
  BackupWorkers,
  KillRestart,
  Nothing,
)
from antjax.elastic.view import ClusterView, WorkerView
from tests.elastic.monitored_job import moments

# A micro-batch of 10 samples: a second at slowness 1.
_S = 0.1


def _worker(name, slowness=1.0, count=8, **fields):
  values = {
    'short_s_per_sample': _S * slowness,
    'long_s_per_sample': _S * slowness,
    'last_s_per_sample': _S * slowness,
    'short_slowness': slowness,
    'long_slowness': slowness,
    'is_measured': True,
    'num_steps': 20,
    'samples_per_micro_batch': 10.0,
    **fields,
  }
  return WorkerView(name, count, **values)


def _view(*workers, **fields):
  values = {
    'global_micro_batches': sum(w.num_micro_batches for w in workers),
    'remaining_samples': 3.2e6,  # 10^4 steps of 32 micro-batches.
    'restart_cost_s': 60.0,
    'restarts_left': 3,
    **fields,
  }
  return ClusterView('job', workers=tuple(workers), **values)


def _four(slowness=1.0, state='normal', **fields):
  return [_worker('a'), _worker('b'), _worker('c')] + [
    _worker('d', slowness, state=state, **fields)
  ]


def _kinds(actions):
  return [type(action) for action in actions]


@pytest.mark.parametrize('name', policy.BUILT_IN)
def test_alike_workers_are_left_alone(name):
  (action,) = policy.BUILT_IN[name](_view(*_four()))
  assert isinstance(action, Nothing) and action.reason


@pytest.mark.parametrize('name', policy.BUILT_IN)
def test_no_workers(name):
  assert policy.BUILT_IN[name](_view()) == [Nothing('no workers')]


@pytest.mark.parametrize(
  'name', ['drop_slowest', 'lb_bsp', 'antdt_nd', 'antdt_dd']
)
def test_unknown_speeds_are_waited_for(name):
  new = WorkerView('e', 8)
  (action,) = policy.BUILT_IN[name](_view(*_four(4.0, 'transient'), new))
  assert action == Nothing('waiting for the first steps of 1 of 5 workers')


# --- Static. -----------------------------------------------------------------


def test_static_bears_slow_workers():
  assert _kinds(policy.static(_view(*_four(10.0, 'persistent')))) == [Nothing]


def test_static_keeps_the_sum_when_a_worker_is_gone():
  view = _view(*_four()[:3], global_micro_batches=32)
  (action,) = policy.static(view)
  assert action.num_micro_batches == {'a': 11, 'b': 11, 'c': 10}


def test_where_limits_forbid_the_sum_the_learning_rate_follows():
  workers = [_worker(name, max_micro_batches=8) for name in 'abc']
  (action,) = policy.static(_view(*workers, global_micro_batches=32))
  assert action.lr_scale == 0.75
  assert action.reason == (
    "a step has 24 of the job's 32 micro-batches: learning rate x1 -> x0.75"
  )
  # And comes back with the worker.
  workers.append(_worker('d', max_micro_batches=8))
  view = _view(*workers, global_micro_batches=32, lr_scale=0.75)
  assert policy.static(view) == [
    AdjustLR(
      1.0,
      "a step has 32 of the job's 32 micro-batches: learning rate x0.75 -> x1",
    )
  ]


# --- Drop-slowest. -----------------------------------------------------------


def test_drop_slowest_sets_a_deadline_that_one_of_four_misses():
  backup, lr = policy.drop_slowest(_view(*_four(4.0, 'transient')))
  assert backup.deadline_s == pytest.approx(8.8)
  assert 'd among them, would take up to 32 s a step' in backup.reason
  # It begins three micro-batches of 4 s before 8.8 s.
  assert lr.lr_scale == pytest.approx(27 / 32)


def test_drop_slowest_ends_its_deadline():
  view = _view(*_four(), deadline_s=8.8, lr_scale=27 / 32)
  backup, lr = policy.drop_slowest(view)
  assert backup == BackupWorkers(0.0, 'no worker is late any more')
  assert lr.lr_scale == 1.0


# --- LB-BSP. -----------------------------------------------------------------


def test_lb_bsp_shares_by_the_last_speed():
  workers = _four(1.0)
  workers[3] = dataclasses.replace(workers[3], last_s_per_sample=4 * _S)
  (action,) = policy.lb_bsp(_view(*workers))
  # 32 * 4/13 and 32 * 1/13.
  assert action.num_micro_batches == {'a': 10, 'b': 10, 'c': 10, 'd': 2}


# --- AntDT-ND. ---------------------------------------------------------------


def test_nd_gives_a_transient_straggler_less():
  (action,) = policy.antdt_nd(_view(*_four(4.0, 'transient')))
  assert action.num_micro_batches == {'a': 10, 'b': 10, 'c': 10, 'd': 2}
  assert action.reason == (
    'd takes 4.0x the median time a sample (transient); micro-batches'
    ' d 8 -> 2, a 8 -> 10, b 8 -> 10 and 1 more; predicted step 32 s -> 10 s'
  )


def test_nd_names_input_as_the_cause():
  workers = _four(4.0, 'transient', is_input_bound=True)
  (action,) = policy.antdt_nd(_view(*workers))
  assert '(transient, waiting for its input)' in action.reason


def test_nd_does_not_mind_differences_of_healthy_workers():
  assert _kinds(policy.antdt_nd(_view(*_four(1.25)))) == [Nothing]


def test_nd_goes_back_to_equal_when_all_are_well():
  workers = [
    _worker(n, 1 + d, count=10) for n, d in zip('abc', (0, 0.01, 0.02))
  ]
  (action,) = policy.antdt_nd(_view(*workers, _worker('d', count=2)))
  assert set(action.num_micro_batches.values()) == {8}


def test_nd_replaces_a_persistent_straggler_when_it_pays():
  (action,) = policy.antdt_nd(_view(*_four(4.0, 'persistent')))
  assert isinstance(action, KillRestart) and action.worker == 'd'
  # 10^4 steps: 10 s each with ADJUST_BS, 8 s with a new host.
  assert action.reason == (
    'd has been 4.0x slower than the median for long; a new host saves'
    ' 20000 s of the remaining 100000 s, beyond what less work for it saves,'
    ' and a restart costs 60 s'
  )


@pytest.mark.parametrize(
  'fields',
  [
    # 20 steps are left, 2 s of each to win: less than 60 s.
    {'remaining_samples': 20 * 320.0},
    {'restart_cost_s': 20_001.0},
    {'restarts_left': 0},
    {'pending_s': 301.0},
  ],
  ids=lambda fields: next(iter(fields)),
)
def test_nd_gives_less_work_where_a_restart_does_not_pay(fields):
  (action,) = policy.antdt_nd(_view(*_four(4.0, 'persistent'), **fields))
  assert action.num_micro_batches == {'a': 10, 'b': 10, 'c': 10, 'd': 2}


def test_nd_never_restarts_for_what_a_restart_cannot_cure():
  (action,) = policy.antdt_nd(_view(*_four(4.0, 'deterministic')))
  assert isinstance(action, AdjustBatch)


def test_nd_with_unknown_work_looks_an_hour_ahead():
  view = _view(*_four(4.0, 'persistent'), remaining_samples=None)
  assert _kinds(policy.antdt_nd(view)) == [KillRestart]
  # A fifth of the hour is not more than this.
  view = dataclasses.replace(view, restart_cost_s=720.0)
  assert _kinds(policy.antdt_nd(view)) == [AdjustBatch]


def test_nd_sees_that_a_slow_host_is_slow_in_the_exchange_too():
  """With one micro-batch at x10 it still takes the whole step's time there."""
  fields = {'remaining_samples': 3.2e4, 'restart_cost_s': 400.0}
  workers = _four(10.0, 'persistent')
  assert _kinds(policy.antdt_nd(_view(*workers, **fields))) == [AdjustBatch]
  view = _view(*workers, exchange_s=20.0, **fields)
  assert _kinds(policy.antdt_nd(view)) == [KillRestart]
  # Where the exchange is as long without a slow host, a new one wins nothing.
  view = _view(*workers, exchange_s=20.0, usual_exchange_s=20.0, **fields)
  assert _kinds(policy.antdt_nd(view)) == [AdjustBatch]


@pytest.mark.parametrize(
  ('slowness', 'usual', 'expected'),
  [(1.0, None, 2.0), (10.0, None, 20.0), (5.5, None, 11.0), (1.0, 15.0, 15.0)],
)
def test_the_exchange_of_the_workers_that_stay(slowness, usual, expected):
  view = _view(*_four(10.0), exchange_s=20.0, usual_exchange_s=usual)
  assert view.exchange_s_at(slowness) == pytest.approx(expected)


def test_nd_replaces_several_in_one_restart():
  workers = [_worker('a'), _worker('b'), _worker('c')] + [
    _worker(name, slow, state='persistent')
    for name, slow in (('d', 6.0), ('e', 4.0))
  ]
  actions = policy.antdt_nd(_view(*workers))
  assert [a.worker for a in actions] == ['d', 'e']


def test_nd_leaves_a_hopeless_worker_without_work_and_asks_again():
  workers = _four(50.0, 'persistent')
  view = _view(*workers, restarts_left=0)
  (action,) = policy.antdt_nd(view)
  assert action.num_micro_batches['d'] == 0
  assert sum(action.num_micro_batches.values()) == 32
  # A transient one keeps one, so that its speed stays known.
  (action,) = policy.antdt_nd(_view(*_four(50.0, 'transient')))
  assert action.num_micro_batches['d'] == 1
  # When its figures are old it gets one to see.
  workers = [
    _worker('a', count=11),
    _worker('b', count=11),
    _worker('c', count=10),
    _worker('d', 50.0, count=0, state='persistent', is_idle=True),
  ]
  (action,) = policy.antdt_nd(_view(*workers, restarts_left=0))
  assert action.num_micro_batches['d'] == 1
  assert 'd had no work for long and gets some' in action.reason


def test_nd_reasons_stay_short_with_many_workers():
  workers = [_worker(f'w{n}') for n in range(999)]
  (action,) = policy.antdt_nd(
    _view(*workers, _worker('slow', 3.0, state='transient'))
  )
  assert len(action.reason) < 300


# --- AntDT-DD. ---------------------------------------------------------------


def test_dd_makes_the_shortest_step_of_two_classes():
  workers = [
    _worker('a'),
    _worker('b'),
    _worker('c', 2.0, state='deterministic'),
    _worker('d', 2.0, state='deterministic'),
  ]
  (action,) = policy.antdt_dd(_view(*workers))
  counts = action.num_micro_batches
  assert sum(counts.values()) == 32
  assert max(counts['a'], counts['b'], 2 * counts['c'], 2 * counts['d']) == 11


def test_dd_takes_fixed_times_into_account():
  # Both take 8 s for 8 micro-batches; d needs 4 s before the first.
  line = moments([(count, 4.0 + 0.5 * count) for count in (4, 8, 12)])
  workers = [
    _worker('a', moments=moments([(8, 8.0)])),
    _worker('d', moments=line),
  ]
  view = _view(*workers, global_micro_batches=20)
  (action,) = policy.antdt_dd(view)
  # 9 and 4 + 0.5 * 11 = 9.5; by speed alone it would be 10 and 10.
  assert action.num_micro_batches == {'a': 9, 'd': 11}


def test_dd_does_not_take_a_change_of_speed_for_a_fixed_time():
  # 8 micro-batches in 8 s, then slow: 2 in 8 s. The line would be flat.
  turned = moments([(8, 8.0)] * 5 + [(2, 8.0)] * 5)
  workers = [*_four()[:3], _worker('d', 4.0, 2, moments=turned)]
  workers = [
    dataclasses.replace(w, num_micro_batches=10) for w in workers[:3]
  ] + [workers[3]]
  assert _kinds(policy.antdt_dd(_view(*workers))) == [Nothing]


def test_dd_knows_new_workers_by_their_device_kind():
  new = WorkerView(
    'e', 8, device_kind='old', prior_s_per_sample=2 * _S, num_steps=0
  )
  workers = [_worker('a'), _worker('b'), new]
  (action,) = policy.antdt_dd(_view(*workers))
  assert action.num_micro_batches == {'a': 10, 'b': 9, 'e': 5} or (
    action.num_micro_batches == {'a': 10, 'b': 10, 'e': 4}
  )


# --- What holds for all that adjust. -----------------------------------------


@given(
  st.sampled_from(['static', 'lb_bsp', 'antdt_nd', 'antdt_dd']),
  st.lists(
    st.tuples(
      st.floats(0.2, 60.0),
      st.integers(0, 12),
      st.sampled_from(['leader', 'normal', 'transient', 'deterministic']),
      st.sampled_from([0, 0, 3, 20]),
      st.booleans(),
    ),
    min_size=1,
    max_size=6,
  ),
  st.integers(1, 40),
)
def test_the_sum_is_kept_or_the_learning_rate_follows(name, workers, total):
  view = _view(
    *(
      _worker(
        f'w{at}',
        slow,
        min(count, top or count),
        state=state,
        max_micro_batches=top,
        is_idle=is_idle and not count,
      )
      for at, (slow, count, state, top, is_idle) in enumerate(workers)
    ),
    global_micro_batches=total,
  )
  new, scale = view.num_micro_batches, view.lr_scale
  for action in policy.BUILT_IN[name](view):
    assert action.reason
    if isinstance(action, AdjustBatch):
      assert action.num_micro_batches.keys() == new.keys()
      new = action.num_micro_batches
    elif isinstance(action, AdjustLR):
      scale = action.lr_scale
    else:
      assert isinstance(action, Nothing)
  for worker in view.workers:
    top = worker.max_micro_batches or total
    assert 0 <= new[worker.worker] <= max(top, worker.num_micro_batches)
  assert scale == pytest.approx(sum(new.values()) / total)
  tops = [w.max_micro_batches or total for w in view.workers]
  assert sum(new.values()) == min(total, sum(tops))


# --- By import path. ---------------------------------------------------------


def test_built_in_policies_by_name():
  for name, function in policy.BUILT_IN.items():
    assert policy.resolve(name) is function


def test_a_policy_by_import_path(monkeypatch):
  module = types.ModuleType('my_policies')
  module.__file__ = 'my_policies.py'
  module.patient = lambda view: [Nothing('patient')]
  module.number = 3
  monkeypatch.setitem(sys.modules, 'my_policies', module)
  assert policy.resolve('my_policies:patient') is module.patient
  with pytest.raises(ValueError, match="'hasty' is not there in my_policies"):
    policy.resolve('my_policies:hasty')
  with pytest.raises(ValueError, match="'number' is not a function"):
    policy.resolve('my_policies:number')
  module.two = lambda view, more: []
  module.more = lambda view, more=3: []
  assert policy.resolve('my_policies:more') is module.more
  with pytest.raises(ValueError, match="'two' cannot be called with one"):
    policy.resolve('my_policies:two')
  with pytest.raises(ValueError, match="'getcwd' cannot be called with one"):
    policy.resolve('os:getcwd')


@pytest.mark.parametrize(
  'name, message',
  [
    ('antdt', 'is none of static, drop_slowest, lb_bsp, antdt_nd, antdt_dd'),
    ('', 'package.module:function'),
    (':function', 'package.module:function'),
    ('os:', 'package.module:function'),
    ('os:path.join', 'package.module:function'),
    ('no.such.module:f', "cannot import 'no.such.module'"),
  ],
)
def test_wrong_names_of_policies(name, message):
  with pytest.raises(ValueError, match=message):
    policy.resolve(name)
