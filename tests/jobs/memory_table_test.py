# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the compiler says a step takes, on meshes of one device and several."""

import jax
import numpy as np
import optax
import pytest

from antjax.jobs import memory_table
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer


@pytest.mark.parametrize('num_devices', [1, 4])
def test_bytes_of_a_batch_on_a_device(num_devices):
  mesh = make_mesh(devices=jax.devices()[:num_devices], intra=1)
  trainer = Trainer(
    lambda params, batch, rng: (batch['x'] @ params) ** 2 + batch['k'],
    optax.sgd(0.1),
    mesh=mesh,
  )
  state = trainer.init(np.ones(3, np.float32))
  # int64 is int32 on the device.
  batch = {'x': np.ones((8, 3), np.float32), 'k': np.ones(8, np.int64)}
  compiled, size = memory_table.compiled_bytes(trainer, state, batch)
  # Three flags come with a batch.
  assert size == (8 * 3 + 8) * 4 // num_devices + 3 * 4
  assert compiled['arguments'] >= size + 3 * 4
