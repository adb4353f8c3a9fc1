# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DCN V2, parallel form: y = w [x_L, MLP(x_0)] + b, with cross layers x_l.

  x_{l+1} = x_0 * (W_l x_l + b_l) + x_l,  x_0 = [v_1, ..., v_F]

Source: Wang et al. 2021, https://arxiv.org/abs/2008.13535, sections 3.2,
3.4 and 4 (W of low rank).
"""

import dataclasses
from typing import Annotated, ClassVar

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.network import DeepConfig, Inputs, Sizes


class DCNv2(nnx.Module):
  """Cross layers beside an MLP."""

  needs: frozenset[str] = frozenset()

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    may_be_zero: ClassVar[tuple[str, ...]] = ('cross_rank',)

    cross_layers: Annotated[int, 'Cross layers.'] = 3
    cross_rank: Annotated[
      int, 'Rank of the matrices of cross layers; 0: full rank.'
    ] = 0

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width = sizes.flat_width

    def product():
      if not config.cross_rank:
        return nnx.Linear(width, width, rngs=rngs)
      return nnx.Sequential(
        nnx.Linear(width, config.cross_rank, use_bias=False, rngs=rngs),
        nnx.Linear(config.cross_rank, width, rngs=rngs),
      )

    self.cross = nnx.List(product() for _ in range(config.cross_layers))
    self.mlp = MLP(width, config.widths, rngs=rngs)
    self.out = nnx.Linear(width + self.mlp.out_features, 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    x0 = crossed = x.flat
    for layer in self.cross:
      crossed = x0 * layer(crossed) + crossed
    both = jnp.concatenate([crossed, self.mlp(x0)], axis=-1)
    return self.out(both)[:, 0]
