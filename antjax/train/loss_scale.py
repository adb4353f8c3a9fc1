# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Dynamic loss scaling for float16 gradients.

The loss is multiplied by a scale before differentiation, and the gradient is
divided by it. A step whose gradient is not finite only halves the scale. After
`PERIOD` finite steps it is doubled. The scale is part of the optimizer state
and so of checkpoints. Whether a gradient is finite is decided over all devices,
so every PaRO code skips the same steps.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from antjax.train import optimizer as optimizer_lib

INITIAL = 2.0**15
PERIOD = 1000
# Even if no gradient overflows, its product with the weights must not.
MOST = 2.0**60


class LossScaleState(NamedTuple):
  """State of an optimizer with a dynamic loss scale."""

  inner: Any  # State of the wrapped optimizer.
  scale: jax.Array  # float32 scalar.
  num_good: jax.Array  # int32 scalar, steps since the scale last changed.


def with_loss_scale(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Adds a scale to the optimizer's state; the step applies it."""

  def init(params: optax.Params) -> LossScaleState:
    inner = optimizer.init(params)
    return LossScaleState(inner, jnp.float32(INITIAL), jnp.int32(0))

  def update(grads, state, params=None, **extra):
    updates, inner = optimizer_lib.update(
      optimizer, grads, state.inner, params, **extra
    )
    return updates, state._replace(inner=inner)

  return optax.GradientTransformationExtraArgs(init, update)


def choose(
  loss_scale: float | Literal['dynamic'] | None,
  optimizer: optax.GradientTransformation,
) -> tuple[optax.GradientTransformation, float]:
  """(optimizer, constant factor of the loss) for `Trainer(loss_scale=...)`.

  Raises:
    ValueError: The factor is not positive.
  """
  if loss_scale == 'dynamic':
    return with_loss_scale(optimizer), 1.0
  if loss_scale is None:
    return optimizer, 1.0
  if not 0 < loss_scale < math.inf:
    raise ValueError(
      f"Trainer(loss_scale={loss_scale}) must be positive, or 'dynamic'."
    )
  return optimizer, float(loss_scale)


def adjust(state: LossScaleState, is_finite: jax.Array) -> LossScaleState:
  """Halves the scale after a bad step, doubles it after `PERIOD` good ones."""
  is_due = state.num_good + 1 >= PERIOD
  scale = jnp.where(
    is_finite,
    jnp.where(is_due, jnp.minimum(state.scale * 2, MOST), state.scale),
    jnp.maximum(state.scale / 2, jnp.finfo(jnp.float32).tiny),
  )
  num_good = jnp.where(is_finite & ~is_due, state.num_good + 1, 0)
  return LossScaleState(state.inner, scale, num_good)
