# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the attention of antjax.networks.hstu."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.networks import hstu

B, K, H, D = 3, 11, 2, 4


def _inputs():
  keys = jax.random.split(jax.random.key(0), 4)
  made = [jax.random.normal(key, (B, K, H, D)) for key in keys[:3]]
  count = jnp.array([0, 3, K])[:, None]
  every = jnp.arange(K)[None]
  place = jnp.where(every < count, every, -1)
  return made, jax.random.normal(keys[3], (5,)), place


@pytest.mark.parametrize('block', (1, 4, 11))
def test_blocks_change_nothing(block):
  """Sums and gradients are those of one block with all keys."""
  made, bias, place = _inputs()

  def total(made, bias, block):
    found = hstu.pointwise_attention(
      *made,
      query_place_BQ=place,
      key_place_BK=place,
      bias_P=bias,
      block=block,
    )
    return jnp.sum(jnp.sin(found)), found

  grads = jax.jit(
    jax.value_and_grad(total, argnums=(0, 1), has_aux=True), static_argnums=2
  )
  (_, found), slopes = grads(made, bias, block)
  (_, expected), of_whole = grads(made, bias, K + 1)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-6), slopes, of_whole
  )
  assert not np.any(expected[0])  # No key is there.


def test_memory_grows_with_a_block_not_with_all_keys():
  def temporary(num_keys):
    def total(x, bias):
      place = jnp.broadcast_to(jnp.arange(num_keys), x.shape[:2])
      found = hstu.pointwise_attention(
        x[:, :64],
        x,
        x,
        query_place_BQ=place[:, :64],
        key_place_BK=place,
        bias_P=bias,
        block=64,
      )
      return jnp.sum(found)

    x = jax.ShapeDtypeStruct((8, num_keys, 1, 4), jnp.float32)
    bias = jax.ShapeDtypeStruct((num_keys,), jnp.float32)
    compiled = jax.jit(jax.grad(total)).lower(x, bias).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  scores = 8 * 64 * 4096 * 4
  assert temporary(4096) < scores / 2


def test_heads_divide_the_width():
  with pytest.raises(ValueError, match='num_heads=3 must divide the width 8'):
    hstu.HSTULayer(8, 3, 5, rngs=None)
