# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ranks of targets among all items, or among drawn ones.

A target's rank is the number of other items that score no lower: ties count
against the model, so constant scores reach nothing, and so does a score that is
no number. Of vectors, scores that differ by less than their rounding are tied:
equal titles must not be ordered by the last bit of a sum.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from antjax.ctr.llm_rec import histories, late

# Shape suffixes: U = users, B = users of a block, N = items with the padding,
# I = items of a block, D = width, L = places of a history, J = negatives.

# Scores within this share of |user| |target| are tied; fp32 sums of some
# hundred products differ by less than that when they are ordered otherwise.
TIE = 1e-6
_BLOCK_ITEMS, _BLOCK_USERS = 16_384, 1024
# Size of a block of sampled items' vectors.
_SAMPLED_BYTES = 64 << 20


def full_ranks(
  user_vectors: Any,
  item_vectors: Any,
  targets: np.ndarray,
  seen: np.ndarray,
  *,
  allowed: np.ndarray | None = None,
  block_items: int = _BLOCK_ITEMS,
  block_users: int = _BLOCK_USERS,
) -> np.ndarray:
  """Exact ranks among all items but those of the history.

  Items go through in blocks, each once, whatever their number: beside users and
  items there are block_users x block_items scores at a time. Users are spread
  over the devices.

  Args:
    user_vectors: float [U, D], or [U, H, D] of several a user, see `late`.
    item_vectors: float [N, D], on the host (a memory map, say) or on a device;
      row 0 is the padding.
    targets: int [U].
    seen: int [U, L], items to leave out, 0 for none; a target is never left
      out.
    allowed: bool [N], the items that are candidates; None: all.
    block_items: Items at a time.
    block_users: Users at a time, all devices together.

  Returns:
    int32 [U], 0 for the best.

  Raises:
    ValueError: Shapes that do not fit.
  """
  num_items = len(item_vectors)
  _check(user_vectors, item_vectors, targets, seen)
  if allowed is None:
    allowed = np.ones(num_items, bool)
  allowed = allowed & (np.arange(num_items) > 0)
  place = _Places()
  size = min(block_items, num_items)
  floors = _floors(user_vectors, item_vectors, targets)
  once = histories.distinct(seen)
  users = [
    (part, place.rows(user_vectors, floors, targets, once, part=part, size=n))
    for part, n in place.blocks(len(targets), block_users)
  ]
  ranks = np.zeros(len(targets), np.int32)
  for first in range(0, num_items, size):
    items = place.whole(
      _padded(item_vectors[first : first + size], size),
      _padded(allowed[first : first + size], size),
      np.int32(first),
    )
    counts = [(part, _num_ahead(*rows, *items)) for part, rows in users]
    for part, count in counts:
      ranks[part] += np.asarray(count)[: part.stop - part.start]
  return ranks


