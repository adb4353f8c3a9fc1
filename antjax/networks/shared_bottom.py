# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shared bottom: y = t_d(f(v)), one f, and a tower t_d for each scenario d.

Source: Caruana 1997, https://doi.org/10.1023/A:1007379606734, where the towers
are of tasks.
"""

import dataclasses

from flax import nnx
import jax

from antjax.layers.mlp import MLP
from antjax.networks.network import DeepConfig, Inputs, Sizes
from antjax.networks.towers import TowerConfig, Towers


class SharedBottom(nnx.Module):
  """An MLP for all scenarios and a tower for each."""

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig, TowerConfig):
    """Sizes of the network."""

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.bottom = MLP(sizes.flat_width, config.widths, rngs=rngs)
    self.towers = Towers(
      sizes.num_scenarios,
      self.bottom.out_features,
      config.tower_widths,
      rngs=rngs,
    )

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    return self.towers(self.bottom(x.flat), x.scenario_B)
