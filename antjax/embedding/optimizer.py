# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimizers that update only the rows touched by a step."""

from collections.abc import Callable
import dataclasses
from typing import Protocol

import jax
from jax import lax
import jax.numpy as jnp

from antjax.embedding import rounding
from antjax.embedding.lookup import add_rows, num_below

Slots = dict[str, jax.Array]
LearningRate = float | Callable[[jax.Array], jax.Array]


class RowOptimizer(Protocol):
  """One step on rows [n, D], in optax's terms: gradients become updates."""

  def init(self, num_rows: int, dim: int) -> Slots:
    """Slots for a whole table: arrays [num_rows] or [num_rows, dim]."""

  def update(
    self, grads: jax.Array, slots: Slots, rows: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Slots]:
    """Updates to add to the rows, and new slots; `step` counts from 0."""


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

  def update(self, grads, slots, rows, step):
    return -_rate(self.learning_rate, step) * grads, slots


@dataclasses.dataclass(frozen=True)
class Adagrad:
  """Adagrad with an accumulator for every element (Duchi et al., 2011)."""

  learning_rate: LearningRate = 0.01
  eps: float = 1e-8

  def init(self, num_rows: int, dim: int) -> Slots:
    return {'accumulator': jnp.zeros((num_rows, dim), jnp.float32)}

  def update(self, grads, slots, rows, step):
    acc = slots['accumulator'] + jnp.square(grads)
    delta = grads / (jnp.sqrt(acc) + self.eps)
    return -_rate(self.learning_rate, step) * delta, {'accumulator': acc}


@dataclasses.dataclass(frozen=True)
class RowWiseAdagrad:
  """Adagrad with one accumulator per row, the mean square of its gradient.

  The state takes 4 bytes per row of any width. Same as FBGEMM's
  EXACT_ROWWISE_ADAGRAD.
  """

  learning_rate: LearningRate = 0.01
  eps: float = 1e-8

  def init(self, num_rows: int, dim: int) -> Slots:
    del dim
    return {'accumulator': jnp.zeros((num_rows,), jnp.float32)}

  def update(self, grads, slots, rows, step):
    acc = slots['accumulator'] + jnp.mean(jnp.square(grads), axis=1)
    rate = _rate(self.learning_rate, step) / (jnp.sqrt(acc) + self.eps)
    return -rate[:, None] * grads, {'accumulator': acc}


