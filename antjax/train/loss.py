# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks the results of a user's loss, and sums them over a step."""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from antjax.train.state import Layout, named_leaves, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
  """Sums of a device over its micro-batches, beside gradients."""

  loss: jax.Array  # Weighted sum of losses.
  weight: jax.Array  # Sum of weights.
  metrics: dict[str, jax.Array]  # Weighted sums of the loss's metrics, by name.
  # New values of mutable leaves, by name: weighted sums of floats, maxima of
  # integers and booleans.
  updates: dict[str, jax.Array]

  def plus(self, other: 'Sums') -> 'Sums':
    """Adds `other`; `self` may lack metrics."""
    zero = jnp.zeros_like(self.loss)
    return Sums(
      self.loss + other.loss,
      self.weight + other.weight,
      {n: self.metrics.get(n, zero) + x for n, x in other.metrics.items()},
      {
        n: x + self.updates[n]
        if is_summed(x)
        else jnp.maximum(x, self.updates[n])
        for n, x in other.updates.items()
      },
    )


def is_summed(x: jax.Array) -> bool:
  """Whether new values are averaged (floats) or their maximum is taken."""
  return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def blank(x: jax.Array) -> jax.Array:
  """Initial value of a sum like `x`: 0, or the least integer."""
  least = 0 if is_summed(x) else jnp.iinfo(x.dtype).min
  return jnp.full_like(x, least)


def summed(x: jax.Array) -> jax.Array:
  """Converts to the dtype of the sum."""
  least = jnp.float32 if is_summed(x) else jnp.uint8  # Booleans: logical or.
  return x.astype(jnp.promote_types(x.dtype, least))


def checked_updates(layout: Layout, updates: PyTree) -> dict[str, jax.Array]:
  """New values by leaf name, in the dtypes of their sums."""
  found = dict(named_leaves(jax.tree.leaves_with_path(updates)))
  wanted = {leaf.name: leaf.spec for leaf in layout.leaves if leaf.is_mutable}
  if found.keys() != wanted.keys():
    raise ValueError(
      f'loss_fn returned new values of {sorted(found)}; needed are those of the'
      f' leaves that Trainer(mutable=...) names: {sorted(wanted)}. They are the'
      ' fourth of what it returns: (losses, weights, metrics, updates), where'
      ' updates is a part of the tree of parameters.'
    )
  for name, spec in wanted.items():
    if jnp.shape(found[name]) != spec.shape:
      raise ValueError(
        f'loss_fn returned a new {name} of shape {jnp.shape(found[name])};'
        f' needed is {spec.shape}.'
      )
  return {
    n: lax.stop_gradient(summed(jnp.asarray(found[n], spec.dtype)))
    for n, spec in wanted.items()
  }


class Loss(NamedTuple):
  """Result of a loss function; see `Trainer`."""

  losses: jax.Array  # Losses, float32 [B].
  weights: jax.Array  # Weights of the losses, float32 [B].
  metrics: dict[str, jax.Array]  # Name -> float32 [B].
  # New values of mutable leaves, a part of the parameters' tree.
  updates: PyTree


def read_loss(result: Any) -> Loss:
  """Checks the result of the user's loss; weights are 1 by default."""
  losses, *rest = result if isinstance(result, (tuple, list)) else (result,)
  if rest and isinstance(rest[0], Mapping):
    rest = [None, *rest]
  if len(rest) > 3 or not all(isinstance(x, Mapping) for x in rest[1:2]):
    raise ValueError(
      f'loss_fn returned {[type(x).__name__ for x in result]}; needed is'
      ' losses, (losses, metrics), (losses, weights), (losses, weights,'
      ' metrics) or (losses, weights, metrics, updates), metrics being a dict.'
    )
  filled: list[Any] = [*rest, *(None, {}, {})[len(rest) :]]
  weights, metrics, updates = filled
  if jnp.ndim(losses) != 1:
    raise ValueError(
      f'loss_fn returned losses of shape {jnp.shape(losses)}; needed is one'
      ' loss for each example, [B]. Do not take their mean: antjax weighs them.'
    )
  if weights is None:
    weights = jnp.ones_like(losses)
  if weights.shape != losses.shape:
    raise ValueError(
      f'loss_fn returned weights of shape {weights.shape} for losses of shape '
      f'{losses.shape}; they must be equal.'
    )
  for name, x in metrics.items():
    is_nested = not (isinstance(name, str) and jax.tree_util.all_leaves([x]))
    if is_nested or jnp.shape(x) not in ((), losses.shape):
      shapes = jax.tree.map(jnp.shape, x)
      raise ValueError(
        f'loss_fn returned the metric {name} of shape {shapes}; needed are'
        f' names with one number, or one for each example, {losses.shape}.'
      )
  return Loss(
    losses.astype(jnp.float32),
    _constant(weights.astype(jnp.float32)),
    {
      name: lax.stop_gradient(
        jnp.broadcast_to(jnp.asarray(x, jnp.float32), losses.shape)
      )
      for name, x in metrics.items()
    },
    updates,
  )


@jax.custom_vjp
def _constant(weights: jax.Array) -> jax.Array:
  """Weights that raise an error if they are differentiated."""
  return weights


def _constant_fwd(weights: Any) -> tuple[jax.Array, None]:
  if weights.perturbed:
    raise ValueError(
      'loss_fn returned weights that depend on the parameters: antjax divides'
      ' by their sum over all devices, whose gradient is not taken. Use'
      ' jax.lax.stop_gradient(weights) if they are constants, or multiply'
      ' the losses by them.'
    )
  return weights.value, None


_constant.defvjp(_constant_fwd, lambda _, __: (None,), symbolic_zeros=True)
