# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""No pattern of slowness makes AntDT-ND much slower than equal parts."""

import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import policy
from antjax.elastic.account import Account
from antjax.elastic.actions import AdjustBatch, Nothing
from benchmarks import straggler_sim
from benchmarks.straggler_scenarios import Scenario
from tests.elastic.hindsight_test import _lasting, _view


def _note(account, step, counts, times, wait_s=0.5):
  """A step of workers with 4 micro-batches each in equal parts."""
  longest = max(n * t for n, t in zip(counts, times))
  for at, (count, each) in enumerate(zip(counts, times)):
    time = pb.BatchTime(
      step=step,
      num_micro_batches=count,
      compute_s=count * each,
      wait_s=longest - count * each + wait_s,
    )
    account.note(f'w{at}', time, len(counts), 4 * len(counts))


def test_equal_parts_win_nothing_over_themselves():
  account = Account()
  for step in range(9):
    _note(account, step, [4, 4], [1.0, 0.1 * step])
  assert account.won_s == 0
  assert account.elapsed_s == 9 * 4.5


@pytest.mark.parametrize(
  ('counts', 'times', 'won_s'),
  [
    ([6, 2], [1.0, 3.0], 6.0),  # 12 s in equal parts.
    ([6, 2], [1.0, 1.0], -2.0),
    ([4, 2], [1.0, 4.0], 0.75 * 16.5 - 8.5),  # A deadline: three quarters.
    ([8, 0], [1.0, 4.0], 8.0),  # As it was with its last micro-batch.
  ],
)
def test_what_unequal_parts_win(counts, times, won_s):
  account = Account()
  _note(account, 1, [4, 4], times)
  _note(account, 2, counts, times)
  assert account.won_s == pytest.approx(won_s)


def test_steps_that_are_never_complete_are_forgotten():
  account = Account()
  for step in range(3000):
    time = pb.BatchTime(step=step, num_micro_batches=4, compute_s=1.0)
    account.note('w0', time, 2, 8)
  assert account.elapsed_s == 0 and len(account._steps) <= 1024
  account.begin_generation()
  _note(account, 1, [4, 4], [1.0, 1.0])
  assert account.elapsed_s == 4.5


def _counts(view):
  return [
    list(action.num_micro_batches.values())
    for action in policy.antdt_nd(view)
    if isinstance(action, AdjustBatch)
  ]


def test_much_work_for_one_has_to_be_earned():
  # Three of four are slow: all the others' work goes to the fast one.
  slow = [[0.1] * 40, *[[0.2] * 40] * 3]
  (unequal,) = _counts(_view(slow))
  assert unequal[0] > 8
  assert _counts(_view(slow, elapsed_s=20.0, won_s=0.0)) == []
  assert _counts(_view(slow, elapsed_s=600.0, won_s=0.0)) == [unequal]
  assert _counts(_view(slow, elapsed_s=20.0, won_s=20.0)) == [unequal]
  # Less for one of many risks little.
  assert _counts(_view(_lasting(), elapsed_s=20.0, won_s=0.0))


def test_what_has_lost_too_much_is_taken_back():
  measured = {'elapsed_s': 600.0, 'counts': [10, 10, 10, 2]}
  kept = _view(_lasting(), won_s=-17.0, **measured)
  assert isinstance(policy.antdt_nd(kept)[0], Nothing)
  lost = _view(_lasting(), won_s=-19.0, **measured)
  assert _counts(lost) == [[8] * 4]


def _scenario(slowness, num_workers, **fields):
  kinds = ('cpu',) * num_workers
  return Scenario('pattern', slowness, device_kinds=kinds, **fields)


def _all_but_one(num, on_s, off_s, times):
  def slowness(worker, now):
    number, at = divmod(now, on_s + off_s)
    return times if at < on_s and worker != number % num else 1.0

  return slowness


_SHORT = {'num_steps': 40, 'num_micro_batches': 2, 's_per_micro_batch': 0.5}
PATTERNS = {
  'of_4': _scenario(_all_but_one(4, 60, 60, 4.0), 4, report_s=10.0, **_SHORT),
  'of_3': _scenario(
    _all_but_one(3, 30, 0, 4.0), 3, overhead_s=0.3, report_s=2.0, **_SHORT
  ),
  'recovers': _scenario(
    lambda worker, now: 2.0 if worker == 0 and now < 30 else 1.0,
    8,
    report_s=2.0,
    **{**_SHORT, 'num_steps': 100},
  ),
  'recovers_while_a_host_is_replaced': _scenario(
    lambda worker, now: 1.3 if worker == 0 and now < 300 else 1.0,
    2,
    noise=0.1,
    restart_s=120.0,
  ),
}


@pytest.mark.parametrize('name', PATTERNS)
def test_passing_slowness_of_most_costs_little(name):
  nd, bsp = (
    straggler_sim.simulate(PATTERNS[name], one)
    for one in (policy.antdt_nd, policy.static)
  )
  assert nd.job_s <= bsp.job_s / 0.97
