# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses over the examples of several devices."""

import jax
from jax import lax

from antjax.mesh.mesh import BATCH_AXES, INTER, INTRA


def all_examples(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Gathers a micro-batch's examples from all devices, e.g. as negatives.

  Call it in a loss. Gradients flow back to the devices that the examples came
  from, so a loss on N devices equals that of one device with the whole batch.
  It is a collective in the micro-batch loop, so every group must run the same
  number of micro-batches. In `fit(elastic=...)` the devices are those of this
  process.

  Args:
    x: Examples [B, ...] of this device.

  Returns:
    (examples [N * B, ...] of N devices, index of this device's first example).
  """
  index = lax.axis_index(INTER) * lax.axis_size(INTRA) + lax.axis_index(INTRA)
  return lax.all_gather(x, BATCH_AXES, tiled=True), index * x.shape[0]
