# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Each algorithm's step on 8 devices equals the one on one device."""

import dataclasses

import jax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.meta import algorithms, maml, meta_loss
from tests.meta import oracle, small_tasks

CASES = {
  'mixed': maml.InnerLoop(derivative='mixed', learning_rate=0.05),
  'reptile': algorithms.ALGORITHMS['reptile'].inner,
  'maml++': dataclasses.replace(
    algorithms.ALGORITHMS['maml++'].inner, step_weights=(0.2, 0.3, 0.5)
  ),
  'meta_sgd': algorithms.ALGORITHMS['meta_sgd'].inner,
  'loop': maml.InnerLoop(num_steps=20, order=1, learning_rate=0.01),
}


def step(name, mesh, code, level):
  make_loss_fn = (
    meta_loss.reptile_loss_fn if name == 'reptile' else meta_loss.meta_loss_fn
  )
  inner = CASES[name]
  job = oracle.Sharded(inner, mesh, code, level, make_loss_fn)
  loss = job.step(oracle.batches_for(inner)[0])
  return loss, job.trainer.params(job.state), job.rows()


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_eight_devices_take_the_step_of_one(name):
  one = make_mesh(intra=1, devices=jax.devices()[:1])
  expected = step(name, one, 'NNN', 'none')
  got = step(name, make_mesh(intra=4), 'IIG', 'global')
  small_tasks.assert_close(got, expected, rtol=1e-5, atol=oracle.SUM_ORDER_ATOL)
