# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the Monitor knows of a job, and that it stays small and sound."""

import math
import sys

from hypothesis import given
from hypothesis import strategies as st
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.monitor import Monitor, PENDING_MEMORY_S
from antjax.elastic.windows import MonitorConfig
from tests.elastic.monitored_job import CONFIG, Job, of

# --- Quotas and the global batch. --------------------------------------------


def test_the_global_batch_is_that_of_the_first_generation():
  job = Job()
  assert job.run(2).global_micro_batches == 0  # Not all may have been heard.
  assert job.run(10).global_micro_batches == 8
  job.workers.remove('d')
  job.restart()
  view = job.run(5)
  assert view.global_micro_batches == 8
  assert sum(view.num_micro_batches.values()) == 6


def test_a_worker_that_no_plan_names_has_the_default():
  job = Job()
  job.run(5)
  job.plan({'a': 5, 'b': 1})
  view = job.run(5)
  assert view.num_micro_batches == {'a': 5, 'b': 1, 'c': 2, 'd': 2}
  job.restart()
  job.workers.append('e')
  job.beat('e')
  assert of(job.view(), 'e').num_micro_batches == 2


def test_the_global_batch_is_read_from_a_plan_by_the_linear_rule():
  job = Job(workers='ab')  # Of four; the coordinator has just been restarted.
  job.plan({'a': 3, 'b': 3}, lr_scale=0.75)
  view = job.run(10)
  assert view.global_micro_batches == 8
  assert view.lr_scale == 0.75


def test_the_end_of_the_data_is_no_smaller_quota():
  job = Job()
  job.run(5)
  job.counts = dict.fromkeys('abcd', 1)
  assert job.run(1).num_micro_batches == dict.fromkeys('abcd', 2)


def test_a_worker_without_work_keeps_its_figures_then_is_idle():
  job = Job()
  job.run(110, slow={'d': 9.0})
  job.plan({'a': 3, 'b': 3, 'c': 2, 'd': 0})
  view = job.run(50)
  assert of(view, 'd').state == 'persistent' and not of(view, 'd').is_idle
  view = job.run(60)
  late = of(view, 'd')
  assert late.is_idle and late.is_measured and late.state == 'persistent'
  assert late.s_per_sample == pytest.approx(0.09)
  # It gets one to see, and is well: its old figures are gone at once.
  job.plan({'a': 3, 'b': 2, 'c': 2, 'd': 1})
  view = job.run(2)
  assert of(view, 'd').state == 'normal'
  assert of(view, 'd').s_per_sample == pytest.approx(0.01)


def test_priors_are_its_own_then_those_of_its_kind():
  job = Job()
  job.kinds = {'c': 'old', 'd': 'old', 'e': 'old', 'f': 'unheard of'}
  job.run(20, slow={'c': 2.0, 'd': 4.0})
  job.restart()
  job.workers = list('adef')
  for worker in job.workers:
    job.beat(worker)
  priors = {w.worker: w.prior_s_per_sample for w in job.view().workers}
  assert priors['a'] == pytest.approx(0.01)
  assert priors['d'] == pytest.approx(0.04)  # Its own, until it is measured.
  assert priors['e'] == pytest.approx(0.02)
  assert priors['f'] is None


# --- The job. ----------------------------------------------------------------


def test_restart_cost_is_measured_and_grows_with_uncommitted_work():
  job = Job()
  view = job.run(11)
  # A default, and the work since the first step that counted.
  assert view.restart_cost_s == 60.0 + 9.0
  job.monitor.note_commit('job', job.now)
  assert job.view().restart_cost_s == 60.0
  for seconds in (4.0, 9.0, 30.0):
    job.restart(seconds)
    job.run(5)
  job.monitor.note_commit('job', job.now)
  assert job.view().restart_cost_s == 10.0  # Median, with the first step.


def test_pending_time_is_remembered_for_a_while():
  job = Job()
  job.run(1)
  job.monitor.note_pending('job', 500.0, job.now)
  job.now += 100
  job.monitor.note_pending('job', 0.0, job.now)
  assert job.view().pending_s == 500.0
  job.now += PENDING_MEMORY_S
  assert job.view().pending_s == 0.0


def test_remaining_time_follows_the_speed():
  job = Job()
  job.run(10)
  job.monitor.note_remaining('job', 800.0)
  assert job.view().remaining_s == pytest.approx(10.0)
  job.monitor.note_remaining('job', None)
  assert job.view().remaining_s is None


def test_exit_codes_are_counted():
  job = Job()
  for code in (-9, 1, -9):
    job.monitor.record_exit('job', 'a', code, job.now)
  assert job.view().exit_codes == {-9: 2, 1: 1}


def test_unknown_jobs_and_forgotten_workers_have_no_figures():
  job = Job()
  assert job.monitor.view('other', 0.0).workers == ()
  job.run(5)
  job.monitor.forget('job', 'a')
  job.monitor.forget('job', 'nobody')
  job.monitor.forget('other', 'a')
  assert [w.worker for w in job.view().workers] == ['b', 'c', 'd']
  assert job.monitor.series('other', job.now) == {}


def test_jobs_do_not_mix():
  job = Job()
  job.run(10)
  job.monitor.record_heartbeat(
    pb.HeartbeatRequest(head=pb.Head(job='other', client='a', generation=3)),
    job.now,
  )
  assert job.view().generation == 1
  assert len(job.view().workers) == 4
  assert len(job.monitor.view('other', job.now).workers) == 1


