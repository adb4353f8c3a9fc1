# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Target attention: a history, weighted by how it fits the candidate.

Source: Zhou et al. 2018, "Deep Interest Network",
https://arxiv.org/abs/1706.06978, section 4.3. As there, weights are not
normalised: how much of a history fits the candidate is information. The unit's
hidden layers have ReLU where the paper has PReLU or Dice.
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP

# Shape suffixes: B = rows, M = places of the history, D = width.


class TargetAttention(nnx.Module):
  """The activation unit, an MLP over (q, k, q - k, q k), and its sum."""

  def __init__(self, dim: int, widths: Sequence[int], *, rngs: nnx.Rngs):
    """Makes the unit.

    Args:
      dim: D.
      widths: Hidden widths, at least one.
      rngs: Source of the initial weights.
    """
    self.mlp = MLP(4 * dim, widths, rngs=rngs)
    self.out = nnx.Linear(widths[-1], 1, rngs=rngs)

  def __call__(
    self, query_BD: jax.Array, keys_BMD: jax.Array, is_there_BM: Any
  ) -> jax.Array:
    """The weighted sum of the keys, [B, D]; 0 for an empty history.

    Divided by the number of places M, so that its size does not grow with them.
    """
    score_BM = self.out(self.mlp(_compare(query_BD, keys_BMD)))[..., 0]
    return _weigh(score_BM, keys_BMD, is_there_BM)


def _compare(query_BD: jax.Array, keys_BMD: jax.Array) -> jax.Array:
  """What the unit sees of each pair, [B, M, 4 D]."""
  q_BMD = jnp.broadcast_to(query_BD[:, None], keys_BMD.shape)
  return jnp.concatenate(
    [q_BMD, keys_BMD, q_BMD - keys_BMD, q_BMD * keys_BMD], axis=-1
  )


def _weigh(
  score_BM: jax.Array, keys_BMD: jax.Array, is_there_BM: Any
) -> jax.Array:
  weight_BM = jnp.where(is_there_BM, score_BM, 0)
  keys_BMD = jnp.where(is_there_BM[..., None], keys_BMD, 0)
  return jnp.einsum('bm,bmd->bd', weight_BM, keys_BMD) / keys_BMD.shape[1]
