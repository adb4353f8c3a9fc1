# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs and networks that are small enough to be quick."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.networks.load import NetworkConfig
from antjax.networks.network import History, Inputs, Sizes

SIZES = Sizes(
  num_fields=5,
  dim=4,
  num_scenarios=3,
  scenario_field=4,
  user_fields=(0, 1),
  item_fields=(2, 3),
  histories=(6,),
)
# No width is the number of scenarios: that tells which axis theirs is.
CONFIG = NetworkConfig(
  widths=(16, 8),
  tower_widths=(8,),
  cross_layers=2,
  cin_widths=(5, 4),
  num_layers=2,
  num_heads=2,
  attention_widths=(6,),
  expert_widths=(8, 6),
  num_experts=2,
  num_specific=2,
  num_levels=2,
  gate_width=7,
  num_blocks=2,
  block_width=7,
  mask_ratio=1.5,
  num_pairs=2,
  num_linear=4,
  pair_widths=(6,),
  rank=4,
)


def inputs(num_rows=64, sizes=SIZES, seed=0) -> Inputs:
  """Random rows; those of a scenario share its vector, as from a table."""
  rng = np.random.default_rng(seed)
  scenario_B = np.arange(num_rows) % sizes.num_scenarios
  shape = num_rows, sizes.num_fields, sizes.dim
  fields_BFD = rng.normal(size=shape)
  vectors = rng.normal(size=(sizes.num_scenarios, sizes.dim))
  fields_BFD[:, sizes.scenario_field] = vectors[scenario_B]
  lengths = rng.integers(0, sizes.histories[0] + 1, size=num_rows)
  is_there_BM = np.arange(sizes.histories[0]) < lengths[:, None]
  keys_BMD = rng.normal(size=(num_rows, sizes.histories[0], sizes.dim))
  return Inputs(
    jnp.asarray(fields_BFD, jnp.float32),
    jnp.asarray(rng.normal(size=num_rows), jnp.float32),
    jnp.asarray(scenario_B, jnp.int32),
    histories=(
      History(
        jnp.asarray(keys_BMD, jnp.float32),
        jnp.asarray(is_there_BM),
        jnp.asarray(fields_BFD[:, sizes.item_fields[0]], jnp.float32),
      ),
    ),
  )


def labels(num_rows=64, seed=1):
  """Clicks that nothing explains: a model has to learn them by heart."""
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, 2, size=num_rows), jnp.float32)


def learn(loss_fn, params, num_steps=300):
  """Minimises a loss, in one compiled loop.

  Returns:
    The loss before each step, and the largest gradient of each leaf there.
  """
  optimizer = optax.adam(0.02)

  def step(carry, _):
    params, state = carry
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = optimizer.update(grads, state)
    sizes = jax.tree.map(lambda g: jnp.max(jnp.abs(g)), grads)
    return (optax.apply_updates(params, updates), state), (loss, sizes)

  def run(params):
    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, length=num_steps)[1]

  return jax.jit(run)(params)
