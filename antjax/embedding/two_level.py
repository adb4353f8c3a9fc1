# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Row exchange in two levels: inside a group, then between groups.

A device sends requests inside its own group: to member j for all rows whose
owners have index j in their groups. Member j requests each row once from its
owner, whichever devices of the group need it. So no row crosses to a group
twice, and the peers of a device are as many as groups, not devices: messages
are large enough to be nearly full. Gradients take the same path and are summed
at the member (the idea of HO-Ring, PaRO, for an all-to-all).

Both levels run in rounds like those of `exchange`, so nothing is dropped. A row
takes one optimizer step: it is in one round of the first level on all devices,
and in one of the second.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.embedding import exchange
from antjax.embedding.exchange import Exchange
from antjax.embedding.lookup import add_rows


@dataclasses.dataclass(frozen=True)
class TwoLevel:
  """Static sizes of a two-level exchange."""

  # Owners are the members of a group, for the rows of all groups.
  inside: Exchange
  between: Exchange

  @property
  def num_positions(self) -> int:
    return self.inside.num_positions

  @property
  def one_round(self) -> int:
    """The shift at which one round covers every row of a member."""
    return self.inside.one_round

  def fit_shift(self, positions: np.ndarray) -> int:
    """The largest shift at which no round of the first level overflows."""
    return self.inside.fit_shift(positions)

  def starts(self, positions: np.ndarray) -> np.ndarray:
    return self.inside.starts(positions)


def fit_shift(ex: Exchange, positions: jax.Array) -> jax.Array:
  """Like `Exchange.fit_shift`, on the device; positions [u] may be padded."""
  whole = jnp.int32(ex.one_round)
  if positions.shape[0] <= ex.capacity:
    return whole
  head, tail = positions[: -ex.capacity], positions[ex.capacity :]
  is_same = head // ex.rows_per_device == tail // ex.rows_per_device
  is_same &= tail < ex.num_positions
  # Two rows separate at the shift of the highest bit in which they differ.
  bits = head % ex.rows_per_device ^ tail % ex.rows_per_device
  highest = 31 - lax.clz(bits)
  return jnp.min(jnp.where(is_same, highest, whole), initial=whole)


def _distinct(ids: jax.Array, fill: int) -> tuple[jax.Array, jax.Array]:
  """Sorted distinct ids [n], padded with `fill`, and the index of each [n].

  The index of `fill` is n or more.
  """
  size = ids.shape[0]
  ordered, origin = lax.sort(
    (ids, jnp.arange(size, dtype=jnp.int32)), num_keys=1
  )
  is_new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
  is_id = ordered < fill
  rank = jnp.where(is_id, jnp.cumsum(is_new) - 1, size).astype(jnp.int32)
  place = jnp.where(is_new, rank, size)
  unique = jnp.full((size,), fill, ids.dtype)
  unique = unique.at[place].set(ordered, mode='drop')
  index = jnp.zeros((size,), jnp.int32)
  index = index.at[origin].set(rank, unique_indices=True)
  return unique, index


def fetch(
  ex: Exchange | TwoLevel,
  table: jax.Array,
  positions: jax.Array,
  shift: jax.Array,
  starts: jax.Array | None = None,
) -> jax.Array:
  """Like `exchange.fetch`, in one level or two; `starts` are of the first."""
  if isinstance(ex, Exchange):
    return exchange.fetch(ex, table, positions, shift, starts)
  between = ex.between

  def read(asked):
    flat = asked.reshape(-1)
    unique, index = _distinct(flat, between.num_positions)
    rounds = exchange.agree_on_rounds(fit_shift(between, unique))
    rows = exchange.fetch(between, table, unique, rounds)
    rows = rows.at[index].get(mode='fill', fill_value=0)
    return rows.reshape(*asked.shape, -1)

  return exchange.fetch_by(ex.inside, read, positions, shift, table, starts)


def push(
  ex: Exchange | TwoLevel,
  positions: jax.Array,
  shift: jax.Array,
  grads: jax.Array,
  apply_fn: Callable[[Any, jax.Array, jax.Array], Any],
  state: Any,
  starts: jax.Array | None = None,
) -> Any:
  """Like `exchange.push`, in one level or two; `starts` are of the first."""
  args = positions, shift, grads
  if isinstance(ex, Exchange):
    return exchange.push(ex, *args, apply_fn, state, starts)
  between = ex.between

  def receive(state, ids, grads):
    unique, index = _distinct(ids.reshape(-1), between.num_positions)
    rounds = exchange.agree_on_rounds(fit_shift(between, unique))
    sums = add_rows(unique.shape[0], grads.reshape(-1, grads.shape[-1]), index)

    def apply(state, ids, grads):
      return apply_fn(state, ids, grads.reshape(-1, grads.shape[-1]))

    return exchange.push_by(between, unique, rounds, sums, apply, state)

  return exchange.push_by(ex.inside, *args, receive, state, starts)
