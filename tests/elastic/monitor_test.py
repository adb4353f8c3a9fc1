# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whom the Monitor calls slow, and by what figures."""

import pytest

from antjax.elastic import coordinator_pb2 as pb
from tests.elastic.monitored_job import Job, of

# --- Taxonomy. ---------------------------------------------------------------


def test_alike_workers_are_normal():
  view = Job().run(50)
  assert {w.state for w in view.workers} == {'normal'}
  assert all(w.short_slowness == pytest.approx(1.0) for w in view.workers)
  assert of(view, 'a').short_s_per_sample == pytest.approx(0.01)
  assert view.samples_per_s == pytest.approx(80.0)


def test_slow_now_is_transient_slow_for_long_is_persistent():
  job = Job()
  job.run(120)
  seen = []
  for _ in range(120):
    job.run(1, slow={'d': 4.0})
    seen.append(job.states()['d'])
  assert seen == sorted(seen, key=['normal', 'transient', 'persistent'].index)
  assert seen.index('transient') <= 3
  # Most of the long window must be slow.
  assert 45 <= seen.index('persistent') <= 60
  assert job.states()['a'] == 'normal'


@pytest.mark.parametrize(
  'workers, phases',
  [
    # From the start, it is persistent once the long window is full.
    ('abcd', [(90, {'d': 4.0}, 'nnnt'), (11, {'d': 4.0}, 'nnnp')]),
    # Hysteresis keeps a state between the thresholds.
    (
      'abcd',
      [(10, {'d': 1.2}, 'nnnn'), (30, {'d': 1.5}, 'nnnt')]
      + [(40, {'d': 1.2}, 'nnnt'), (40, {'d': 1.1}, 'nnnn')],
    ),
    # A leader is faster than the median.
    ('abcd', [(20, {'a': 0.5}, 'lnnn')]),
    # Of two workers the faster one is the measure.
    ('ab', [(20, {'b': 4.0}, 'nt')]),
    # Half of the workers cannot hide behind each other.
    ('abcd', [(20, {'c': 3.0, 'd': 3.0}, 'nntt')]),
  ],
)
def test_states_follow_the_speeds(workers, phases):
  """Of each worker's state the first letter."""
  job = Job(workers=workers)
  for steps, slow, states in phases:
    view = job.run(steps, slow=slow)
    assert ''.join(w.state[0] for w in view.workers) == states
  for worker in view.workers:
    expected = slow.get(worker.worker, 1.0)
    assert worker.short_slowness == pytest.approx(expected)


def test_a_quarter_of_the_time_is_never_persistent():
  job = Job()
  for _ in range(8):
    for slow, steps in ((None, 30), ({'d': 4.0}, 10)):
      for _ in range(steps):
        job.run(1, slow=slow)
        assert job.states()['d'] in ('normal', 'transient')


def test_a_slow_device_kind_is_deterministic():
  job = Job()
  job.kinds = {'c': 'old', 'd': 'old'}
  job.run(20, slow={'c': 2.0, 'd': 2.0})
  assert [job.states()[w] for w in 'cd'] == ['deterministic'] * 2
  # One that is slow among its own kind is not explained by it.
  job.run(40, slow={'c': 2.0, 'd': 6.0})
  assert [job.states()[w] for w in 'cd'] == ['deterministic', 'transient']


@pytest.mark.parametrize('is_forgotten', [False, True])
def test_persistent_through_a_restart_is_deterministic(is_forgotten):
  """Also of a worker that has left, and comes back by its name."""
  job = Job()
  view = job.run(110, slow={'d': 4.0})
  assert of(view, 'd').state == 'persistent'
  assert of(view, 'd').long_slowness == pytest.approx(4.0)
  if is_forgotten:
    job.monitor.forget('job', 'd')
  job.restart()
  late = of(job.run(10, slow={'d': 4.0}), 'd')
  assert late.state == 'deterministic'
  assert late.restarts == (0 if is_forgotten else 1)


def test_well_for_long_after_a_restart_is_forgiven():
  job = Job()
  job.run(110, slow={'d': 4.0})
  assert job.states()['d'] == 'persistent'
  job.restart()
  for _ in range(12):
    job.run(10)
    assert job.states()['d'] == 'normal'
  job.run(20, slow={'d': 4.0})
  assert job.states()['d'] == 'transient'