def test_series_are_the_long_window():
  job = Job()
  job.run(300, slow={'d': 2.0})
  series = job.monitor.series('job', job.now)['d']
  slice_s = CONFIG.slice_s
  assert slice_s == 5.0
  assert series[0].number * slice_s >= job.now - 100 - slice_s
  assert [s.num_steps for s in series[:-1]] == [5] * (len(series) - 1)
  assert series[0].compute_s == pytest.approx(2.0)
  assert series[0].wait_s == pytest.approx(3.0)
  series[0].compute_s = 0.0  # A copy.
  assert job.monitor.series('job', job.now)['d'][0].compute_s > 0


# --- Sound and small. --------------------------------------------------------


def test_old_generations_change_nothing():
  job = Job()
  job.run(10)
  job.restart()
  before = job.run(10)
  job.generation = 1
  job.run(10, slow={'a': 50.0})
  after = job.view()
  assert after.generation == 2
  assert of(after, 'a').short_slowness == of(before, 'a').short_slowness


def batch_time():
  return pb.BatchTime(
    step=6,
    end_unix_s=2e9,
    compute_s=1.0,
    num_micro_batches=2,
    num_samples=20,
  )


def test_a_heartbeat_sent_again_counts_once():
  job = Job()
  job.run(5)
  time = batch_time()
  for _ in range(3):
    job.beat('a', [time])
  assert of(job.view(), 'a').num_steps == 5


@pytest.mark.parametrize(
  'field, value',
  [
    ('compute_s', math.nan),
    ('compute_s', math.inf),
    ('compute_s', -1.0),
    ('wait_s', -math.inf),
    ('end_unix_s', math.nan),
    ('num_micro_batches', -1),
    ('num_samples', -1),
  ],
)
def test_times_that_cannot_be_are_left_out(field, value):
  job = Job()
  job.run(5)
  time = batch_time()
  setattr(time, field, value)
  before = job.view()
  job.beat('a', [time])
  assert of(job.view(), 'a').moments == of(before, 'a').moments


_ANY = st.floats(allow_nan=True, allow_infinity=True)
_INT = st.integers(-(2**31), 2**31 - 1)


@given(
  st.lists(
    st.tuples(
      st.sampled_from('abc'),
      st.integers(0, 3),
      st.floats(0, 50),
      st.builds(
        pb.BatchTime,
        step=_INT,
        end_unix_s=_ANY,
        compute_s=_ANY | st.floats(0, 10),
        wait_s=_ANY | st.floats(0, 10),
        num_micro_batches=_INT | st.integers(0, 4),
        num_samples=_INT | st.integers(0, 40),
      ),
    ),
    max_size=40,
  ),
  _ANY,
)
def test_anything_may_be_told(beats, share):
  monitor, now = Monitor(CONFIG), 0.0
  for worker, generation, seconds, time in beats:
    now += seconds
    monitor.record_heartbeat(
      pb.HeartbeatRequest(
        head=pb.Head(job='job', client=worker, generation=generation),
        batch_times=[time],
        resources=pb.Resources(cpu_share=share, rss_bytes=-1),
      ),
      now,
    )
    view = monitor.view('job', now)
    assert not math.isnan(view.samples_per_s)
    for one in view.workers:
      assert one.short_slowness > 0 or one.short_s_per_sample == 0
      assert 0 <= one.cpu_share <= 1 and one.rss_bytes >= 0


def _size(value, seen):
  """Bytes of a value and all that it holds."""
  if id(value) in seen:
    return 0
  seen.add(id(value))
  held = []
  if isinstance(value, dict):
    held = [*value.keys(), *value.values()]
  elif hasattr(value, '__dict__'):
    held = [vars(value)]
  elif isinstance(value, str | bytes):
    held = []
  elif hasattr(value, '__iter__'):
    held = list(value)
  elif hasattr(value, '__slots__'):
    held = [getattr(value, name) for name in value.__slots__]
  return sys.getsizeof(value) + sum(_size(one, seen) for one in held)


def test_memory_does_not_grow_with_the_job():
  job = Job(workers='ab')
  job.run(500)
  before = _size(job.monitor, set())
  job.run(3000)
  for _ in range(50):
    job.restart()
    job.run(2)
    job.monitor.note_pending('job', 1.0, job.now)
  job.run(500)
  after = _size(job.monitor, set())
  assert 20_000 < before < 200_000
  assert after < 1.3 * before


def test_workers_jobs_kinds_and_codes_are_bounded():
  config = MonitorConfig(max_workers=8, max_jobs=3)
  monitor = Monitor(config)
  for now in range(100):
    monitor.record_heartbeat(
      pb.HeartbeatRequest(
        head=pb.Head(job=f'job{now // 20}', client=f'w{now}', generation=1),
        device_kind='k' * 10_000,
      ),
      now,
    )
    monitor.record_exit('job0' if now < 20 else 'job4', 'w', now, now)
  assert monitor.view('job0', 100).workers == ()
  view = monitor.view('job4', 100)
  # Those heard of last.
  assert [w.worker for w in view.workers] == [f'w{n}' for n in range(92, 100)]
  assert len(view.workers[0].device_kind) == 128
  for code in range(1000):
    monitor.record_exit('job4', 'w', code, 100)
  assert len(monitor.view('job4', 100).exit_codes) == 64


def test_the_loss_is_that_of_the_newest_step():
  monitor = Monitor()
  assert monitor.view('j', 0.0).loss is None
  for worker, step, loss in (('a', 5, 0.5), ('b', 6, 0.25), ('c', 7, None)):
    head = pb.Head(job='j', client=worker, generation=1)
    beat = pb.HeartbeatRequest(head=head, step=step, loss=loss)
    monitor.record_heartbeat(beat, 1.0)
  assert monitor.view('j', 1.0).loss == 0.25
