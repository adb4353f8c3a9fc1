# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Packed texts as micro-batches of an elastic job equal the step in one go."""

import jax
import numpy as np
import optax
import pytest

from antjax.ctr.llm_rec.losses import LossConfig
from antjax.layers import functional
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from tests.ctr.llm_rec import model_test, small_catalogue
from tests.train.elastic_control import Control

LOSS = LossConfig(
  negatives='shared', num_negatives=2, across='group', temperature=0.5
)


@pytest.mark.slow
def test_micro_batches_with_a_pool_of_a_group():
  model = model_test.model_of('bert', LOSS)
  merge, params = functional.split(model)
  params = jax.tree.map(np.asarray, params)
  trainer = Trainer(
    lambda params, batch, rng: merge(params).loss(batch),
    optax.sgd(0.1),
    mesh=make_mesh(intra=4),
    paro='IIG',
    num_micro_batches=2,
    scanned=lambda name: '.layers.' in name,
    min_shard_size=64,
  )
  inputs = model_test.inputs_of('bert', LOSS, 1, pool_parts=4)
  batch = small_catalogue.examples(16, seed=7)
  state, metrics = trainer.step(trainer.init(params), inputs(batch, 16))
  want = jax.tree.map(np.asarray, trainer.params(state)), metrics['loss']
  # Device d works parts 2 d and 2 d + 1 off, one in each micro-batch.
  micros = [{k: x[i::2] for k, x in batch.items()} for i in range(2)]
  seen = {}
  state = trainer.fit(
    trainer.init(params),
    [inputs(micro, 8) for micro in micros],
    1,
    elastic=Control(),
    on_step=lambda step, values: seen.setdefault(step, values),
  )
  got = jax.tree.map(np.asarray, trainer.params(state)), seen[1]['loss']
  model_test.assert_same(got, (want[0], float(want[1])))
