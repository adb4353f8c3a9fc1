# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws of a loss, by the example's place in the global batch."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.train.row_keys import row_key

NUM_ROWS = 16


def drawn(rng, num):
  """Draws for a micro-batch's examples, [num, ...], by kind."""
  first, second = jax.random.split(jax.random.fold_in(rng, 7))
  dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=second))
  ones = jnp.ones((num, 5))
  return {
    'dropout': dropout(ones),
    'dropout of tokens': dropout(jnp.ones((num * 3, 5))).reshape(num, -1),
    'normal': jax.random.normal(rng, (num, 2, 3)),
    'uniform': jax.random.uniform(first, (num,)),
    'integers': jax.random.randint(second, (num, 3), 0, 1000),
    'bits': jax.random.bits(first, (num, 4), 'uint8'),
  }


def test_draws_of_a_batch_do_not_depend_on_its_micro_batches():
  key = jax.random.key(3)
  run = jax.jit(drawn, static_argnums=1)
  want = run(row_key(key, 0), NUM_ROWS)
  for num in (1, 2, 8):
    parts = [run(row_key(key, i), NUM_ROWS // num) for i in range(num)]
    got = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, got, want)
  rows = {row.tobytes() for row in np.asarray(want['normal'])}
  assert len(rows) == NUM_ROWS
  other = run(row_key(jax.random.key(4), 0), NUM_ROWS)
  assert not rows & {row.tobytes() for row in np.asarray(other['normal'])}


def test_draws_of_another_shape_differ_by_micro_batch():
  keys = [row_key(jax.random.key(0), i) for i in range(4)]
  found = [jax.random.normal(key, s) for key in keys for s in ((), (9,))]
  numbers = np.concatenate([np.ravel(x) for x in found])
  # Draws of shape [] and [n, ...] share rows, as any two draws by one key may.
  assert len(np.unique(numbers)) >= 4 * 9


def test_draws_are_uniform():
  x = np.asarray(jax.random.uniform(row_key(jax.random.key(0), 5), (4000, 3)))
  assert np.mean(x) == pytest.approx(0.5, abs=0.01)
  assert np.var(x) == pytest.approx(1 / 12, abs=0.003)
  assert np.abs(np.corrcoef(x.T) - np.eye(3)).max() < 0.05


def trained(num_devices, intra, code, num_micro_batches):
  """Parameters after a step: minus whether the draw of each row was kept."""

  def loss_fn(params, batch, rng):
    mask = jax.random.bernoulli(rng, 0.5, batch['x'].shape)
    return jnp.where(mask, batch['x'], 0) @ params

  trainer = antjax.Trainer(
    loss_fn,
    optax.sgd(1.0),
    mesh=antjax.make_mesh(intra=intra, devices=jax.devices()[:num_devices]),
    paro=code,
    num_micro_batches=num_micro_batches,
  )
  state = trainer.init(jnp.zeros(NUM_ROWS, jnp.float32), seed=0)
  batch = {'x': np.eye(NUM_ROWS, dtype=np.float32) * NUM_ROWS}
  state, _ = trainer.step(state, batch)
  return np.asarray(trainer.params(state))


@pytest.mark.parametrize(
  'mesh', [(1, 1, 'NNN', 16), (8, 4, 'IIG', 2), (4, 2, 'GGG', 1)]
)
def test_masks_of_a_step_are_those_of_one_device(mesh):
  want = trained(1, 1, 'NNN', 1)
  np.testing.assert_array_equal(trained(*mesh), want)
  assert 0 < np.count_nonzero(want) < NUM_ROWS
