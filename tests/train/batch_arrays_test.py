# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of a mesh of one CPU device, which go to the step as they are."""

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer


def make_trainer():
  mesh = make_mesh(devices=jax.devices()[:1], intra=1)
  return Trainer(
    lambda params, batch, rng: batch['x'] + 0 * params, optax.sgd(0), mesh=mesh
  )


def test_a_batch_that_is_placed_is_the_caller_s_no_more():
  trainer = make_trainer()
  state = trainer.init(np.zeros(8, np.float32))
  # Aligned arrays are the ones that JAX would not copy.
  room = np.zeros(8 + 16, np.float32)
  start = (-room.ctypes.data // 4) % 16
  for x in (room[start : start + 8], room[start + 1 : start + 9]):
    x[:] = 1
    inputs = trainer.step_inputs({'x': x})
    x[:] = 2
    state, metrics = trainer.compiled_step()(state, inputs)
    assert float(metrics['loss']) == 1


@pytest.mark.parametrize(
  'kind', ['other device', 'other mesh', 'same', 'mixed']
)
def test_batches_of_jax_arrays(kind):
  trainer = make_trainer()
  state = trainer.init(np.zeros(8, np.float32))
  x = np.full(8, 3, np.float32)
  devices = jax.devices()
  mesh = jax.sharding.Mesh(np.array(devices[:2]), ('a',))
  where = {
    'other device': devices[1],
    'other mesh': NamedSharding(mesh, P('a')),
    'same': devices[0],
    'mixed': devices[0],
  }[kind]
  batch = {'x': jax.device_put(x, where)}
  if kind == 'mixed':
    batch['weight'] = np.ones(8)
  _, metrics = trainer.step(state, batch)
  assert float(metrics['loss']) == 3
