# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A layer of a user's own, run by everything that runs a layer."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.layers import functional
from antjax.lm import Block, Config, generate, load, pretrained, Transformer
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer

CONFIG = Config(
  vocab_size=31, num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24
)
TOKENS = np.arange(8 * 6, dtype=np.int32).reshape(8, 6) % 31


class Parallel(Block):
  """Attention and MLP side by side, and a gate that a Block does not have."""

  def __init__(self, config, *, rngs):
    super().__init__(config, rngs=rngs)
    self.mix = nnx.Linear(config.embed_dim, config.embed_dim, rngs=rngs)

  def finish(self, x_BTD, mixed_BTHK):
    mixed = self.dense('out', mixed_BTHK.reshape(*x_BTD.shape[:2], -1))
    h_BTD = self.norm('mlp_norm', x_BTD)
    return x_BTD + mixed + jax.nn.sigmoid(self.mix(h_BTD)) * self.mlp(h_BTD)


class Tanh(Block):
  """Another activation; the parameters are a Block's."""

  def mlp(self, h_BTD):
    inner = jnp.tanh(self.dense('gate', h_BTD)) * self.dense('up', h_BTD)
    return self.dense('down', inner)


def make(key):
  return Transformer(CONFIG, rngs=nnx.Rngs(key), block=Parallel)


@functools.cache
def trained(code, num_devices):
  devices = jax.devices()[:num_devices]
  trainer = Trainer(
    lambda model, batch, rng: model.loss(batch),
    optax.sgd(0.5),
    mesh=make_mesh(intra=num_devices // 2 or 1, devices=devices),
    paro=code,
    scanned=lambda name: name.startswith('layers'),
    min_shard_size=1,
  )
  state = trainer.init(make, seed=0)
  for _ in range(2):
    state, metrics = trainer.step(state, {'tokens': TOKENS})
  params = functional.params_of(trainer.params(state))
  return jax.device_get(params), float(metrics['loss'])


@pytest.mark.slow
@pytest.mark.parametrize('code', ['IIG', 'NIG'])
def test_a_block_of_ones_own_trains_as_on_one_device(code):
  params, loss = trained(code, 8)
  expected, expected_loss = trained('NNN', 1)
  assert set(params['layers']['mix']) == {'kernel', 'bias'}
  assert loss == pytest.approx(expected_loss, rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, expected
  )


@pytest.mark.slow
def test_generation_runs_it_too():
  model = make(0)
  lengths, key = np.full(2, 3, np.int32), jax.random.key(0)
  run = jax.jit(functools.partial(generate.generate, num_tokens=3))
  made = np.asarray(run(model, TOKENS[:2, :3], lengths, key))
  texts = np.concatenate([TOKENS[:2, :3], made], axis=1)
  logits = jax.jit(Transformer.logits)(model, texts)
  np.testing.assert_array_equal(made, np.argmax(logits, -1)[:, 2:5])


def test_pretrained_weights_in_a_block_of_ones_own(tmp_path):
  plain = Transformer(CONFIG, rngs=nnx.Rngs(0))
  params = functional.params_of(plain)
  pretrained.save_pretrained(tmp_path, CONFIG, params)
  model = load(tmp_path, block=Tanh)
  assert isinstance(model.layers, Tanh)
  jax.tree.map(
    np.testing.assert_array_equal, functional.params_of(model), params
  )
  with pytest.raises(ValueError, match='other parameters than a Block'):
    load(tmp_path, block=Parallel)
