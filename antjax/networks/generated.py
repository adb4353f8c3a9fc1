# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MLPs with gates or weights made of a scenario's vector or of a row."""

import dataclasses
import itertools
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import Experts, linears, MLP
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes
from antjax.networks.towers import row_of_scenario, ScenarioLinear

# Shape suffixes: B = rows, D = width of a field, I = input width, O = output
# width, R = rank, L = layers.


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig(DeepConfig):
  """Sizes of a network with gates or weights that another one makes."""

  gate_width: Annotated[
    int, 'Hidden width of the network that makes gates or weights.'
  ] = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreConfig(GateConfig):
  """Sizes of a network with generated cores [R, R]."""

  rank: Annotated[int, 'Inner width of the weights that are generated.'] = 16


def core_network(
  in_features: int, config: CoreConfig, *, rngs: nnx.Rngs
) -> MLP:
  """Makes a core, flat, of each row."""
  widths = config.gate_width, config.rank**2
  return MLP(in_features, widths, activate_last=False, rngs=rngs)


def through_core(core: jax.Array, x_BR: jax.Array) -> jax.Array:
  """Each row through its own core, [B, R]."""
  rank = x_BR.shape[1]
  return jnp.einsum('brs,bs->br', core.reshape(-1, rank, rank), x_BR)


class PEPNet(ClickNetwork):
  """PEPNet: gates that know the scenario, and gates that know user and item.

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
    # The first layers of all gates of PPNet have one input: one product.
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


class Adapter(nnx.Module):
  """Down, up, normalized and added: [B, I] of [B, I]."""

  def __init__(
    self, num_scenarios: int, width: int, config: 'HAMUR.Config', *, rngs
  ):
    inner, rank = config.adapter_width, config.rank

    def own(size_in, size_out, use_bias):
      return ScenarioLinear(
        num_scenarios, size_in, size_out, use_bias=use_bias, rngs=rngs
      )

    self.factors = nnx.List(
      [
        own(width, rank, False),
        own(rank, inner, True),
        own(inner, rank, False),
        own(rank, width, True),
      ]
    )
    self.scale = nnx.Param(jnp.ones((num_scenarios, width)))
    self.bias = nnx.Param(jnp.zeros((num_scenarios, width)))
    self.norm = nnx.LayerNorm(width, use_scale=False, use_bias=False, rngs=rngs)

  def __call__(
    self, h_BI: jax.Array, core: jax.Array, scenario_B: jax.Array
  ) -> jax.Array:
    into_down, out_of_down, into_up, out_of_up = self.factors
    down = through_core(core, into_down(h_BI, scenario_B))
    down = jax.nn.sigmoid(out_of_down(down, scenario_B))
    up = through_core(core, into_up(down, scenario_B))
    up = out_of_up(up, scenario_B)
    scale = row_of_scenario(self.scale[...], scenario_B)
    bias = row_of_scenario(self.bias[...], scenario_B)
    return h_BI + scale * self.norm(up) + bias


class HAMUR(ClickNetwork):
  """HAMUR: adapters of each scenario, whose core a network makes of a row.

  After each hidden layer of an MLP, with C = C(v) [R, R] of that network,

    down = sigmoid(V_d C U_d h + b_d),  up = V'_d C U'_d down + b'_d,
    h <- h + g_d * norm(up) + c_d

  where U_d, V_d, U'_d, V'_d have an inner width R: no weight of a row is ever
  larger than C.

  Source: Li et al. 2023, https://arxiv.org/abs/2309.06217, sections on the
  domain-specific adapter and the domain-shared hyper-network. norm is over a
  row's neurons; the paper's is over the rows of a batch, which would make a
  row's score depend on others.
  """

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(CoreConfig):
    """Sizes of the network."""

    adapter_width: Annotated[int, 'Width inside an adapter.'] = 32

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.hyper = core_network(sizes.flat_width, config, rngs=rngs)
    widths = sizes.flat_width, *config.widths, 1
    self.layers = linears(widths, rngs=rngs)
    self.adapters = nnx.List(
      Adapter(sizes.num_scenarios, width, config, rngs=rngs)
      for width in config.widths
    )

  def __call__(self, x: Inputs) -> jax.Array:
    h, core = x.flat, self.hyper(x.flat)
    for layer, adapter in zip(self.layers[:-1], self.adapters, strict=True):
      h = adapter(jax.nn.relu(layer(h)), core, x.scenario_B)
    return self.layers[-1](h)[:, 0]


class GeneratedLinear(nnx.Module):
  """U (1 + C(s)) V x + b: [B, O] of [B, I] and [B, D]."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    condition: int,
    config: CoreConfig,
    *,
    rngs: nnx.Rngs,
  ):
    self.core = core_network(condition, config, rngs=rngs)
    self.into = nnx.Linear(in_features, config.rank, use_bias=False, rngs=rngs)
    self.out = nnx.Linear(config.rank, out_features, rngs=rngs)

  def __call__(self, x_BI: jax.Array, condition_BD: jax.Array) -> jax.Array:
    x_BR = self.into(x_BI)
    return self.out(x_BR + through_core(self.core(condition_BD), x_BR))


class APG(ClickNetwork):
  """APG: the scenario's vector makes the core of low-rank weights.

    h_{l+1} = relu(U_l C_l(s) V_l h_l + b_l),  h_0 = v,  y = w h_L + b
    C_l(s) = 1 + W'_l relu(W_l s + b_l) + b'_l, as a matrix [R, R]

  with s the scenario's vector. The 1 is ours: a layer starts as a plain one of
  rank R.

  Source: Yan et al. 2022, https://arxiv.org/abs/2203.16218: its group-wise
  condition, low rank, decomposed product, shared U and V. Left out: U and V as
  products of larger matrices while training.
  """

  Config = CoreConfig
  needs = frozenset({'scenario'})

  def __init__(self, sizes: Sizes, config: CoreConfig, *, rngs: nnx.Rngs):
    if sizes.scenario_field is None:
      raise ValueError(
        "apg makes weights of the scenario's vector, and the inputs have"
        ' none (Sizes.scenario_field=None); use another model.'
      )
    self.scenario_fields = sizes.scenario_fields
    self.layers = nnx.List(
      GeneratedLinear(i, o, sizes.dim, config, rngs=rngs)
      for i, o in itertools.pairwise((sizes.flat_width, *config.widths))
    )
    self.out = nnx.Linear(config.widths[-1], 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    scenario_BD, h = x.joined(self.scenario_fields), x.flat
    for layer in self.layers:
      h = jax.nn.relu(layer(h, scenario_BD))
    return self.out(h)[:, 0]
