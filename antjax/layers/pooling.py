# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pooling of multi-hot features."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

# Shape suffixes: B = rows, K = values of one feature, D = embedding width.

Pooling = Literal['mean', 'sum']


def pool(
  vectors_BKD: jax.Array,
  ids_BK: jax.Array,
  how: Pooling = 'mean',
  weights_BK: jax.Array | None = None,
) -> jax.Array:
  """Pools the vectors of a multi-hot feature to float [..., D].

  Args:
    vectors_BKD: float [..., K, D], one vector per value; without weights also
      their sum [..., D], as from tables with `sums`.
    ids_BK: int [..., K]; a negative id marks padding, whatever its vector.
    how: 'mean' or 'sum' over the values present; both are zero for a row
      without values.
    weights_BK: float [..., K], a factor of each value; None: 1. The mean is
      then divided by the sum of weights, and zero if that is zero.

  Raises:
    ValueError: `how` is unknown or the shapes do not match.
  """
  if how not in ('mean', 'sum'):
    raise ValueError(f"pool(how={how!r}): use 'mean' or 'sum'.")
  is_summed = vectors_BKD.ndim == ids_BK.ndim and weights_BK is None
  if vectors_BKD.shape[:-1] != ids_BK.shape[: -1 if is_summed else None]:
    raise ValueError(
      f'pool: vectors {vectors_BKD.shape} need ids'
      f' {vectors_BKD.shape[:-1]}; got {ids_BK.shape}.'
    )
  if weights_BK is not None and weights_BK.shape != ids_BK.shape:
    raise ValueError(
      f'pool: ids {ids_BK.shape} need weights of that shape; got'
      f' {weights_BK.shape}.'
    )
  weight_BK = (ids_BK >= 0).astype(vectors_BKD.dtype)
  if weights_BK is not None:
    weight_BK = jnp.where(ids_BK >= 0, weights_BK, 0).astype(weight_BK.dtype)
  total = vectors_BKD
  if not is_summed:
    present_BKD = jnp.where((ids_BK >= 0)[..., None], vectors_BKD, 0)
    total = (present_BKD * weight_BK[..., None]).sum(axis=-2)
  if how == 'sum':
    return total
  count = weight_BK.sum(axis=-1, keepdims=True)
  is_zero = count == 0
  return jnp.where(is_zero, 0, total / jnp.where(is_zero, 1, count))


def attend(
  vectors_BKD: jax.Array, ids_BK: jax.Array, query_BD: jax.Array
) -> jax.Array:
  """Sum of vectors weighted by softmax(v q / sqrt(D)); zero without values.

  Args:
    vectors_BKD: float [B, K, D], one vector per value.
    ids_BK: int [B, K]; a negative id marks padding.
    query_BD: float [B, D].
  """
  score_BK = jnp.einsum('bkd,bd->bk', vectors_BKD, query_BD)
  score_BK = score_BK * vectors_BKD.shape[-1] ** -0.5
  share_BK = jax.nn.softmax(jnp.where(ids_BK >= 0, score_BK, -1e30), axis=-1)
  return pool(vectors_BKD, ids_BK, 'sum', share_BK)


def pool_features(
  vectors: Mapping[str, jax.Array],
  ids: Mapping[str, jax.Array],
  how: Pooling | Mapping[str, Pooling] = 'mean',
  weights: Mapping[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
  """Pools multi-hot features (2-D ids); passes one-hot features through.

  Args:
    vectors: Feature -> float [rows, D] or [rows, K, D].
    ids: Feature -> int [rows] or [rows, K]; -1 is padding, in a one-hot feature
      a zero vector.
    how: See `pool`; for all features, or by feature ('mean' for features that
      are not named).
    weights: Feature -> float [rows, K]; other features have no weights.

  Raises:
    ValueError: Ids are neither [rows] nor [rows, K], or weights are given for a
      feature that is not pooled.
  """
  weights = weights or {}
  pooled = {}
  for name, id_array in ids.items():
    if id_array.ndim == 1:
      if name in weights:
        raise ValueError(
          f'pool_features: {name!r} has weights and one id a row; weights need'
          ' ids [rows, values].'
        )
      pooled[name] = jnp.where((id_array >= 0)[:, None], vectors[name], 0)
    elif id_array.ndim == 2:
      way = how if isinstance(how, str) else how.get(name, 'mean')
      pooled[name] = pool(vectors[name], id_array, way, weights.get(name))
    else:
      raise ValueError(
        f'pool_features: ids of {name!r} have shape {id_array.shape};'
        ' [rows] or [rows, values] is needed.'
      )
  return pooled