# --- Figures. ----------------------------------------------------------------


def test_more_work_does_not_look_slow():
  job = Job()
  job.run(20)
  job.plan({'a': 6, 'b': 1, 'c': 1, 'd': 0})
  view = job.run(20)
  assert [w.state for w in view.workers] == ['normal'] * 4
  assert of(view, 'a').short_slowness == pytest.approx(1.0)


def test_a_jump_is_seen_within_a_few_steps_but_one_bad_step_is_not():
  job = Job()
  job.run(60)
  view = job.run(1, slow={'d': 40.0})
  assert of(view, 'd').state == 'normal'
  view = job.run(2, slow={'d': 4.0})
  assert of(view, 'd').short_s_per_sample == pytest.approx(0.04)
  view = job.run(2)
  assert of(view, 'd').short_s_per_sample == pytest.approx(0.01)


def test_compiling_in_the_first_step_does_not_count():
  job = Job()
  job.run(1, slow={'d': 300.0})
  view = job.run(10)
  assert of(view, 'd').short_slowness == pytest.approx(1.0)


def test_nothing_is_judged_before_the_minimum_of_steps():
  job = Job()
  view = job.run(3, slow={'d': 9.0})
  assert not any(w.is_measured for w in view.workers)
  assert of(view, 'd').state == 'normal'
  assert of(view, 'd').s_per_sample is None
  view = job.run(1, slow={'d': 9.0})
  assert all(w.is_measured for w in view.workers)
  assert of(view, 'd').state == 'transient'


def test_steps_longer_than_the_short_window():
  job = Job()
  for _ in range(8):
    view = job.run(1, slow={'d': 200.0}, period_s=40.0)
  assert of(view, 'd').state in ('transient', 'persistent')
  assert of(view, 'd').short_slowness == pytest.approx(200.0)


def test_input_is_what_is_neither_computing_nor_waiting():
  job = Job()
  view = job.run(40, input_s={'d': 0.7})
  late = of(view, 'd')
  assert late.is_input_bound and late.input_share == 1.0
  assert late.state == 'transient'
  # 0.2 s of computing and 0.7 of waiting for 20 samples.
  assert late.short_s_per_sample == pytest.approx(0.9 / 20, rel=0.05)
  assert not of(view, 'a').is_input_bound


def test_a_pause_now_and_then_is_no_input_problem():
  job = Job()
  for _ in range(10):
    job.run(9)
    # A checkpoint: three seconds that are nobody's.
    job.now += 3.0
    job.run(1)
  view = job.view()
  assert not any(w.is_input_bound for w in view.workers)
  assert of(view, 'a').short_s_per_sample == pytest.approx(0.01)


def test_what_all_workers_take_is_not_input():
  job = Job()
  job.run(10, input_s=dict.fromkeys('abcd', 0.5))
  view = job.run(40, input_s={'a': 0.5, 'b': 0.5, 'c': 0.5, 'd': 0.8})
  assert [w.is_input_bound for w in view.workers] == [False] * 3 + [True]
  assert of(view, 'a').short_s_per_sample == pytest.approx(0.01)
  assert of(view, 'd').short_s_per_sample == pytest.approx(0.5 / 20, rel=0.05)
  assert view.samples_per_s == pytest.approx(80.0)


def test_moments_are_those_of_the_steps():
  job = Job()
  job.run(11)
  job.plan({'a': 4, 'b': 2, 'c': 1, 'd': 1})
  moments = of(job.run(10), 'a').moments
  assert (moments.num, moments.x, moments.xx) == (20, 60, 200)
  assert moments.t == pytest.approx(6.0)
  assert moments.xt == pytest.approx(20.0)


def test_resources_are_the_last_ones_told():
  job = Job()
  resources = pb.Resources(cpu_share=0.5, rss_bytes=7, memory_bytes=9)
  job.beat('a', resources=resources, num_devices=4, max_micro_batches=6)
  view = of(job.view(), 'a')
  assert (view.cpu_share, view.rss_bytes, view.memory_bytes) == (0.5, 7, 9)
  assert (view.num_devices, view.max_micro_batches) == (4, 6)
  job.now += 12
  assert of(job.view(), 'a').silent_s == 12
