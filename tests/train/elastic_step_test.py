# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The host-loop form of the step equals the in-graph form and one device.

Here one process plays several: each part of the mesh does its own number of
micro-batches. `tests/multiprocess/elastic_test.py` does it with real ones.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import ELASTIC_CODES
from antjax.train.elastic_step import ElasticStep
from antjax.train.trainer import Trainer
from tests.cases import code_pairs, covering, slow_but
from tests.train.elastic_cases import (
  assert_same,
  batches,
  D,
  init_params,
  make_trainer,
  MOST,
  noisy_loss_fn,
  NUM_STEPS,
  parts_of,
  reference,
  ROWS,
  run,
  SUM_ORDER_ATOL,
)

_FAST = ('IIG', (2, (4, 0, 2, 1)))
# Devices of a group and micro-batches of each part.
_PARTS = (
  (4, (3, 1)),
  (4, (0, 4)),
  (2, (4, 0, 2, 1)),
  (2, (3, 1)),
  (1, (1, 0, 2, 0, 3, 4, 1, 2)),
  (8, (3,)),
)
_UNEQUAL = covering(
  itertools.product(ELASTIC_CODES, _PARTS), code_pairs, keep=[_FAST]
)
_OPTIONS = {
  'plain': {},
  'not scanned': {'is_scanned': False},
  'kept, scaled': {'regather': False, 'loss_scale': 2.0**10},
  'dynamic scale': {'loss_scale': 'dynamic'},
  'bfloat16': {'compute_dtype': jnp.bfloat16},
}


@pytest.mark.parametrize(('code', 'parts'), slow_but(_UNEQUAL, _FAST))
def test_unequal_counts_equal_the_weighted_gradient_of_one_device(code, parts):
  intra, counts = parts
  actual = run(make_trainer(code, intra), counts)
  assert_same(actual, reference(counts))
  assert int(actual[2].step) == NUM_STEPS
  assert float(actual[1][0]['num_micro_batches']) == sum(counts)
  moved = np.asarray(actual[0]['first']) - init_params()['first']
  assert np.abs(moved).max() > 100 * SUM_ORDER_ATOL


@pytest.mark.slow
@pytest.mark.parametrize(
  ('code', 'counts', 'options'),
  covering(
    itertools.product(ELASTIC_CODES, ((4, 4), (1, 3)), _OPTIONS), code_pairs
  ),
)
def test_both_forms_give_the_same_numbers(code, counts, options):
  """With dropout, so that the random keys are the same too."""
  kwargs = _OPTIONS[options]
  trainer = make_trainer(code, 4, loss=noisy_loss_fn, **kwargs)
  state, metrics = trainer.init(init_params(), seed=3), []
  for batch in batches():
    state, m = trainer.step(state, batch, list(counts))
    metrics.append(jax.device_get(m))
  expected = trainer.params(state), metrics
  # In bfloat16 one rounding more or less is 2^-8 of an activation.
  atol = 5e-3 if 'compute_dtype' in kwargs else SUM_ORDER_ATOL
  actual = run(trainer, counts)
  if atol == SUM_ORDER_ATOL:
    assert_same(actual, expected)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, atol=atol),
    actual[0],
    expected[0],
  )


def test_a_micro_batch_of_fewer_rows_is_filled_up_and_weighs_what_it_has():
  """The end of the input, and each wait for more of it, cuts one short."""
  trainer = make_trainer('IIG', 4, is_scanned=False)
  (batch,) = batches(1)

  def train(num_rows, weight):
    state = trainer.init(init_params(), seed=3)
    step = trainer.elastic_step()
    step.begin(state)
    rows = batch | {'weight': weight}
    for start in (0, 16, 32):
      stop = min(start + 16, num_rows)
      part = jax.tree.map(lambda x: x[start:stop], rows)
      step.local.add(step.local.place(part))
    state, m = step.finish(state, {'num_valid': 1.0})
    assert step.local._add._cache_size() == 1
    return trainer.params(state), [jax.device_get(m)]

  actual = train(37, batch['weight'])
  is_used = np.arange(len(batch['weight'])) < 37
  assert_same(actual, train(48, np.where(is_used, batch['weight'], 0)))
  np.testing.assert_allclose(
    actual[1][0]['weight'], batch['weight'][:37].sum(), rtol=1e-6
  )


