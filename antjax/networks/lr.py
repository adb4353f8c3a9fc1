# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Logistic regression: y = b + sum_i w_i.

Source: Richardson et al. 2007, https://doi.org/10.1145/1242572.1242643.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.networks.network import Inputs, Sized, Sizes


class LR(nnx.Module):
  """The features' weights and a bias."""

  Config = Sized
  needs = frozenset({'linear'})

  def __init__(self, sizes: Sizes, config: Sized, *, rngs: nnx.Rngs):
    del sizes, config, rngs
    self.bias = nnx.Param(jnp.zeros(()))

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    return x.first_order_B + self.bias[...]
