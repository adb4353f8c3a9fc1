# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AdaSparse, reduced: --model=examples.adasparse:AdaSparse."""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import linears
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes


class AdaSparse(ClickNetwork):
  """AdaSparse: a scenario prunes the neurons that it does not need.

    p_l = sigmoid(V_l [s, h_l] + c_l),  f_l = 2 p_l where p_l >= e, else 0,
    h_{l+1} = relu(W_l (f_l * h_l) + b_l),  h_0 = v,  y = w (f_L * h_L) + b

  with s the scenario's vector: the paper's factors by fusion.

  Source: Yang et al. 2022, https://arxiv.org/abs/2206.13108, section on the
  domain-aware pruner. The paper's slope inside the sigmoid grows with training
  and its loss may have a term that keeps the share of pruned neurons in a
  range; here the slope is 1 and there is no such term.
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    prune_below: Annotated[
      float, 'Neurons whose share of being kept is below this are 0.'
    ] = 0.25

    def __post_init__(self) -> None:
      super().__post_init__()
      if not 0 <= self.prune_below < 1:
        raise ValueError(
          f'prune_below={self.prune_below}: must be from 0 to below 1.'
        )

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.scenario_fields = sizes.scenario_fields
    known = len(self.scenario_fields) * sizes.dim
    self.prune_below = config.prune_below
    widths = sizes.flat_width, *config.widths
    self.pruners = nnx.List(
      nnx.Linear(known + width, width, rngs=rngs) for width in widths
    )
    self.layers = linears((*widths, 1), rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    scenario_BD = x.joined(self.scenario_fields)
    h, last = x.flat, len(self.layers) - 1
    for i, layer in enumerate(self.layers):
      seen = jnp.concatenate([scenario_BD, h], axis=1)
      share = jax.nn.sigmoid(self.pruners[i](seen))
      h = layer(jnp.where(share >= self.prune_below, 2 * share, 0) * h)
      if i < last:
        h = jax.nn.relu(h)
    return h[:, 0]
