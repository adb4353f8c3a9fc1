# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The named algorithms, and flags in place of their settings."""

import jax
import pytest

from antjax.meta import algorithms, episodes, maml
from antjax.meta.recommender import InnerConfig
from tests.meta import small_tasks


def test_no_flag_and_no_name_is_what_it_always_was():
  loop = InnerConfig().loop(algorithms.ALGORITHMS['default'].inner)
  assert loop == maml.InnerLoop(
    num_steps=1, learning_rate=0.1, adapt='decision', learn_rates=True
  )


@pytest.mark.parametrize('name', algorithms.ALGORITHMS)
def test_a_flag_overrides_the_preset_and_nothing_else(name):
  preset = algorithms.ALGORITHMS[name].inner
  loop = InnerConfig(learning_rate=0.7, task_axis='map').loop(preset)
  assert loop.learning_rate == 0.7 and loop.map_size == 1
  assert (loop.num_steps, loop.adapt) == (preset.num_steps, preset.adapt)
  assert (loop.order, loop.rates) == (preset.order, preset.rates)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['maml++', 'reptile'])
def test_every_phase_has_a_finite_loss_and_weights(name):
  algorithm = algorithms.ALGORITHMS[name]
  model, params, rows = small_tasks.make_model()
  if algorithm.inner.learn_rates:
    features = tuple(small_tasks.FEATURES)
    params = maml.init_rates(params, algorithm.inner, features)
  batch = episodes.with_task_rows(
    small_tasks.make_batch(), num_ids=small_tasks.NUM_IDS
  )
  phases = algorithm.phases(algorithm.inner, 100)
  assert phases[-1].until == 100
  if name == 'maml++':
    assert [p.inner.order for p in phases][:: len(phases) - 1] == [1, 2]
    assert phases[0].inner.step_weights and not phases[-1].inner.step_weights
  for phase in {phases[0].until: phases[0], 100: phases[-1]}.values():
    loss_fn = jax.jit(
      algorithm.loss_fn(model, phase.inner),
      compiler_options={'xla_backend_optimization_level': 0},
    )
    losses, weights = loss_fn(params, rows, batch, None)
    assert (losses > 0).all() and weights.sum() == 4


def test_bad_settings_are_refused():
  with pytest.raises(ValueError, match='block_size=0'):
    InnerConfig(block_size=0)
  with pytest.raises(ValueError, match='num_steps=-1'):
    InnerConfig(num_steps=-1)


def test_blocks_and_axes_become_a_map_size():
  sizes = [
    InnerConfig(task_axis=axis, block_size=4).loop().map_size
    for axis in ('vmap', 'map', 'blocks')
  ]
  assert sizes == [0, 1, 4]


ANNEALED = maml.InnerLoop(num_steps=3)


def test_without_annealing_there_is_one_phase():
  assert algorithms.anneal(ANNEALED, 100) == [algorithms.Phase(100, ANNEALED)]


def test_weights_fall_to_the_last_step_and_order_rises():
  found = algorithms.anneal(
    ANNEALED, 100, second_order_from=30, multi_step_until=40, num_levels=2
  )
  assert [p.until for p in found] == [20, 30, 40, 100]
  assert [p.inner.order for p in found] == [1, 1, 2, 2]
  third = 1 / 3
  assert found[0].inner.step_weights == pytest.approx((third, third, third))
  half = found[1].inner.step_weights
  assert half == pytest.approx((third / 2, third / 2, 2 * third))
  assert found[2].inner.step_weights == half
  assert found[3].inner == ANNEALED


def test_phases_beyond_the_end_are_cut():
  found = algorithms.anneal(ANNEALED, 10, second_order_from=30)
  assert [(p.until, p.inner.order) for p in found] == [(10, 1)]


def test_bad_counts_are_refused():
  with pytest.raises(ValueError, match='num_steps=0'):
    algorithms.anneal(ANNEALED, 0)