def sampled_ranks(
  user_vectors: Any,
  item_vectors: Any,
  targets: np.ndarray,
  negatives: np.ndarray,
) -> np.ndarray:
  """Exact ranks among drawn items, int32 [U], from 0 to J.

  Args:
    user_vectors: float [U, D], or [U, H, D], see `late`.
    item_vectors: float [N, D]; each device gets all of them.
    targets: int [U].
    negatives: int [U, J] from `negatives.draw`, 0 for none. One that is the
      target is tied with it.
  """
  _check(user_vectors, item_vectors, targets, negatives)
  place = _Places()
  (items,) = place.whole(item_vectors)
  floors = _floors(user_vectors, item_vectors, targets)
  bytes_a_user = 4 * negatives.shape[1] * item_vectors.shape[1]
  block = max(1, _SAMPLED_BYTES // max(bytes_a_user, 1))
  ranks = np.zeros(len(targets), np.int32)
  for part, size in place.blocks(len(targets), block):
    rows = place.rows(user_vectors, floors, negatives, part=part, size=size)
    count = _num_ahead_of_drawn(*rows, items)
    ranks[part] = np.asarray(count)[: part.stop - part.start]
  return ranks


def ranks_of_scores(
  scores: np.ndarray,
  targets: np.ndarray,
  *,
  seen: np.ndarray | None = None,
  negatives: np.ndarray | None = None,
  allowed: np.ndarray | None = None,
) -> np.ndarray:
  """Ranks int32 [B] of a model that gives scores, not vectors; on the host.

  Args:
    scores: float [B, N]; column 0 is the padding.
    targets: int [B].
    seen: int [B, L], items to leave out, 0 for none.
    negatives: int [B, J]: rank among these alone, 0 for none; None: among all.
    allowed: bool [N], the items that are candidates; None: all.
  """
  rows = np.arange(len(targets))
  floors = scores[rows, targets]
  if negatives is not None:
    drawn = np.take_along_axis(scores, negatives, axis=1)
    is_ahead = ~(drawn < floors[:, None]) & (negatives > 0)
    return is_ahead.sum(axis=1).astype(np.int32)
  is_ahead = ~(scores < floors[:, None])
  if allowed is not None:
    is_ahead &= allowed
  is_ahead[:, 0] = False
  if seen is not None:
    is_ahead[rows[:, None], seen] = False
  is_ahead[rows, targets] = False
  return is_ahead.sum(axis=1).astype(np.int32)


class _Places:
  """Puts arrays on this process's devices: users spread, items whole."""

  def __init__(self) -> None:
    mesh = Mesh(np.asarray(jax.local_devices()), ('user',))
    self._num_devices = mesh.size
    self._by_user = NamedSharding(mesh, PartitionSpec('user'))
    self._everywhere = NamedSharding(mesh, PartitionSpec())

  def blocks(self, num_users: int, block: int) -> Iterator[tuple[slice, int]]:
    """(users, rows to fill up to) of each block."""
    a_device = -(-min(block, num_users) // self._num_devices)
    size = max(a_device, 1) * self._num_devices
    for first in range(0, num_users, size):
      yield slice(first, min(first + size, num_users)), size

  def rows(self, *arrays: Any, part: slice, size: int) -> list[jax.Array]:
    parts = [_padded(x[part], size) for x in arrays]
    return jax.device_put(parts, self._by_user)

  def whole(self, *arrays: Any) -> list[jax.Array]:
    return jax.device_put(list(arrays), self._everywhere)


def _padded(x: Any, size: int) -> Any:
  """Rows of zeros behind an array, on the host or where it is."""
  widths = [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)
  if not widths[0][1]:
    return x
  return (jnp if isinstance(x, jax.Array) else np).pad(x, widths)


def _floors(user_vectors, item_vectors, targets) -> np.ndarray:
  """fp32 [U]: what an item must reach to be ahead of the target."""
  found = np.zeros(len(targets), np.float32)
  for first in range(0, len(targets), _BLOCK_USERS):
    part = slice(first, first + _BLOCK_USERS)
    users_BD = np.asarray(user_vectors[part], np.float32)
    items_BD = np.asarray(item_vectors[targets[part]], np.float32)
    margins = np.linalg.norm(items_BD, axis=1)
    sizes = np.linalg.norm(users_BD, axis=-1)
    if users_BD.ndim == 3:
      found[part] = scores(users_BD, items_BD[:, None])[:, 0]
      margins *= sizes.max(axis=1)
    else:
      found[part] = np.einsum('bd,bd->b', users_BD, items_BD)
      margins *= sizes
    found[part] -= TIE * margins
  return found


@jax.jit
def _num_ahead(
  users_BD, floors_B, targets_B, seen_BL, items_ID, allowed_I, first
):
  """int32 [B]: candidates of a block that are no lower than the floor."""
  scores_BI = scores(users_BD, items_ID)
  ids_I = first + jnp.arange(len(items_ID), dtype=jnp.int32)
  is_ahead_BI = (
    ~(scores_BI < floors_B[:, None])
    & allowed_I[None, :]
    & (ids_I[None, :] != targets_B[:, None])
  )
  places_BL = seen_BL - first
  is_here_BL = (seen_BL > 0) & (places_BL >= 0) & (places_BL < len(items_ID))
  # A gather: taking the seen ones out by a scatter is far slower.
  found_BL = jnp.take_along_axis(
    is_ahead_BI, jnp.clip(places_BL, 0, len(items_ID) - 1), axis=1
  )
  num_seen_B = jnp.sum(found_BL & is_here_BL, axis=1, dtype=jnp.int32)
  return jnp.sum(is_ahead_BI, axis=1, dtype=jnp.int32) - num_seen_B


@jax.jit
def _num_ahead_of_drawn(users_BD, floors_B, drawn_BJ, items_ND):
  """int32 [B]: drawn items that are no lower than the floor."""
  scores_BJ = scores(users_BD, items_ND[drawn_BJ])
  is_ahead_BJ = ~(scores_BJ < floors_B[:, None]) & (drawn_BJ > 0)
  return jnp.sum(is_ahead_BJ, axis=1, dtype=jnp.int32)


@jax.jit
def scores(users: jax.Array, items: jax.Array) -> jax.Array:
  """Scores of items for users, fp32 [B, I].

  Args:
    users: [B, D], or [B, H, D], see `late`.
    items: [I, D], or [B, J, D] for items of each user.
  """
  if users.ndim == 3:
    return late.scores(users, items)
  return jnp.einsum(
    'bd,bjd->bj' if items.ndim == 3 else 'bd,id->bi',
    users,
    items,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


def _check(user_vectors, item_vectors, targets, others) -> None:
  """Raises ValueError where shapes or ids do not fit."""
  num_users, num_items = len(targets), len(item_vectors)
  num, *_, width = np.shape(user_vectors)
  if (num, width, len(others)) != (
    num_users,
    np.shape(item_vectors)[1],
    num_users,
  ):
    raise ValueError(
      f'ranks: user vectors are {np.shape(user_vectors)}, item vectors'
      f' {np.shape(item_vectors)}, for {num_users} targets and {len(others)}'
      ' rows of items; needed: [U, D], [N, D], U and U.'
    )
  for name, ids in (('targets', targets), ('items', others)):
    if ids.size and not 0 <= ids.min() <= ids.max() < num_items:
      raise ValueError(
        f'ranks: {name} are from {ids.min()} to {ids.max()}; there are'
        f' {num_items} items.'
      )
