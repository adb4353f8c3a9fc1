# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Random inputs of attention."""

import jax
import jax.numpy as jnp


def make(num_tokens, num_heads, num_kv_heads, width, has_segments):
  """(q, k, v, gradient of the output, segment ids or None) of two sequences."""
  keys = jax.random.split(jax.random.key(0), 5)
  q, grad = (
    jax.random.normal(key, (2, num_tokens, num_heads, width))
    for key in keys[:2]
  )
  k, v = (
    jax.random.normal(key, (2, num_tokens, num_kv_heads, width))
    for key in keys[2:4]
  )
  segments = None
  if has_segments:
    segments = jnp.sort(
      jax.random.randint(keys[4], (2, num_tokens), 0, 4), axis=1
    )
  return q, k, v, grad, segments
