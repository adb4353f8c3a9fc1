# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model that tests hand to launch/plan.py and launch/compile_for_pod.py."""

import jax
import jax.numpy as jnp

import antjax
from antjax.jobs import plan_models
from antjax.layers.functional import Functional
from antjax.lm import Config, Transformer
from antjax.lm.positions import token_mask


def params():
  """Two matrices, a stack of three, a small bias."""

  def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  return {
    'first': f32(512, 1024),
    'layers': {'w': f32(3, 1024, 1024)},
    'last': f32(1024, 512),
    'bias': f32(40),
  }


def loss_fn(params, batch, rng):
  del rng
  h = jnp.tanh(batch @ params['first'])
  h = antjax.scan_layers(
    lambda h, layer: h + jnp.tanh(h @ layer['w']), h, params['layers']
  )
  y = h @ params['last']
  bias = jnp.sum(params['bias']).astype(jnp.float32)
  return jnp.mean(jnp.square(y - batch), axis=1).astype(jnp.float32) + bias


def model():
  return plan_models.PlanModel(
    params(),
    scanned=lambda name: name.startswith('layers'),
    loss_fn=loss_fn,
    batch_fn=lambda rows, length: jax.ShapeDtypeStruct(
      (rows, 512), jnp.bfloat16
    ),
    flops_fn=lambda rows, length: 6.0 * rows * 4e6,
    activation_fn=lambda rows, length, dtype: 2 * rows * 6000,
  )


def only_shapes():
  return params()


def twelve():
  """Twelve layers of two large matrices, and little beside them."""

  def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  def loss_fn(params, batch, rng):
    del rng
    h = antjax.scan_layers(
      lambda h, layer: h + jax.nn.gelu(h @ layer['w']) @ layer['v'],
      batch @ params['first'],
      params['layers'],
    )
    return jnp.mean(jnp.square(h), axis=1).astype(jnp.float32)

  layers = {'w': f32(12, 1024, 4096), 'v': f32(12, 4096, 1024)}
  return plan_models.PlanModel(
    {'first': f32(64, 1024), 'layers': layers},
    scanned=lambda name: name.startswith('layers'),
    loss_fn=loss_fn,
    batch_fn=lambda rows, length: jax.ShapeDtypeStruct(
      (rows, 64), jnp.bfloat16
    ),
  )


def padded(has_lengths=True):
  """A small encoder of padded texts."""
  config = Config(
    vocab_size=512, num_layers=2, embed_dim=512, mlp_dim=1024, causal=False
  )
  lm = Functional(Transformer, config)

  def loss_fn(params, batch, rng):
    del rng
    lengths = batch['lengths']
    ids = lengths if has_lengths else token_mask(batch['tokens'], lengths)
    x = lm.merge(params).hidden(batch['tokens'], ids)
    return jnp.square(x[:, 0]).mean(axis=-1).astype(jnp.float32)

  def batch_fn(rows, length):
    return {
      'tokens': jax.ShapeDtypeStruct((rows, length), jnp.int32),
      'lengths': jax.ShapeDtypeStruct((rows,), jnp.int32),
    }

  return plan_models.PlanModel(
    jax.eval_shape(lm.init, jax.random.key(0)),
    scanned=lambda name: name.startswith('layers'),
    loss_fn=loss_fn,
    batch_fn=batch_fn,
  )


def masked():
  """The same, by a mask."""
  return padded(False)
