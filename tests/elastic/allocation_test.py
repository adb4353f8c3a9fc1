# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Splits of a step's work, compared with trying all of them."""

import itertools
import math
import random

from hypothesis import given
from hypothesis import strategies as st
import pytest

from antjax.elastic import allocation
from antjax.elastic.allocation import Cost, fit
from tests.elastic.monitored_job import moments

_COST = st.builds(
  Cost,
  st.sampled_from([0.0, 0.1, 0.5, 2.0]),
  st.floats(0.05, 4.0).map(lambda x: round(x, 2)),
)


def _makespan(counts, costs):
  return max(cost(count) for cost, count in zip(costs, counts))


# --- Greedy. -----------------------------------------------------------------


def test_greedy_on_one_slow_worker():
  costs = [Cost(0.0, 1.0)] * 3 + [Cost(0.0, 4.0)]
  counts = allocation.greedy(32, costs, [1] * 4, [None] * 4)
  assert sum(counts) == 32 and _makespan(counts, costs) == 10


def test_greedy_leaves_a_hopeless_worker_out_if_it_may():
  costs = [Cost(0.0, 1.0)] * 3 + [Cost(0.0, 50.0)]
  assert allocation.greedy(12, costs, [0] * 4, [None] * 4) == [4, 4, 4, 0]
  assert allocation.greedy(12, costs, [1] * 4, [None] * 4)[3] == 1


@given(
  st.integers(0, 9),
  st.lists(
    st.tuples(_COST, st.integers(0, 2), st.none() | st.integers(0, 4)),
    min_size=1,
    max_size=4,
  ),
)
def test_greedy_is_optimal(total, workers):
  costs, minima, extras = zip(*workers)
  maxima = [
    None if extra is None else low + extra for low, extra in zip(minima, extras)
  ]
  counts = allocation.greedy(total, costs, minima, maxima)
  tops = [total + 2 if top is None else top for top in maxima]
  reached = max(sum(minima), min(total, sum(tops)))
  assert sum(counts) == reached
  best = min(
    _makespan(other, costs)
    for other in itertools.product(
      *(range(a, b + 1) for a, b in zip(minima, tops))
    )
    if sum(other) == reached
  )
  assert _makespan(counts, costs) == best


def test_greedy_on_a_thousand_workers():
  noise = random.Random(0)
  costs = [Cost(0.0, 1 + noise.random()) for _ in range(1000)]
  counts = allocation.greedy(16_000, costs, [1] * 1000, [None] * 1000)
  # Nobody would end sooner with a micro-batch of the last to end.
  longest = _makespan(counts, costs)
  assert min(c(n + 1) for c, n in zip(costs, counts)) >= longest - 1e-9


# --- The line. ---------------------------------------------------------------


def test_fit_finds_the_line():
  line = fit(moments([(b, 0.5 + 0.25 * b) for b in (2, 4, 8, 8)]))
  assert line.alpha_s == pytest.approx(0.5)
  assert line.beta_s == pytest.approx(0.25)


def test_fit_bears_noise():
  noise = random.Random(0)
  steps = [
    (b, (0.5 + 0.25 * b) * (1 + 0.02 * (noise.random() - 0.5)))
    for b in [4, 8, 12, 16] * 50
  ]
  line = fit(moments(steps))
  assert line.alpha_s == pytest.approx(0.5, rel=0.05)
  assert line.beta_s == pytest.approx(0.25, rel=0.01)


def test_one_size_tells_only_the_proportion():
  assert fit(moments([(8, 2.0), (8, 2.2)])) == Cost(0.0, 2.1 / 8)


def test_fit_has_no_negative_parts():
  line = fit(moments([(1, 0.1), (2, 1.0), (4, 3.0)]))
  assert line.alpha_s == 0 and line.beta_s > 0
  line = fit(moments([(1, 3.0), (2, 2.0), (4, 1.0)]))
  assert line == Cost(2.0, 0.0)
  assert fit(moments([])) is None


@given(
  st.lists(
    st.tuples(st.integers(1, 64), st.floats(1e-4, 1e3)), min_size=1, max_size=20
  )
)
def test_fit_of_anything_is_a_cost(steps):
  line = fit(moments(steps))
  assert line is not None and line.alpha_s >= 0 and line.beta_s >= 0


def test_work_of_nothing_takes_no_time():
  assert Cost(1.0, 2.0)(0) == 0.0


# --- Errors. -----------------------------------------------------------------


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: Cost(-1.0, 1.0), 'alpha_s=-1.0'),
    (lambda: Cost(0.0, 0.0), 'not both zero'),
    (lambda: Cost(0.0, math.nan), 'finite'),
    (
      lambda: allocation.greedy(4, [Cost(0.0, 1.0)], [0, 0], [None]),
      '1 workers, 2 minima and 1 maxima',
    ),
    (
      lambda: allocation.greedy(4, [Cost(0.0, 1.0)], [3], [2]),
      'worker 0 has minimum 3 and maximum 2',
    ),
    (lambda: allocation.greedy(-1, [Cost(0.0, 1.0)], [0], [None]), '-1 units'),
  ],
)
def test_errors_say_what_is_wrong(call, message):
  with pytest.raises(ValueError, match=message):
    call()
