# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The host's part of a look-up: which distinct rows each device needs.

Done with numpy in the input pipeline: XLA sorts ten times slower on CPU.
"""

import numpy as np

from antjax.embedding.layout import Stack
from antjax.mesh.paro import Level

PAD = -1  # The id, and the index, of "nothing": its vector is zero.


def deduplicate(
  stack: Stack,
  arrays: list[np.ndarray],
  *,
  max_unique: int | None,
  capacity_factor: float,
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
  """Per device: every array as indices into its distinct positions.

  Args:
    stack: The stack that all the arrays look up.
    arrays: int32 [num_devices, n] positions each; PAD stays PAD.
    max_unique: See `EmbeddingTables`.
    capacity_factor: See `EmbeddingTables`.

  Returns:
    (indices, routing): an array of indices for each of `arrays`, and
    `positions` int32 [num_devices * U], `shift` int32 [num_devices].

  Raises:
    ValueError: More distinct rows than `max_unique`.
  """
  every = np.concatenate(arrays, axis=1)
  num_devices, num_ids = every.shape
  size = min(num_ids, stack.num_positions)
  if max_unique is not None:
    size = min(size, max_unique)
  ex = stack.exchange(size, capacity_factor)
  positions = np.full((num_devices, size), stack.num_positions, np.int32)
  shift = np.empty((num_devices,), np.int32)
  index = np.empty_like(every)
  for d in range(num_devices):
    unique, index[d] = _unique(every[d], stack.num_positions)
    if len(unique) > size:
      raise ValueError(
        f'EmbeddingTables(max_unique={max_unique}): a batch needs '
        f'{len(unique)} distinct rows of stack {stack.name} on one device. '
        'Raise max_unique or make the batch smaller.'
      )
    positions[d, : len(unique)] = unique
    shift[d] = ex.fit_shift(unique)
  if stack.level is Level.NONE:
    index = every  # The whole table is at hand.
  edges = np.cumsum([a.shape[1] for a in arrays])[:-1]
  routing = {'positions': positions.reshape(-1), 'shift': shift}
  return np.split(index, edges, axis=1), routing


def _unique(
  positions: np.ndarray, num_positions: int
) -> tuple[np.ndarray, np.ndarray]:
  """Sorted distinct positions without PAD, and the index of each (or PAD)."""
  if num_positions <= 8 * positions.size + 65_536:
    # Marking beats sorting while the table is not far larger than the batch.
    index = np.full((num_positions + 1,), PAD, np.int32)
    index[positions] = 0  # PAD marks the spare last entry.
    index[num_positions] = PAD
    unique = np.flatnonzero(index[:num_positions] == 0).astype(np.int32)
    index[unique] = np.arange(len(unique), dtype=np.int32)
    return unique, index[positions]
  unique, inverse = np.unique(positions, return_inverse=True)
  num_pad = int(len(unique) > 0 and unique[0] == PAD)
  return unique[num_pad:], (inverse - num_pad).astype(np.int32)
