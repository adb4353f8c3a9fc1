# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Row exchange between devices: ids out, rows back, row gradients out.

Rows are addressed by *position*, owner * rows_per_device + local row, so a
sorted list of distinct positions is already grouped by owner. A device sends
at most `capacity` ids to each owner at a time. If any device has more for one
owner, all devices run several rounds, each covering 2**shift local rows. Every
row belongs to exactly one round, so nothing is dropped and each row takes one
optimizer step whatever the skew. All functions run in `shard_map`. With W
owners and capacity C, a round moves W C (4 + 8 D) + 4 W C bytes per device in
three all-to-alls; with a payload of bf16, 4 D replaces 8 D.

Positions beyond int32 are taken modulo 2^32, beside the place in the list where
each owner's begin: local rows are differences, and below 2^31.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.collectives import blocks
from antjax.embedding.lookup import num_below
from antjax.mesh.mesh import INTER, INTRA


@dataclasses.dataclass(frozen=True)
class Exchange:
  """Static sizes of one row exchange."""

  # Mesh axes that the owners are spread over, in order of owner index.
  axes: tuple[str, ...]
  num_owners: int  # Product of the sizes of `axes`.
  rows_per_device: int  # Local rows of the table on every device.
  capacity: int  # Ids that a device sends to one owner in a round.
  # Dtype to which rows and gradients are rounded when sent; None: no rounding.
  payload_dtype: Any = None

  @property
  def num_positions(self) -> int:
    return self.num_owners * self.rows_per_device

  @property
  def one_round(self) -> int:
    """The shift at which one round covers every local row."""
    return max(self.rows_per_device - 1, 1).bit_length()

  def fit_shift(self, positions: np.ndarray) -> int:
    """The largest shift at which no round overflows; runs on the host.

    Positions [u] are sorted and distinct, without padding.
    """
    if len(positions) <= self.capacity:
      return self.one_round
    if np.diff(self.starts(positions)).max() <= self.capacity:
      return self.one_round
    # Sorted: a bucket overflows iff its first and (C+1)-th entry are in it.
    head, tail = positions[: -self.capacity], positions[self.capacity :]
    owner, row = np.divmod(head, self.rows_per_device)
    last_owner, last_row = np.divmod(tail, self.rows_per_device)
    same, row, last_row = owner == last_owner, row, last_row
    shift = self.one_round
    while np.any(same & (row >> shift == last_row >> shift)):
      shift -= 1
    return shift

  def starts(self, positions: np.ndarray) -> np.ndarray:
    """Index of each owner's first position, and their number, int32 [W + 1]."""
    bounds = np.arange(self.num_owners + 1) * self.rows_per_device
    return np.searchsorted(positions, bounds).astype(np.int32)


def _num_rounds(ex: Exchange, shift: jax.Array) -> jax.Array:
  return (ex.rows_per_device - 1 >> shift) + 1


def agree_on_rounds(shift: jax.Array) -> jax.Array:
  """The smallest shift that any device needs, by one scalar all-reduce."""
  return lax.pmin(shift, (INTER, INTRA))


