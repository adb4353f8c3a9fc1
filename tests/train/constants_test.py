# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Constants: arrays that a step reads and nobody changes or saves."""

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import antjax
from antjax.mesh.mesh import INTRA
from antjax.metrics import means as metrics

ROWS = np.arange(32, dtype=np.float32).reshape(8, 4) / 16


def whole(x):
  """The table, whichever way it is laid out; INTRA has 4 devices."""
  if x.shape[0] == len(ROWS):
    return x
  return lax.all_gather(x, INTRA, tiled=True)


def loss_fn(params, batch, rng):
  del rng
  rows = lax.stop_gradient(whole(batch['constants']['rows']))[batch['id']]
  return jnp.square(rows @ params['w'] - batch['y'])


def predict_fn(params, batch, rng):
  del rng
  rows = whole(batch['constants']['rows'])[batch['id']]
  return {'prediction': rows @ params['w'], 'label': batch['y']}


def closure_loss(params, batch, rng):
  del rng
  return jnp.square(jnp.asarray(ROWS)[batch['id']] @ params['w'] - batch['y'])


def batches(num):
  rng = np.random.default_rng(3)
  for _ in range(num):
    id_B = rng.integers(0, 8, 32)
    yield {'id': id_B.astype(np.int32), 'y': np.cos(id_B).astype(np.float32)}


def make_trainer(loss_fn, **options):
  mesh = antjax.make_mesh(intra=4)
  optimizer = optax.sgd(0.1)
  return antjax.Trainer(loss_fn, optimizer, mesh=mesh, paro='IIG', **options)


def placed(spec):
  mesh = antjax.make_mesh(intra=4)
  return {'rows': jax.device_put(ROWS, NamedSharding(mesh, spec))}


PARAMS = {'w': np.ones(4, np.float32)}


@pytest.mark.parametrize('spec', [P(), P(INTRA)])
def test_training_with_constants_equals_a_closure(spec, tmp_path):
  plain = make_trainer(closure_loss)
  expected = plain.fit(plain.init(PARAMS), batches(3), 3)
  trainer = make_trainer(loss_fn, constants=placed(spec), num_micro_batches=2)
  state = trainer.fit(
    trainer.init(PARAMS), batches(3), 3, checkpoint_dir=str(tmp_path)
  )
  np.testing.assert_allclose(
    np.asarray(trainer.params(state)['w']),
    np.asarray(plain.params(expected)['w']),
    rtol=1e-6,
  )
  # Arguments, not part of the state.
  assert len(jax.tree.leaves(state.params)) == 1
  found = trainer.evaluate(
    state, batches(1), predict_fn, {'mae': metrics.MAE()}
  )
  batch = next(batches(1))
  want = ROWS[batch['id']] @ np.asarray(trainer.params(state)['w'])
  assert found['mae'] == pytest.approx(
    np.abs(want - batch['y']).mean(), rel=1e-5
  )


def test_the_host_loop_reads_constants_too():
  plain = make_trainer(closure_loss)
  expected = plain.fit(plain.init(PARAMS), batches(1), 1)
  trainer = make_trainer(loss_fn, constants=placed(P(INTRA)))
  state, step = trainer.init(PARAMS), trainer.elastic_step()
  step.begin(state)
  step.local.add(step.local.place(next(batches(1))))
  state, _ = step.finish(state, {'num_valid': 1})
  np.testing.assert_allclose(
    np.asarray(trainer.params(state)['w']),
    np.asarray(plain.params(expected)['w']),
    rtol=1e-6,
  )


def test_the_table_is_an_argument_of_the_program():
  trainer = make_trainer(loss_fn, constants=placed(P()))
  state = trainer.init(PARAMS)
  inputs = trainer.step_inputs(next(batches(1)))
  text = trainer.compiled_step().lower(state, inputs).as_text()
  assert f'tensor<{ROWS.shape[0]}x{ROWS.shape[1]}xf32>' in text
  assert 'dense<"0x' not in text  # What a closure would have become.


def test_a_batch_must_leave_room_for_constants():
  trainer = make_trainer(loss_fn, constants=placed(P()))
  state = trainer.init(PARAMS)
  batch = next(batches(1)) | {'constants': np.zeros(8, np.float32)}
  with pytest.raises(ValueError, match="a dict without 'constants'"):
    trainer.step(state, batch)
