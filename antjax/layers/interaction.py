# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Feature interactions of click models."""

import jax
import jax.numpy as jnp
import numpy as np

# Shape suffixes: B = rows, F = feature vectors, D = embedding width,
# P = pairs of features = F (F - 1) / 2.


def dot_interaction(vectors_BFD: jax.Array) -> jax.Array:
  """Returns the dot product of every pair of feature vectors (DLRM).

  Source: Naumov et al. 2019, "Deep Learning Recommendation Model", section 2.

  Args:
    vectors_BFD: float [..., F, D], F >= 2.

  Returns:
    float [..., F (F - 1) / 2]: pairs (i, j), i > j, in row-major order.

  Raises:
    ValueError: If there are fewer than two feature vectors.
  """
  num_features = vectors_BFD.shape[-2]
  if num_features < 2:
    raise ValueError(
      f'dot_interaction: got shape {vectors_BFD.shape}; [..., F, D] with at'
      ' least two feature vectors is needed.'
    )
  products_BFF = jnp.einsum('...fd,...gd->...fg', vectors_BFD, vectors_BFD)
  rows, columns = np.tril_indices(num_features, k=-1)
  flat = products_BFF.reshape(*products_BFF.shape[:-2], -1)
  # One gather with static indices: its transpose is a scatter without
  # collisions, which is cheap on every backend.
  index = rows * num_features + columns
  return flat.at[..., index].get(unique_indices=True)
