# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model that counts its own training records.

Beside a model's parameters there is one for each record, whose gradient from
`marked` is the record's number of uses in the step over the step's number of
rows. An optax transform turns it into integers. So the final model itself tells
how often each record was used, in which step last, and which generation of the
job made each step, independently of workers and coordinator.
"""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax

PyTree = Any

NAME = 'witness'  # Name of its part of the parameters.


class WitnessState(NamedTuple):
  """State of the transform."""

  step: jax.Array  # Steps so far.
  steps: PyTree  # Last step that used each record.
  generations: jax.Array  # [S] of each step, from the first.


def init(num_keys: int) -> PyTree:
  """Returns the parameters for records with keys 0, 1, ..."""
  return {'keys': jnp.zeros((num_keys,)), 'generation': jnp.zeros(())}


def marked(
  params: PyTree, losses: jax.Array, keys: jax.Array, generation: jax.Array
) -> jax.Array:
  """The losses [B] unchanged, with gradients that mark their records."""
  used = params['keys'][keys] + generation * params['generation']
  return losses + used - lax.stop_gradient(used)


def transform(max_steps: int) -> optax.GradientTransformation:
  """The transform for the parameters at `witness` in a tree.

  It keeps the generations of `max_steps` steps.
  """

  def init_fn(params: PyTree) -> WitnessState:
    return WitnessState(
      jnp.zeros((), jnp.int32),
      jax.tree.map(jnp.zeros_like, params),
      jnp.zeros((max_steps,), jnp.int32),
    )

  def update_fn(
    grads: PyTree, state: WitnessState, params: PyTree = None
  ) -> tuple[PyTree, WitnessState]:
    del params
    shares = grads[NAME]['keys']
    # The minimum is one use: no step has all its records twice.
    one = jnp.min(jnp.where(shares > 0, shares, jnp.inf))
    uses = jnp.round(jnp.where(shares > 0, shares / one, 0))
    generation = jnp.round(grads[NAME]['generation'] / jnp.sum(shares))
    step = state.step + 1
    last = state.steps[NAME]
    keys = jnp.where(uses > 0, step.astype(jnp.float32), last['keys'])
    generations = state.generations.at[state.step].set(
      generation.astype(jnp.int32), mode='drop'
    )
    updates = {'keys': uses, 'generation': jnp.zeros(())}
    steps = {**state.steps, NAME: {**last, 'keys': keys}}
    return {**grads, NAME: updates}, WitnessState(step, steps, generations)

  return optax.GradientTransformation(init_fn, update_fn)
