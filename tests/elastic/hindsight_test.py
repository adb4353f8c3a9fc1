# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which rule AntDT-ND follows, on speeds written by hand."""

import dataclasses

import numpy as np
import pytest

from antjax.elastic import hindsight, policy
from antjax.elastic.actions import AdjustBatch, BackupWorkers, Nothing
from antjax.elastic.view import ClusterView, StepMoments, WorkerView

_NUM = 40  # Slices.


def _view(histories, count=8, counts=None, **fields):
  """Workers with seconds of a sample by slices; 10 in a micro-batch."""
  workers = [
    WorkerView(
      f'w{at}',
      counts[at] if counts else count,
      short_s_per_sample=history[-1],
      long_s_per_sample=float(np.nanmedian(np.array(history, float))),
      is_measured=True,
      samples_per_micro_batch=10.0,
      history=tuple(history),
    )
    for at, history in enumerate(histories)
  ]
  return ClusterView(
    'job',
    workers=tuple(workers),
    global_micro_batches=count * len(workers),
    **fields,
  )


def _bursts(times=4.0):
  """In every other slice another one of four is slow; now nobody."""
  each = np.full((4, _NUM), 0.1)
  for at in range(0, _NUM - 1, 2):
    each[at // 2 * 7 % 4, at] *= times
  return each.tolist()


def _lasting(times=4.0):
  return [[0.1] * _NUM] * 3 + [[0.1 * times] * _NUM]


def test_what_lasts_moves_the_counts():
  verdict = hindsight.best_rule(_view(_lasting()), 32)
  assert verdict.rule in ('usual', 'recent')
  assert not verdict.has_deadline
  # 13/4 of the speed that equal parts have.
  assert verdict.gain == pytest.approx(13 / 4)


def test_bursts_get_a_deadline_and_equal_parts():
  verdict = hindsight.best_rule(_view(_bursts()), 32)
  assert (verdict.rule, verdict.has_deadline) == ('equal', True)
  (action,) = policy.antdt_nd(_view(_bursts()))
  # The eighth micro-batch of a worker that is well begins after 7 s.
  assert action.deadline_s == pytest.approx(7 * 1.1)
  assert action.reason.startswith(
    'bursts of slowness: with equal parts, and no'
  )


def test_a_slow_worker_and_bursts_get_both():
  each = np.array(_bursts(10.0))
  each[3] *= 2
  counts, backup = policy.antdt_nd(_view(each.tolist()))
  assert isinstance(counts, AdjustBatch) and isinstance(backup, BackupWorkers)
  assert counts.num_micro_batches['w3'] < 8


def test_a_deadline_stays_while_it_fits_and_goes_when_it_wins_nothing():
  for deadline_s in (7.4, 7.7, 8.3):
    view = _view(_bursts(), deadline_s=deadline_s)
    assert isinstance(policy.antdt_nd(view)[0], Nothing)
  (action,) = policy.antdt_nd(_view(_bursts(), deadline_s=9.0))
  assert action.deadline_s == pytest.approx(7.7)
  (action,) = policy.antdt_nd(_view([[0.1] * _NUM] * 4, deadline_s=7.7))
  assert action.deadline_s == 0.0
  # Of a new generation nothing is known yet.
  (action,) = policy.antdt_nd(_view([[0.1] * 3] * 4, deadline_s=7.7))
  assert action.deadline_s == 0.0


def test_a_noisy_worker_has_a_later_deadline():
  view = _view(_bursts())
  noisy = dataclasses.replace(view.workers[0], noise=0.2)
  view = dataclasses.replace(view, workers=(noisy, *view.workers[1:]))
  (action,) = policy.antdt_nd(view)
  assert action.deadline_s == pytest.approx(7 * 1.6)


def test_differences_within_the_noise_leave_equal_parts():
  draw = np.random.default_rng(0)
  each = 0.1 * draw.uniform(0.9, 1.1, (4, _NUM))
  verdict = hindsight.best_rule(_view(each.tolist()), 32)
  assert verdict.rule == 'equal'


@pytest.mark.parametrize('times', [1.02, 1.15])
def test_small_differences_that_last_count(times):
  verdict = hindsight.best_rule(_view(_lasting(times)), 32)
  assert (verdict.rule == 'equal') == (times < 1.1)


def test_too_few_slices_say_nothing():
  assert hindsight.best_rule(_view([[0.1] * 5] * 4), 32) is None
  assert hindsight.best_rule(_view([[0.1] * 6] * 4), 32) is not None
  assert hindsight.best_rule(_view([[None] * 6 + [0.1]] * 4), 32) is None


def test_gaps_are_filled_with_the_speed_before():
  view = _view([[None, 0.1, None, 0.3], [0.1, None, 0.2, 0.2]])
  np.testing.assert_allclose(
    hindsight.speeds(view), [[1, 1], [1, 1], [1, 2], [3, 2]]
  )


def test_who_has_no_work_counts_with_its_last_speed():
  view = _view([[0.1] * 3, [0.1] * 3])
  idle = dataclasses.replace(
    view.workers[1], history=(None,) * 3, short_s_per_sample=5.0
  )
  view = dataclasses.replace(view, workers=(view.workers[0], idle))
  np.testing.assert_allclose(hindsight.speeds(view), [[1, 50]] * 3)


def test_steps_longer_than_slices_are_looked_at_one_by_one():
  view = _view([[0.1, None, 0.1], [0.1, None, 0.4]])
  longer = [(0.1, 0.1, 0.1, 0.1), (0.1, 0.4, 0.4)]
  workers = [
    dataclasses.replace(worker, newest=newest)
    for worker, newest in zip(view.workers, longer)
  ]
  view = dataclasses.replace(view, workers=tuple(workers))
  np.testing.assert_allclose(
    hindsight.speeds(view), [[1, 1], [1, 1], [1, 4], [1, 4]]
  )


def test_long_steps_are_told_apart_although_their_reports_are_not():
  """Steps of three slices: each report falls into one of its own."""
  slow = [0.4 if step % 3 == 0 else 0.1 for step in range(12)]
  first = [x for _ in slow for x in (0.1, None, None)]
  second = [x for speed in slow for x in (None, None, speed)]
  view = _view([first, second])
  workers = [
    dataclasses.replace(
      worker,
      newest=tuple(x for x in worker.history if x),
      moments=StepMoments(num=12),
    )
    for worker in view.workers
  ]
  view = dataclasses.replace(view, workers=tuple(workers))
  assert hindsight.speeds(view).shape == (12, 2)
  assert hindsight.best_rule(view, 16).has_deadline
