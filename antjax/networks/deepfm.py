# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepFM: y = sum_i w_i + sum_{i<j} <v_i, v_j> + MLP(v), one v for both.

Source: Guo et al. 2017, https://arxiv.org/abs/1703.04247, section 2.1.
"""

from flax import nnx
import jax

from antjax.networks import fm
from antjax.networks.deep import Deep
from antjax.networks.network import DeepConfig, Inputs, Sizes


class DeepFM(nnx.Module):
  """A factorization machine and an MLP on the same vectors."""

  Config = DeepConfig
  needs = frozenset({'linear'})

  def __init__(self, sizes: Sizes, config: DeepConfig, *, rngs: nnx.Rngs):
    self.deep = Deep(sizes.flat_width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    return x.first_order_B + fm.pairs(x.fields_BFD) + self.deep(x.flat)
