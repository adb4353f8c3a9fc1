# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Wide & Deep: y = sum_i w_i + MLP(v).

Source: Cheng et al. 2016, https://arxiv.org/abs/1606.07792. The paper's wide
part also has products of features that are chosen by hand; give them as
features.
"""

from flax import nnx
import jax

from antjax.networks.deep import Deep
from antjax.networks.network import DeepConfig, Inputs, Sizes


class WideDeep(nnx.Module):
  """Linear terms and an MLP, trained together."""

  Config = DeepConfig
  needs = frozenset({'linear'})

  def __init__(self, sizes: Sizes, config: DeepConfig, *, rngs: nnx.Rngs):
    self.deep = Deep(sizes.flat_width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    return x.first_order_B + self.deep(x.flat)
