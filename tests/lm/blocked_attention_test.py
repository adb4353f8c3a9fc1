# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention by blocks beside all scores at once: outputs and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.lm import attention
from tests.lm import attention_inputs

# float32 sums of some hundred terms in another order.
_ATOL = 2e-5

# (tokens, query heads, key/value heads, causal, segments, queries of a block
# and, if there are such, window and cap)
_FAST = (300, 4, 2, False, True, 16, 20, 1.5)
_SLOW = (
  (70, 4, 2, False, True, 16),
  (600, 4, 2, True, False, 64, 90, None),
  (600, 4, 2, True, True, 64, 300, 0.7),
  (70, 4, 2, True, True, 16),
  (600, 6, 2, True, False, 64),  # More than one span.
  (64, 4, 4, False, False, 64),
  (30, 4, 1, True, True, 64),
)


@pytest.mark.parametrize(
  'case', [_FAST, *(pytest.param(c, marks=pytest.mark.slow) for c in _SLOW)]
)
def test_blocks_do_not_show(case):
  num_tokens, num_heads, num_kv_heads, is_causal, has_segments, block = case[:6]
  window, cap = case[6:] or (None, None)
  q, k, v, grad, segments = attention_inputs.make(
    num_tokens, num_heads, num_kv_heads, 8, has_segments
  )

  def run(method):
    def attend(q, k, v):
      return attention.attend(
        q,
        k,
        v,
        segments,
        is_causal=is_causal,
        window=window,
        cap=cap,
        method=method,
        block=block,
      )

    def both(q, k, v, grad):
      output, vjp = jax.vjp(attend, q, k, v)
      return output, vjp(grad)

    return jax.jit(both)(q, k, v, grad)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=_ATOL),
    run('blocked'),
    run('plain'),
  )


def test_scores_of_a_block_are_all_that_is_held():
  num_tokens, num_heads = 1024, 4
  x = jnp.zeros((1, num_tokens, num_heads, 8))

  def temp_bytes(method):
    def total(x):
      return attention.attend(x, x, x, is_causal=False, method=method).sum()

    compiled = jax.jit(jax.grad(total)).lower(x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  scores = 4 * num_heads * num_tokens**2
  assert temp_bytes('plain') > scores
  assert temp_bytes('blocked') < scores / 3
