# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An MLP with gates computed from the scenario, the user and the item."""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import Experts, linears
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes

# Shape suffixes: B = rows, D = width of a field, O = output width, L = layers.


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig(DeepConfig):
  """Sizes of a network with gates or weights computed by another one."""

  gate_width: Annotated[
    int, 'Hidden width of the network that computes gates or weights.'
  ] = 64


class PEPNet(ClickNetwork):
  """PEPNet: gates by scenario, and gates by user and item.

  With gate(x) = 2 sigmoid(W' relu(W x + b) + b') and no gradient through [.]:

    EPNet: o = gate(s, [v]) * v              s: the scenario's vector
    PPNet: h_1 = relu(W_0 o + b_0),
           h_{l+1} = relu(W_l (gate_l(p, [o]) * h_l) + b_l)
           p: the vectors of the user's and the item's fields
    y = w (gate_L(p, [o]) * h_L) + b

  Source: Chang et al. 2023, https://arxiv.org/abs/2302.01115, sections on the
  gate, EPNet and PPNet. With one task there is one tower.
  """

  Config = GateConfig

  def __init__(self, sizes: Sizes, config: GateConfig, *, rngs: nnx.Rngs):
    self.scenario_fields = sizes.scenario_fields
    self.prior_fields = sizes.user_fields + sizes.item_fields
    if not self.prior_fields:
      raise ValueError(
        "pepnet's gates look at who the user is and what the item is, and"
        ' Sizes names no user_fields and no item_fields.'
      )
    width, hidden = sizes.flat_width, config.gate_width
    self.ep_hidden = nnx.Linear(
      len(self.scenario_fields) * sizes.dim + width, hidden, rngs=rngs
    )
    self.ep_gate = nnx.Linear(hidden, width, rngs=rngs)
    # The first layers of all PPNet gates share their input: one product.
    self.pp_hidden = Experts(
      len(config.widths),
      len(self.prior_fields) * sizes.dim + width,
      (hidden,),
      rngs=rngs,
    )
    self.pp_gates = nnx.List(
      nnx.Linear(hidden, size, rngs=rngs) for size in config.widths
    )
    self.layers = linears((width, *config.widths, 1), rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    scenario_BD = x.joined(self.scenario_fields)
    seen = jnp.concatenate([scenario_BD, jax.lax.stop_gradient(x.flat)], axis=1)
    gate = 2 * jax.nn.sigmoid(self.ep_gate(jax.nn.relu(self.ep_hidden(seen))))
    h = gate * x.flat
    seen = jnp.concatenate(
      [x.joined(self.prior_fields), jax.lax.stop_gradient(h)], axis=1
    )
    hidden_BLO = self.pp_hidden(seen)
    for i, layer in enumerate(self.layers[:-1]):
      score = self.pp_gates[i](hidden_BLO[:, i])
      h = 2 * jax.nn.sigmoid(score) * jax.nn.relu(layer(h))
    return self.layers[-1](h)[:, 0]
