# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Means and variances by scenario, for models that normalize inputs.

In training, a model uses the moments of the batch. For scoring it needs those
of the training data, so that a row's score depends only on that row. A running
mean would be state in addition to the parameters, and would lag behind them.
Instead, one pass over training batches with the final parameters sums
`moments_of` ("precise batch norm", Wu and Johnson 2021,
https://arxiv.org/abs/2105.07576, section 3), and `finish` turns the sums into
`Inputs.moments`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from antjax.networks.network import Inputs, ScenarioMoments

# Shape suffixes: B = rows, S = scenarios, X = width of all fields.

_EXACT = jax.lax.Precision.HIGHEST


class MomentSums(NamedTuple):
  """Sums over rows; add those of batches by `jax.tree.map(np.add, a, b)`.

  Attributes:
    count_S: Number of rows that count.
    sum_SX: Sums of the fields by scenario.
    square_SX: Sums of their squares.
  """

  count_S: jax.Array
  sum_SX: jax.Array
  square_SX: jax.Array


def moments_of(x: Inputs, num_scenarios: int) -> MomentSums:
  """Sums of a batch, in one pass.

  Add them in float64 on the host: float32 drifts over millions of rows.

  Args:
    x: Inputs of the batch; rows of weight 0 do not count.
    num_scenarios: Number of scenarios, S.
  """
  mine_BS = members(x, num_scenarios)
  flat_BX = x.flat.astype(jnp.float32)
  return MomentSums(
    jnp.sum(mine_BS, axis=0),
    jnp.dot(mine_BS.T, flat_BX, precision=_EXACT),
    jnp.dot(mine_BS.T, jnp.square(flat_BX), precision=_EXACT),
  )


def members(x: Inputs, num_scenarios: int) -> jax.Array:
  """[B, S]: 1 for the scenario of a row that counts, else 0."""
  mine_BS = jax.nn.one_hot(x.scenario_B, num_scenarios, dtype=jnp.float32)
  if x.weight_B is None:
    return mine_BS
  return mine_BS * (x.weight_B > 0)[:, None]


def of_batch(x: Inputs, num_scenarios: int) -> ScenarioMoments:
  """Differentiable moments of a batch.

  A scenario with fewer than two rows gets the moments of all rows.
  """
  mine_BS = members(x, num_scenarios)
  flat_BX = x.flat.astype(jnp.float32)
  count_S1 = jnp.sum(mine_BS, axis=0)[:, None]
  total = jnp.maximum(jnp.sum(count_S1), 1)
  sum_SX = jnp.dot(mine_BS.T, flat_BX, precision=_EXACT)
  all_1X = jnp.sum(sum_SX, axis=0, keepdims=True) / total
  has_own = count_S1 > 1
  mean_SX = jnp.where(has_own, sum_SX / jnp.maximum(count_S1, 1), all_1X)
  # Centered, not from squares: float32 would lose small variances.
  counts_B1 = jnp.sum(mine_BS, axis=1, keepdims=True)
  own_BX = jnp.dot(mine_BS, mean_SX, precision=_EXACT)
  square_SX = jnp.dot(mine_BS.T, jnp.square(flat_BX - own_BX), precision=_EXACT)
  all_square_1X = jnp.sum(
    counts_B1 * jnp.square(flat_BX - all_1X), axis=0, keepdims=True
  )
  variance_SX = jnp.where(
    has_own, square_SX / jnp.maximum(count_S1, 1), all_square_1X / total
  )
  return ScenarioMoments(mean_SX, variance_SX)


def finish(sums: MomentSums) -> ScenarioMoments:
  """Means and variances of the summed rows, float32.

  A scenario with fewer than two rows gets those of all rows.

  Raises:
    ValueError: There are no rows.
  """
  count_S1 = np.asarray(sums.count_S, np.float64)[:, None]
  sum_SX = np.asarray(sums.sum_SX, np.float64)
  square_SX = np.asarray(sums.square_SX, np.float64)
  if not count_S1.sum():
    raise ValueError(
      'moments.finish: no row was counted; sum moments_of over at least one'
      ' training batch.'
    )
  few = count_S1 < 2
  count = np.where(few, count_S1.sum(), count_S1)
  mean = np.where(few, sum_SX.sum(axis=0), sum_SX) / count
  square = np.where(few, square_SX.sum(axis=0), square_SX) / count
  variance = np.maximum(square - np.square(mean), 0)
  return ScenarioMoments(
    jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32)
  )
