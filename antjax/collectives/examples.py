# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What losses over more than one device's examples need."""

import jax
from jax import lax

from antjax.mesh.mesh import BATCH_AXES, INTER, INTRA


def all_examples(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A micro-batch's examples of all devices, for negatives of a whole batch.

  Call it in a loss; gradients flow back to the devices that the examples came
  from, so that a loss of N devices is that of one with the whole batch. It is a
  collective call in the micro-batch loop: every group must do the same number.
  In `fit(elastic=...)` the devices are those of this process.

  Args:
    x: Examples [B, ...] of this device.

  Returns:
    (examples [N * B, ...] of N devices, index of this device's first one).
  """
  index = lax.axis_index(INTER) * lax.axis_size(INTRA) + lax.axis_index(INTRA)
  return lax.all_gather(x, BATCH_AXES, tiled=True), index * x.shape[0]
