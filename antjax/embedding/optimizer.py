# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimizers that change only the rows of a table that a step has touched."""

from collections.abc import Callable
import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

Slots = dict[str, jax.Array]
LearningRate = float | Callable[[jax.Array], jax.Array]


class RowOptimizer(Protocol):
  """One step on rows [n, D] with their gradients and optimizer slots."""

  def init(self, num_rows: int, dim: int) -> Slots:
    """Slots for a whole table: arrays [num_rows] or [num_rows, dim]."""

  def update(
    self, rows: jax.Array, grads: jax.Array, slots: Slots, step: jax.Array
  ) -> tuple[jax.Array, Slots]:
    """New rows and slots; `step` counts from 0."""


def _rate(learning_rate: LearningRate, step: jax.Array) -> jax.Array:
  if callable(learning_rate):
    return learning_rate(step)
  return jnp.asarray(learning_rate, jnp.float32)


@dataclasses.dataclass(frozen=True)
class SGD:
  """`row -= learning_rate * grad`."""

  learning_rate: LearningRate = 0.01

  def init(self, num_rows: int, dim: int) -> Slots:
    del num_rows, dim
    return {}

  def update(self, rows, grads, slots, step):
    return rows - _rate(self.learning_rate, step) * grads, slots


@dataclasses.dataclass(frozen=True)
class Adagrad:
  """Adagrad with an accumulator for every element (Duchi et al., 2011)."""

  learning_rate: LearningRate = 0.01
  eps: float = 1e-8

  def init(self, num_rows: int, dim: int) -> Slots:
    return {'accumulator': jnp.zeros((num_rows, dim), jnp.float32)}

  def update(self, rows, grads, slots, step):
    acc = slots['accumulator'] + jnp.square(grads)
    delta = grads / (jnp.sqrt(acc) + self.eps)
    rows = rows - _rate(self.learning_rate, step) * delta
    return rows, {'accumulator': acc}


@dataclasses.dataclass(frozen=True)
class RowWiseAdagrad:
  """Adagrad with one accumulator a row, the mean square of its gradient.

  4 bytes of state a row whatever its width; FBGEMM's EXACT_ROWWISE_ADAGRAD.
  """

  learning_rate: LearningRate = 0.01
  eps: float = 1e-8

  def init(self, num_rows: int, dim: int) -> Slots:
    del dim
    return {'accumulator': jnp.zeros((num_rows,), jnp.float32)}

  def update(self, rows, grads, slots, step):
    acc = slots['accumulator'] + jnp.mean(jnp.square(grads), axis=1)
    delta = grads / (jnp.sqrt(acc)[:, None] + self.eps)
    rows = rows - _rate(self.learning_rate, step) * delta
    return rows, {'accumulator': acc}


@dataclasses.dataclass(frozen=True)
class Adam:
  """Lazy Adam: moments of a row move only in steps that touch it.

  The bias correction counts all steps of the job, not the row's own, as lazy
  Adam does elsewhere. A row first touched late in a job therefore starts with
  steps of up to (1 - b1) / sqrt(1 - b2) times the rate: 3.2 by default.
  """

  learning_rate: LearningRate = 0.001
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8

  def init(self, num_rows: int, dim: int) -> Slots:
    return {
      'mu': jnp.zeros((num_rows, dim), jnp.float32),
      'nu': jnp.zeros((num_rows, dim), jnp.float32),
    }

  def update(self, rows, grads, slots, step):
    count = (step + 1).astype(jnp.float32)
    mu = self.b1 * slots['mu'] + (1 - self.b1) * grads
    nu = self.b2 * slots['nu'] + (1 - self.b2) * jnp.square(grads)
    mu_hat = mu / (1 - self.b1**count)
    nu_hat = nu / (1 - self.b2**count)
    delta = mu_hat / (jnp.sqrt(nu_hat) + self.eps)
    return rows - _rate(self.learning_rate, step) * delta, {'mu': mu, 'nu': nu}


def apply_to_rows(
  optimizer: RowOptimizer,
  table: jax.Array,
  slots: Slots,
  ids: jax.Array,
  grads: jax.Array,
  step: jax.Array,
  lr_scale: jax.Array | None = None,
) -> tuple[jax.Array, Slots]:
  """One optimizer step on each distinct row named in `ids`.

  Gradients of a row that is named several times are summed first. Costs
  O(n D) and 4 bytes of scratch per row of the table; with donated arguments
  the table is changed in place, so the cost does not grow with its width.

  Args:
    optimizer: The row optimizer.
    table: [V, D].
    slots: Its slots, [V] or [V, D] each.
    ids: int32 [n]; values outside [0, V) are ignored.
    grads: [n, D].
    step: int32 scalar, steps done so far.
    lr_scale: Factor of the rows' changes; None is 1.
  """
  num_rows, n = table.shape[0], ids.shape[0]
  order = jnp.arange(n, dtype=jnp.int32)
  # The first mention of a row stands for all: no sort, which is slow on CPU.
  first = jnp.full((num_rows,), n, jnp.int32).at[ids].min(order, mode='drop')
  leader = first.at[ids].get(mode='fill', fill_value=n)
  total = jnp.zeros_like(grads).at[leader].add(grads, mode='drop')
  # Out-of-range targets stay distinct, as `unique_indices` promises.
  target = jnp.where(leader == order, ids, num_rows + order)

  def read(x):
    return x.at[target].get(mode='fill', fill_value=0, unique_indices=True)

  def write(x, new):
    new = new.astype(x.dtype)
    return x.at[target].set(new, mode='drop', unique_indices=True)

  old = read(table)
  rows, new_slots = optimizer.update(
    old, total, jax.tree.map(read, slots), step
  )
  return write(table, _scaled(old, rows, lr_scale)), jax.tree.map(
    write, slots, new_slots
  )


def apply_to_table(
  optimizer: RowOptimizer,
  table: jax.Array,
  slots: Slots,
  grads: jax.Array,
  touched: jax.Array,
  step: jax.Array,
  lr_scale: jax.Array | None = None,
) -> tuple[jax.Array, Slots]:
  """As `apply_to_rows` for a small table with a dense gradient.

  Args:
    optimizer: The row optimizer.
    table: [V, D].
    slots: Its slots.
    grads: [V, D].
    touched: bool [V]; other rows and their slots stay as they are.
    step: int32 scalar, steps done so far.
    lr_scale: Factor of the rows' changes; None is 1.
  """
  rows, new_slots = optimizer.update(table, grads, slots, step)
  rows = _scaled(table, rows, lr_scale)

  def keep(new, old):
    mask = touched.reshape(touched.shape + (1,) * (old.ndim - 1))
    return jnp.where(mask, new.astype(old.dtype), old)

  return keep(rows, table), jax.tree.map(keep, new_slots, slots)


def _scaled(
  old: jax.Array, new: jax.Array, lr_scale: jax.Array | None
) -> jax.Array:
  """Goes only `lr_scale` of the way."""
  return new if lr_scale is None else old + lr_scale * (new - old)