def test_losses_that_are_not_by_row_are_never_filled_up():
  trainer = make_trainer(
    'IIG',
    4,
    loss=lambda params, batch, rng: jnp.repeat(batch['x'] @ params['bias'], 2),
    is_scanned=False,
  )
  state = trainer.init(init_params())
  step = trainer.elastic_step()
  step.begin(state)
  step.local.add(step.local.place({'x': np.ones((16, D), np.float32)}))
  with pytest.raises(ValueError, match=r"\['x'\] has shape \(12, 12\)"):
    step.local.place({'x': np.ones((12, D), np.float32)})
  # Where that is not known yet, it is found when it is compiled.
  trainer.init(init_params())
  step = trainer.elastic_step()
  step.begin(state)
  micro = step.local.place({'x': np.ones((12, D), np.float32)})
  with pytest.raises(ValueError, match='4 losses for 2 rows'):
    step.local.add(micro)


def test_nobody_with_data_changes_nothing():
  trainer = make_trainer('IIG', 4)
  before, metrics, state = run(trainer, (0, 0), list(batches(1)))
  jax.tree.map(np.testing.assert_array_equal, before, init_params())
  assert int(state.step) == 0
  assert float(metrics[0]['weight']) == 0


def test_lr_scale_multiplies_the_updates():
  trainer = Trainer(
    lambda params, batch, rng: batch['x'] @ params['w'],
    optax.sgd(1.0),
    mesh=make_mesh(intra=4),
    paro='IIG',
  )
  x = np.arange(32, dtype=np.float32).reshape(8, 4)
  for scale in (1.0, 0.25):
    state = trainer.init({'w': np.zeros(4, np.float32)})
    step = trainer.elastic_step()
    step.begin(state)
    step.local.add(step.local.place({'x': x}))
    state, _ = step.finish(state, {'num_valid': 1.0}, lr_scale=scale)
    np.testing.assert_allclose(
      trainer.params(state)['w'], -scale * x.mean(0), rtol=1e-6
    )


def test_dlrover_defect_9_other_counts_do_not_weigh_otherwise():
  """A worker with other counts than the others.

  In DLRover a worker's gradient is the sum over its m_i micro-batches and
  workers are averaged alike, so the update grows with the number of
  micro-batches. Here each example weighs the same, whoever does it and in
  however many parts.
  """
  trainer = make_trainer('IIG', 4)
  trainer.init(init_params())
  step = ElasticStep(trainer.step_spec(), parts_of(4, 2)[0])
  (batch,) = batches(1)

  def parts(x):  # A view: worker, device, micro-batch, row.
    return x.reshape(2, 4, MOST, ROWS, *x.shape[1:])

  even = run(trainer, (2, 2), [batch], step)
  # Worker 1 hands its second micro-batch to worker 0, as its third.
  moved = jax.tree.map(np.copy, batch)
  jax.tree.map(lambda x: _copy(parts(x), (0, 2), (1, 1)), moved)
  assert_same(run(trainer, (3, 1), [moved], step), even)
  # Twice as many micro-batches of the same rows are the same gradient.
  twice = jax.tree.map(np.copy, batch)
  for worker in (0, 1):
    for i in (0, 1):
      jax.tree.map(
        lambda x: _copy(parts(x), (worker, i + 2), (worker, i)), twice
      )
  assert_same(run(trainer, (4, 4), [twice], step), even)


def _copy(x, to, source):
  x[to[0], :, to[1]] = x[source[0], :, source[1]]


def test_a_count_beyond_the_trainers_has_keys_of_its_own():
  seen = set()

  def loss(params, batch, rng):
    value = jax.random.uniform(rng)
    return jnp.mean(batch['x'] @ params['first'], axis=1) * value

  trainer = make_trainer('IIG', 4, loss=loss, is_scanned=False)
  state = trainer.init(init_params(), seed=3)
  step = trainer.elastic_step()
  step.begin(state)
  one = {'x': np.ones((8, 6), np.float32)}
  for _ in range(MOST + 3):
    done = step.local.add(step.local.place(one))
    seen |= set(np.asarray(done).tolist())
  step.finish(state, {'num_valid': 1.0})
  assert len(seen) == 8 * (MOST + 3)
