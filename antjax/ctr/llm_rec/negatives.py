# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Negatives: sampled once for ranking, and again for each step.

LLM-Rec (Tang et al. 2025, https://arxiv.org/abs/2310.14304, section 5.1) ranks
a target against 1,000 items of its domain. The official code draws them without
looking at the user, so that a negative may be the target itself or an item that
the user has; here they are left out, unless asked for. In training it draws by
Python's unseeded generator in each worker; here a draw is a hash of seed and
example: the same whatever process or batch the example comes to, and again
after a restart.
"""

from absl import logging
import numpy as np

from antjax.embedding.key_index import mix

# Shape suffixes: U, B = examples, L = places of a history, J = negatives, F =
# items that must not be drawn.

_SPARE = 8  # Attempts beyond twice those needed.
_MAX_ROUNDS = 16


def draw(
  domains: np.ndarray,
  users: np.ndarray,
  targets: np.ndarray,
  seen: np.ndarray,
  *,
  num: int = 1000,
  seed: int = 0,
  exclude_seen: bool = True,
) -> np.ndarray:
  """Draws items of each target's domain, uniformly, none twice.

  What an example gets depends on the seed and its user only, not on the other
  examples or their order.

  Args:
    domains: int [items], -1 for the padding.
    users: int [U].
    targets: int [U].
    seen: int [U, L], the history; 0 for none.
    num: Items to draw for each; where the domain has fewer, all of them.
    seed: Seed of the draws.
    exclude_seen: Whether target and history are left out.

  Returns:
    int32 [U, num], filled up with 0; how many are filled up is logged.
  """
  pools = {
    int(d): np.flatnonzero(domains == d).astype(np.int32)
    for d in np.unique(domains[targets])
  }
  found = np.zeros((len(targets), num), np.int32)
  num_short = 0
  for i, (user, target) in enumerate(zip(users, targets, strict=True)):
    pool = pools[int(domains[target])]
    barred = np.zeros(0, np.int32)
    if exclude_seen:
      barred = np.append(seen[i][domains[seen[i]] == domains[target]], target)
      barred = np.unique(barred)
    rng = np.random.default_rng([seed, int(user)])
    size = min(num + len(barred), len(pool))
    drawn = pool[rng.choice(len(pool), size, replace=False)]
    drawn = drawn[~np.isin(drawn, barred)][:num]
    found[i, : len(drawn)] = drawn
    num_short += len(drawn) < num
  if num_short:
    logging.warning(
      'Negatives: %d of %d examples have fewer than %d; their domain has no'
      ' more.',
      num_short,
      len(targets),
      num,
    )
  return found


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
    self._seed = mix(np.array([seed], np.uint64))

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
    result = np.zeros((len(keys), num), np.int32)
    rows = np.arange(len(keys))
    attempts = 2 * num + _SPARE
    state = mix(keys.astype(np.int64).view(np.uint64) ^ self._seed)
    found = result[:, :0]
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
    own = mix(np.array([key], np.int64).view(np.uint64) ^ self._seed)
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
