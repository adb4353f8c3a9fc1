# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Items that training draws as negatives, uniformly from a domain.

The official code draws by Python's unseeded generator in each worker, and may
draw the target or what the user has had. Here a draw is a hash of seed and
example: the same whatever process or batch the example comes to, and again
after a restart.
"""

from typing import Literal

import numpy as np

from antjax.embedding.key_index import mix

# Shape suffixes: B = examples, J = negatives, A = attempts, F = items that
# must not be drawn.

Exclude = Literal['seen', 'target', 'nothing']
_SPARE = 8  # Attempts beyond twice those needed.
_MAX_ROUNDS = 16


class NegativeSampler:
  """Draws items of given domains.

  Attributes:
    domain_sizes: int64 [domains], items of each.
  """

  def __init__(self, domains: np.ndarray, seed: int = 0):
    """Takes the domain of each item, int [items]; that of item 0 is -1."""
    domains = np.asarray(domains)
    items = np.flatnonzero(domains >= 0)
    self._items = items[np.argsort(domains[items], kind='stable')]
    self._items = self._items.astype(np.int32)
    self.domain_sizes = np.bincount(domains[items]).astype(np.int64)
    self._first = np.cumsum(self.domain_sizes) - self.domain_sizes
    self._seed = np.uint64(seed)

  def draw(
    self,
    keys: np.ndarray,
    domain: np.ndarray,
    forbidden: np.ndarray,
    num: int,
  ) -> np.ndarray:
    """Distinct items for each example.

    Args:
      keys: int64 [B], names of the examples in this epoch.
      domain: int [B], where to draw from.
      forbidden: int [B, F], items not to draw; 0 for none.
      num: J.

    Returns:
      int32 [B, J]; 0 at the end of a row whose domain has not so many.
    """
    size = len(keys)
    result = np.zeros((size, num), np.int32)
    rows = np.arange(size)
    attempts = 2 * num + _SPARE
    state = mix(keys.astype(np.int64).view(np.uint64) ^ mix(self._seeds(1)))
    found = np.zeros((size, 0), np.int32)
    for turn in range(_MAX_ROUNDS):
      numbers = np.arange(turn * attempts, (turn + 1) * attempts)
      bits = mix(state[rows, None] ^ mix(numbers.astype(np.uint64))[None])
      sizes = self.domain_sizes[domain[rows], None]
      place = (bits % sizes.astype(np.uint64)).astype(np.int64)
      drawn = self._items[self._first[domain[rows], None] + place]
      is_new = ~(drawn[:, :, None] == forbidden[rows][:, None]).any(axis=2)
      found = np.concatenate([found, np.where(is_new, drawn, 0)], axis=1)
      found = _distinct(found)
      taken = found[:, :num]
      result[rows, : taken.shape[1]] = taken
      lacking = (found != 0).sum(axis=1) < num
      rows, found = rows[lacking], found[lacking]
      if not len(rows):
        break
    return result

  def draw_shared(self, key: int, domain: np.ndarray, num: int) -> np.ndarray:
    """Distinct items for all examples of a part together.

    About as many of a domain as the part's examples have in it, by lot.

    Args:
      key: Names the part.
      domain: int [B], of its targets.
      num: Items to draw.

    Returns:
      int32 [num], or fewer where a domain has not so many.
    """
    own = mix(np.array([key], np.int64).view(np.uint64) ^ mix(self._seeds(1)))
    lots = mix(own ^ mix(np.arange(num, dtype=np.uint64)))
    picked = domain[(lots % np.uint64(len(domain))).astype(np.int64)]
    none = np.zeros((1, 0), np.int32)
    drawn = [
      # Another key than that of the example whose key names the part.
      self.draw(np.array([~key]), np.array([d]), none, int(number))[0]
      for d, number in zip(*np.unique(picked, return_counts=True), strict=True)
    ]
    found = np.concatenate(drawn)
    return found[found != 0]

  def _seeds(self, count: int) -> np.ndarray:
    return np.full(count, self._seed, np.uint64)


def _distinct(items: np.ndarray) -> np.ndarray:
  """Rows without repeats, in order, 0 at the end."""
  order = np.argsort(items, axis=1, kind='stable')
  ordered = np.take_along_axis(items, order, axis=1)
  is_first = ordered != 0
  is_first[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
  keep = np.zeros_like(is_first)
  np.put_along_axis(keep, order, is_first, axis=1)
  front = np.argsort(~keep, axis=1, kind='stable')
  return np.take_along_axis(np.where(keep, items, 0), front, axis=1)
