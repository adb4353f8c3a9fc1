# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pooling of multi-hot features."""

from typing import Literal

import jax
import jax.numpy as jnp

# Shape suffixes: B = rows, K = values of one feature, D = embedding width.

Pooling = Literal['mean', 'sum']


def pool(
  vectors_BKD: jax.Array, ids_BK: jax.Array, how: Pooling = 'mean'
) -> jax.Array:
  """Pools the vectors of a multi-hot feature; ids below zero are padding.

  Args:
    vectors_BKD: float [..., K, D], one vector a value.
    ids_BK: int [..., K]; a negative id marks padding, whatever its vector.
    how: 'mean' over the values present, or their 'sum'.

  Returns:
    float [..., D]; zero where a row has no value at all.

  Raises:
    ValueError: If `how` is unknown or the shapes do not fit.
  """
  if how not in ('mean', 'sum'):
    raise ValueError(f"pool(how={how!r}): use 'mean' or 'sum'.")
  if vectors_BKD.shape[:-1] != ids_BK.shape:
    raise ValueError(
      f'pool: vectors {vectors_BKD.shape} need ids'
      f' {vectors_BKD.shape[:-1]}; got {ids_BK.shape}.'
    )
  present_BK = ids_BK >= 0
  total = jnp.where(present_BK[..., None], vectors_BKD, 0).sum(axis=-2)
  if how == 'sum':
    return total
  count = jnp.maximum(present_BK.sum(axis=-1, keepdims=True), 1)
  return total / count.astype(total.dtype)


def pool_features(
  vectors: dict[str, jax.Array],
  ids: dict[str, jax.Array],
  how: Pooling = 'mean',
) -> dict[str, jax.Array]:
  """Pools the multi-hot features (2-D ids); passes one-hot ones through.

  Args:
    vectors: feature -> float [rows, D] or [rows, K, D].
    ids: feature -> int [rows] or [rows, K]; -1 is padding.
    how: see `pool`.

  Returns:
    feature -> float [rows, D]. An id of -1 in a one-hot feature gives a zero
    vector.

  Raises:
    ValueError: If ids are neither [rows] nor [rows, K].
  """
  pooled = {}
  for name, id_array in ids.items():
    if id_array.ndim == 1:
      pooled[name] = jnp.where((id_array >= 0)[:, None], vectors[name], 0)
    elif id_array.ndim == 2:
      pooled[name] = pool(vectors[name], id_array, how)
    else:
      raise ValueError(
        f'pool_features: ids of {name!r} have shape {id_array.shape};'
        ' [rows] or [rows, values] is needed.'
      )
  return pooled
