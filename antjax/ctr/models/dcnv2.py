# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DCN V2, parallel form: y = w [x_L, MLP(x_0)] + b, with cross layers x_l.

  x_{l+1} = x_0 * (W_l x_l + b_l) + x_l,  x_0 = [v_1, ..., v_F]

Source: Wang et al. 2021, https://arxiv.org/abs/2008.13535, sections 3.2 and
3.4.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.ctr.models.inputs import Inputs, NetworkConfig, Sizes
from antjax.layers.mlp import MLP


class DCNv2(nnx.Module):
  """Cross layers beside an MLP."""

  def __init__(self, sizes: Sizes, config: NetworkConfig, *, rngs: nnx.Rngs):
    width = sizes.flat_width
    self.cross = nnx.List(
      nnx.Linear(width, width, rngs=rngs) for _ in range(config.cross_layers)
    )
    self.mlp = MLP(width, config.widths, rngs=rngs)
    self.out = nnx.Linear(width + self.mlp.out_features, 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    x0 = crossed = x.flat
    for layer in self.cross:
      crossed = x0 * layer(crossed) + crossed
    both = jnp.concatenate([crossed, self.mlp(x0)], axis=-1)
    return self.out(both)[:, 0]
