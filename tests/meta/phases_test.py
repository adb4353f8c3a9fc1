# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The phases of MAML++'s annealing."""

import pytest

from antjax.meta import maml, phases

INNER = maml.InnerLoop(num_steps=3)


def test_without_annealing_there_is_one_phase():
  assert phases.anneal(INNER, 100) == [phases.Phase(100, INNER)]


def test_weights_fall_to_the_last_step_and_order_rises():
  found = phases.anneal(
    INNER, 100, second_order_from=30, multi_step_until=40, num_levels=2
  )
  assert [p.until for p in found] == [20, 30, 40, 100]
  assert [p.inner.order for p in found] == [1, 1, 2, 2]
  third = 1 / 3
  assert found[0].inner.step_weights == pytest.approx((third, third, third))
  half = found[1].inner.step_weights
  assert half == pytest.approx((third / 2, third / 2, 2 * third))
  assert found[2].inner.step_weights == half
  assert found[3].inner == INNER


def test_phases_beyond_the_end_are_cut():
  found = phases.anneal(INNER, 10, second_order_from=30)
  assert [(p.until, p.inner.order) for p in found] == [(10, 1)]


def test_bad_counts_are_refused():
  with pytest.raises(ValueError, match='num_steps=0'):
    phases.anneal(INNER, 0)