def _address(
  ex: Exchange,
  positions: jax.Array,
  shift: jax.Array,
  starts: jax.Array | None,
  r: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Rows to request from each owner in round r.

  Returns:
    (slot, ids): int32 [W, C]; `slot` indexes `positions` (its length where
    unused), `ids` are the owner's local rows (`rows_per_device` where unused).
  """
  base = jnp.arange(ex.num_owners, dtype=jnp.int32) * ex.rows_per_device
  bounds = jnp.minimum(jnp.stack([r, r + 1]) << shift, ex.rows_per_device)
  if starts is None:
    edges = num_below(positions, base[None] + bounds[:, None])
  else:
    # The end of the last round may be 2^31.
    is_last = r + 1 >= _num_rounds(ex, shift)
    bounds = bounds.at[1].set(jnp.where(is_last, ex.rows_per_device, bounds[1]))
    edges = _edges(positions, starts, base, bounds)
  slot = edges[0][:, None] + jnp.arange(ex.capacity, dtype=jnp.int32)[None]
  used = slot < edges[1][:, None]
  slot = jnp.where(used, slot, positions.shape[0])
  ids = positions.at[slot].get(mode='fill', fill_value=0) - base[:, None]
  return slot, jnp.where(used, ids, ex.rows_per_device)


def _edges(positions, starts, base, bounds) -> jax.Array:
  """Where the local rows from each bound begin, int32 [2, W], in every part.

  Positions are those of owner w from `starts[w]` to `starts[w + 1]`, modulo
  2^32, as is `base`.
  """
  shape = (len(bounds), len(base))
  ends = (
    jnp.broadcast_to(starts[:-1], shape),
    jnp.broadcast_to(starts[1:], shape),
  )
  last = positions.shape[0] - 1

  def halve(_, ends):
    low, high = ends
    middle = low + (high - low) // 2
    row = positions[jnp.minimum(middle, last)] - base[None]
    is_less = (low < high) & (row < bounds[:, None])
    return jnp.where(is_less, middle + 1, low), jnp.where(is_less, high, middle)

  return lax.fori_loop(0, positions.shape[0].bit_length(), halve, ends)[0]


def _all_to_all(ex: Exchange, x: jax.Array) -> jax.Array:
  return lax.all_to_all(x, ex.axes, split_axis=0, concat_axis=0, tiled=True)


def _join(ex: Exchange, ids: jax.Array, grads: jax.Array) -> jax.Array:
  """Packs ids int32 [...] and gradients float32 [..., D] as integers."""
  bits = blocks.to_wire(grads, ex.payload_dtype)
  if jnp.issubdtype(bits.dtype, jnp.floating):
    bits = lax.bitcast_convert_type(bits, jnp.int32)
  words = lax.bitcast_convert_type(ids[..., None], bits.dtype)
  return jnp.concatenate([words.reshape(*ids.shape, -1), bits], axis=-1)


def _split(ex: Exchange, message: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Undoes `_join`, up to the rounding."""
  num_words = 4 // message.dtype.itemsize
  words, bits = message[..., :num_words], message[..., num_words:]
  if num_words == 1:
    return words[..., 0], lax.bitcast_convert_type(bits, jnp.float32)
  grads = blocks.from_wire(bits, jnp.float32, ex.payload_dtype)
  return lax.bitcast_convert_type(words, jnp.int32), grads


def fetch(
  ex: Exchange,
  table: jax.Array,
  positions: jax.Array,
  shift: jax.Array,
  starts: jax.Array | None = None,
) -> jax.Array:
  """Fetches the rows at `positions` from their owners; padding gives zeros.

  Args:
    ex: Sizes of the exchange.
    table: This device's rows [rows_per_device, D].
    positions: int32 [U], sorted and distinct; padded with `num_positions`.
    shift: From `agree_on_rounds`.
    starts: int32 [W + 1], index of the first position of each owner, and the
      number of positions, which are taken modulo 2^32. None: they are below
      2^31.
  """

  def read(ids):
    return table.at[ids].get(mode='fill', fill_value=0)

  return fetch_by(ex, read, positions, shift, table, starts)


def fetch_by(
  ex: Exchange,
  read_fn: Callable[[jax.Array], jax.Array],
  positions: jax.Array,
  shift: jax.Array,
  like: jax.Array,
  starts: jax.Array | None = None,
) -> jax.Array:
  """Like `fetch`, given the function that reads rows of ids [...] at an owner.

  `like` [?, D] has the width and dtype of rows.
  """
  if ex.num_owners == 1:
    return read_fn(positions)

  def one_round(r, rows):
    slot, ids = _address(ex, positions, shift, starts, r)
    asked = _all_to_all(ex, ids)
    sent = blocks.to_wire(read_fn(asked), ex.payload_dtype)
    brought = _all_to_all(ex, sent)
    brought = blocks.from_wire(brought, like.dtype, ex.payload_dtype)
    return rows.at[slot].set(brought, mode='drop')

  rows = jnp.zeros((positions.shape[0], like.shape[1]), like.dtype)
  rows = lax.pcast(rows, (INTER, INTRA), to='varying')
  return lax.fori_loop(0, _num_rounds(ex, shift), one_round, rows)


def push(
  ex: Exchange,
  positions: jax.Array,
  shift: jax.Array,
  grads: jax.Array,
  apply_fn: Callable[[Any, jax.Array, jax.Array], Any],
  state: Any,
  starts: jax.Array | None = None,
) -> Any:
  """Sends row gradients to the owners, who apply them.

  Ids travel in the same message as the gradients, so no routing is kept from
  `fetch`. If the owners are spread inside groups only, each group has a copy of
  the table. Then the groups exchange received gradients over `inter`, and every
  copy takes the same step.

  Args:
    ex: Sizes of the exchange.
    positions: See `fetch`.
    shift: See `fetch`.
    grads: float32 [U, D], gradients of the fetched rows.
    apply_fn: Function (state, ids [L, C], grads [L C, D]) -> state, called on
      the owner. Each of L devices sends a sorted list of distinct ids, padded
      with `rows_per_device`. An id may be in several lists.
    state: The owner's table and slots.
    starts: See `fetch`.
  """
  dim = grads.shape[1]

  def apply_all(state, ids, grads):
    """Ids [W, C], gradients [W, C, D]; of all groups if each has a copy."""
    if INTER not in ex.axes:
      message = _join(ex, ids, grads)
      message = lax.all_gather(message, INTER, tiled=True, to='invarying')
      ids, grads = _split(ex, message)
    return apply_fn(state, ids, grads.reshape(-1, dim))

  return push_by(ex, positions, shift, grads, apply_all, state, starts)


def push_by(
  ex: Exchange,
  positions: jax.Array,
  shift: jax.Array,
  grads: jax.Array,
  receive_fn: Callable[[Any, jax.Array, jax.Array], Any],
  state: Any,
  starts: jax.Array | None = None,
) -> Any:
  """Like `push`, given the function of a round's ids and grads [L, C, D]."""
  if ex.num_owners == 1:
    return receive_fn(state, positions[None], grads[None])

  def one_round(r, state):
    slot, ids = _address(ex, positions, shift, starts, r)
    sent = grads.at[slot].get(mode='fill', fill_value=0)
    return receive_fn(state, *_split(ex, _all_to_all(ex, _join(ex, ids, sent))))

  return lax.fori_loop(0, _num_rounds(ex, shift), one_round, state)
