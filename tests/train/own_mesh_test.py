# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two axes of a user's mesh train by PaRO; the model splits over the others."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import VALID_CODES

from antjax.train.trainer import Trainer
from tests.train import plain as plain_lib

# As in paro_step_test: sums in another order, through 3 steps of AdamW.
SUM_ORDER_ATOL = 2e-5
BATCH = 32
AUTO = {
  'up': P(None, 'model'),
  'bias': P('model'),
  'down': P('model'),
  'experts': P('model'),
}


def own_mesh(*axes, axis_types=None):
  """2 x 2 x 2 virtual devices."""
  axes = axes or ('model', 'data', 'fsdp')
  types = axis_types or (AxisType.Auto,) * 3
  return jax.make_mesh((2, 2, 2), axes, types)


def init_params():
  """Leaves that are even, odd in a dim, small and frozen."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32) * 0.3

  return {
    'up': normal(16, 26),
    'bias': normal(26),
    'down': normal(26, 13),
    'experts': normal(2, 13, 13),
    'odd': normal(13, 11),
    'frozen': normal(11, 11),
    'scale': np.float32(1.5),
  }


def loss_fn(params, batch, rng, split=lambda x, *axes: x):
  del rng
  up = split(params['up'], None, 'model')
  h = split(jnp.tanh(batch['x'] @ up + params['bias'][None]), None, 'model')
  h = jnp.tanh(h @ split(params['down'], 'model'))
  each = jnp.einsum('bi,eij->ebj', h, split(params['experts'], 'model'))
  h = jnp.tanh(split(each, 'model').sum(0))
  y = params['scale'] * (h @ params['odd'] @ params['frozen'])
  return jnp.mean(jnp.square(y - batch['y']), axis=-1), batch['weight']


def by_name(x, *axes):
  return lax.with_sharding_constraint(x, P(*axes))


split_loss_fn = functools.partial(loss_fn, split=by_name)


def optimizer():
  return optax.chain(
    optax.clip_by_global_norm(0.05), optax.adamw(1e-2, weight_decay=0.1)
  )


def batches(num=3):
  rng = np.random.default_rng(1)
  for _ in range(num):
    yield {
      'x': rng.normal(size=(BATCH, 16)).astype(np.float32),
      'y': rng.normal(size=(BATCH, 11)).astype(np.float32),
      'weight': rng.uniform(0.5, 2, size=BATCH).astype(np.float32),
    }


def make_trainer(code='IIG', loss=split_loss_fn, **kwargs):
  options = {
    'mesh': own_mesh(),
    'inter': 'data',
    'intra': 'fsdp',
    'trainable': lambda name: name != 'frozen',
    'min_shard_size': 8,
  }
  return Trainer(loss, optimizer(), paro=code, **(options | kwargs))


@pytest.fixture(scope='module')
def plain():
  return plain_lib.train(init_params(), loss_fn, optimizer(), batches())


def check_equal(trainer, plain):
  state = trainer.init(init_params())
  losses, norms = [], []
  for batch in batches():
    state, metrics = trainer.step(state, batch)
    losses.append(float(metrics['loss']))
    norms.append(float(metrics['grad_norm']))
  params, expected_losses, expected_norms = plain
  np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
  np.testing.assert_allclose(norms, expected_norms, rtol=1e-4)
  actual = trainer.params(state)
  for name, value in params.items():
    np.testing.assert_allclose(
      actual[name], value, atol=SUM_ORDER_ATOL, err_msg=name
    )
  return state


FAST = {('NNN', 1, True), ('IIG', 2, True), ('GGG', 2, False)}


@pytest.mark.parametrize(
  ('code', 'num_micro_batches', 'is_split'),
  [
    pytest.param(*c, marks=() if c in FAST else pytest.mark.slow)
    for c in [
      (code, m, is_split)
      for code in VALID_CODES
      for m in (1, 2)
      for is_split in (False, True)
    ]
  ],
)
def test_every_code_equals_one_device(code, num_micro_batches, is_split, plain):
  trainer = make_trainer(
    code,
    num_micro_batches=num_micro_batches,
    auto_specs=AUTO.get if is_split else None,
  )
  check_equal(trainer, plain)
