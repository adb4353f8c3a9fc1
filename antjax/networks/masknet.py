# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MaskNet: masks computed from all inputs weight the input of each block."""

import dataclasses
import itertools
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.deep import Deep
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes

# Shape suffixes: B = rows, X = width of all inputs, I = input width, O = output
# width.

_EPSILON = 1e-5


class MaskBlock(nnx.Module):
  """relu(LN(W (mask(v) * h))): [B, O] of v [B, X] and h [B, I]."""

  def __init__(
    self,
    width: int,
    in_features: int,
    out_features: int,
    ratio: float,
    *,
    rngs: nnx.Rngs,
  ):
    widths = max(1, int(ratio * in_features)), in_features
    self.mask = MLP(width, widths, activate_last=False, rngs=rngs)
    self.hidden = nnx.Linear(
      in_features, out_features, use_bias=False, rngs=rngs
    )
    self.norm = nnx.LayerNorm(out_features, epsilon=_EPSILON, rngs=rngs)

  def __call__(self, v_BX: jax.Array, h_BI: jax.Array) -> jax.Array:
    return jax.nn.relu(self.norm(self.hidden(self.mask(v_BX) * h_BI)))


class MaskNet(ClickNetwork):
  """MaskNet: parallel or serial blocks with masked inputs.

    block(h) = relu(LN(W (mask(v) * h))),  mask(v) = W_2 relu(W_1 v + b_1) + b_2

    parallel: y = MLP([block_1(n), ..., block_K(n)])
    serial:   y = w block_L(... block_1(n)) + b

  with n the inputs after a separate LayerNorm for each field.

  Source: Wang et al. 2021, https://arxiv.org/abs/2102.07619, sections on
  the mask, MaskBlock and MaskNet. Dense inputs, which are not fields, are not
  normalized.
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    parallel: Annotated[
      bool, 'Parallel blocks and an MLP, or a stack of blocks of --widths.'
    ] = True
    num_blocks: Annotated[int, 'Number of parallel blocks.'] = 3
    block_width: Annotated[int, 'Output width of a parallel block.'] = 64
    mask_ratio: Annotated[
      float, "Hidden width of the mask network, as a multiple of the mask's."
    ] = 2.0

    def __post_init__(self) -> None:
      super().__post_init__()
      if not self.mask_ratio > 0:
        raise ValueError(f'mask_ratio={self.mask_ratio}: must be positive.')

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width, self.parallel = sizes.flat_width, config.parallel
    self.scale = nnx.Param(jnp.ones((sizes.num_fields, sizes.dim)))
    self.bias = nnx.Param(jnp.zeros((sizes.num_fields, sizes.dim)))
    if self.parallel:
      pairs = [(width, config.block_width)] * config.num_blocks
      joined = config.num_blocks * config.block_width
      self.out: nnx.Module = Deep(joined, config.widths, rngs=rngs)
    else:
      pairs = list(itertools.pairwise((width, *config.widths)))
      self.out = nnx.Linear(config.widths[-1], 1, rngs=rngs)
    self.blocks = nnx.List(
      MaskBlock(width, i, o, config.mask_ratio, rngs=rngs) for i, o in pairs
    )

  def __call__(self, x: Inputs) -> jax.Array:
    fields = jax.nn.standardize(x.fields_BFD, axis=-1, epsilon=_EPSILON)
    h = x.beside(fields * self.scale[...][None] + self.bias[...][None])
    if self.parallel:
      beside = [block(x.flat, h) for block in self.blocks]
      return self.out(jnp.concatenate(beside, axis=1))
    for block in self.blocks:
      h = block(x.flat, h)
    return self.out(h)[:, 0]