@dataclasses.dataclass(frozen=True)
class Adam:
  """Lazy Adam: moments of a row change only in steps that touch it.

  As in other implementations, the bias correction counts all steps of the job,
  not those of the row. A row first touched late in a job therefore starts with
  updates of up to (1 - b1) / sqrt(1 - b2) times the learning rate: 3.2 by
  default.
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

  def update(self, grads, slots, rows, step):
    count = (step + 1).astype(jnp.float32)
    mu = self.b1 * slots['mu'] + (1 - self.b1) * grads
    nu = self.b2 * slots['nu'] + (1 - self.b2) * jnp.square(grads)
    mu_hat = mu / (1 - self.b1**count)
    nu_hat = nu / (1 - self.b2**count)
    delta = mu_hat / (jnp.sqrt(nu_hat) + self.eps)
    return -_rate(self.learning_rate, step) * delta, {'mu': mu, 'nu': nu}


@dataclasses.dataclass(frozen=True)
class L2:
  """Another optimizer, with an L2 penalty on all rows in each step.

  The penalty adds `weight * row` to the gradient of a step. When a row is
  touched, the penalties of all steps since its last touch are applied. So a
  step's cost depends only on the touched rows, and rare rows decay as strongly
  as frequent ones, as under a Gaussian prior of the rows.
  """

  optimizer: RowOptimizer
  weight: float

  def init(self, num_rows: int, dim: int) -> Slots:
    slots = self.optimizer.init(num_rows, dim)
    return slots | {'paid': jnp.zeros(num_rows, jnp.int32)}

  def update(self, grads, slots, rows, step):
    owed = (step + 1 - slots['paid']).astype(jnp.float32)
    inner = {name: x for name, x in slots.items() if name != 'paid'}
    delta, inner = self.optimizer.update(
      grads + self.weight * owed[:, None] * rows, inner, rows, step
    )
    return delta, inner | {'paid': jnp.full_like(slots['paid'], step + 1)}


def apply_to_rows(
  optimizer: RowOptimizer,
  table: jax.Array,
  slots: Slots,
  ids: jax.Array,
  grads: jax.Array,
  step: jax.Array,
  lr_scale: jax.Array | None = None,
  seed: jax.Array | None = None,
) -> tuple[jax.Array, Slots]:
  """One optimizer step on each distinct row named in `ids`.

  Gradients of a row in several lists are summed first. Costs O(n D) for any
  number of rows of the table. With donated arguments the table is updated in
  place.

  Args:
    optimizer: Row optimizer.
    table: Rows [V, D], or as they are kept.
    slots: Slots of the optimizer, [V] or [V, D] each.
    ids: int32 [L, C], n = L C: L lists, each strictly increasing and padded
      with V at its end.
    grads: [n, D].
    step: int32 scalar, number of steps done.
    lr_scale: Scale of the updates. None: 1.
    seed: uint32 [n], seeds of stochastic rounding of narrow rows; None for
      float32.
  """
  num_rows = table.shape[0]
  order = jnp.arange(ids.size, dtype=jnp.int32)
  if len(ids) > 1:
    leader = first_mentions(ids)
    grads = add_rows(ids.size, grads, leader)
    is_leader = leader == order
  else:
    is_leader = jnp.ones_like(order, bool)
  ids = ids.reshape(-1)
  # Out-of-range targets stay distinct, as `unique_indices` promises.
  target = jnp.where(is_leader & (ids < num_rows), ids, num_rows + order)

  def read(x):
    return x.at[target].get(mode='fill', fill_value=0, unique_indices=True)

  def write(x, new):
    new = new.astype(x.dtype)
    return x.at[target].set(new, mode='drop', unique_indices=True)

  rows = rounding.to_float(read(table))
  updates, new_slots = optimizer.update(
    grads, jax.tree.map(read, slots), rows, step
  )
  if seed is not None:
    rows = rows + _scaled(updates, lr_scale)
    rows = rounding.to_kept(rows, table.dtype, seed)
    return write(table, rows), jax.tree.map(write, slots, new_slots)
  # Added, not set: then old rows are read only if the optimizer reads them.
  table = table.at[target].add(
    _scaled(updates, lr_scale), mode='drop', unique_indices=True
  )
  return table, jax.tree.map(write, slots, new_slots)


# Up to this many lists are searched pairwise; more are sorted together.
_MAX_SEARCHED_LISTS = 8


def first_mentions(ids: jax.Array) -> jax.Array:
  """Index of the first appearance of each id in sorted lists, int32 [L C].

  Takes O(L^2 C log C) for few lists [L, C], which beats a sort on CPU, and O(L
  C log(L C)) for many.
  """
  num_lists, size = ids.shape
  place = jnp.arange(num_lists * size, dtype=jnp.int32).reshape(ids.shape)
  if num_lists > _MAX_SEARCHED_LISTS:
    flat, place = ids.reshape(-1), place.reshape(-1)
    ordered, origin = lax.sort((flat, place), num_keys=1, is_stable=True)
    is_new = jnp.r_[True, ordered[1:] != ordered[:-1]]
    start = lax.cummax(jnp.where(is_new, place, 0))
    return (
      jnp.zeros_like(place).at[origin].set(origin[start], unique_indices=True)
    )
  first = [place[0]]
  for i in range(1, num_lists):
    mine = place[i]
    for j in reversed(range(i)):  # The earliest list is written last.
      at = jnp.minimum(num_below(ids[j], ids[i]), size - 1)
      mine = jnp.where(ids[j][at] == ids[i], place[j][at], mine)
    first.append(mine)
  return jnp.concatenate(first)


def apply_to_table(
  optimizer: RowOptimizer,
  table: jax.Array,
  slots: Slots,
  grads: jax.Array,
  touched: jax.Array,
  step: jax.Array,
  lr_scale: jax.Array | None = None,
  seed: jax.Array | None = None,
) -> tuple[jax.Array, Slots]:
  """Like `apply_to_rows`, for a small table with a dense gradient [V, D].

  Rows that are not `touched` [V], and their slots, do not change.
  """
  rows = rounding.to_float(table)
  updates, new_slots = optimizer.update(grads, slots, rows, step)

  def keep(new, old):
    mask = touched.reshape(touched.shape + (1,) * (old.ndim - 1))
    return jnp.where(mask, new.astype(old.dtype), old)

  rows = rows + _scaled(updates, lr_scale)
  table = keep(rounding.to_kept(rows, table.dtype, seed), table)
  return table, jax.tree.map(keep, new_slots, slots)


def _scaled(updates: jax.Array, lr_scale: jax.Array | None) -> jax.Array:
  return updates if lr_scale is None else lr_scale * updates
