# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Item-kNN and EASE: scores linear in the items that a user has had.

  score(u, i) = sum over u's newest items h of .5^(age(h) / half_life) S[h, i]

with age 0 for the newest. They differ in S:

  kNN   S_ij = (C_ij + C_ji) / (n_i n_j)^power: C_ij counts pairs of events of
        one user, first i, then j, at most `window` apart, n_i the events of i.
        With `nearest`, a matrix T, an item gets sum_j T_ij score(u, j) over
        the titles nearest to its own: one without events has a score too.
  EASE  the ridge regression of each item on all others in closed form,
        P = (X'X + ridge I)^-1, S_ij = -P_ij / P_jj, S_jj = 0, with X_ui = 1
        where u has had i. Source: Steck 2019,
        https://arxiv.org/abs/1905.03375. P is dense: only the M items with most
        events have scores; 8 M^2 bytes, M^3 operations.
"""

from collections.abc import Callable

import numpy as np
from scipy import linalg, sparse

from antjax.ctr.llm_rec import histories

# Shape suffixes: N = items with the padding, B = users, L = places of a
# history, E = events, M = items of EASE, K = nearest titles.

_BLOCK = 256  # Titles whose neighbors are looked for at once.


def cooccurrence(
  users: np.ndarray,
  items: np.ndarray,
  num_items: int,
  window: int,
  *,
  by_lag: bool = False,
) -> sparse.csr_matrix:
  """float32 [N, N]: pairs of events of one user, by (earlier, later) item.

  A pair counts 1 / log2(2 + events of its user), so that users of many events
  do not decide alone.

  Args:
    users: int [E], the user of each event; a user's events are adjacent.
    items: int [E], each user's in time.
    num_items: N.
    window: Most places from one event of a pair to the other.
    by_lag: Whether a pair counts 1 / their distance of it.
  """
  of_user = (1 / np.log2(2 + np.bincount(users)))[users].astype(np.float32)
  rows, columns, weights = [items[:0]], [items[:0]], [of_user[:0]]
  for lag in range(1, min(window, len(items) - 1) + 1):
    is_pair = (users[lag:] == users[:-lag]) & (items[lag:] != items[:-lag])
    rows.append(items[:-lag][is_pair])
    columns.append(items[lag:][is_pair])
    weights.append(of_user[lag:][is_pair] / np.float32(lag if by_lag else 1))
  places = np.concatenate(rows), np.concatenate(columns)
  shape = num_items, num_items
  return sparse.csr_matrix((np.concatenate(weights), places), shape)


def likeness(
  pairs: sparse.csr_matrix,
  counts: np.ndarray,
  power: float = 0.5,
  *,
  in_order: bool = False,
) -> sparse.csr_matrix:
  """S of item-kNN, float32 [N, N].

  Args:
    pairs: From `cooccurrence`.
    counts: int [N], events of each item.
    power: Power of the counts; the larger, the less for items of many events.
    in_order: Whether a pair counts for the later item alone.
  """
  scale = np.maximum(counts, 1).astype(np.float32) ** np.float32(-power)
  scale = sparse.diags(scale, format='csr')
  return (scale @ (pairs if in_order else pairs + pairs.T) @ scale).tocsr()


def nearest(
  rows_fn: Callable[[np.ndarray], np.ndarray], num_items: int, num: int
) -> sparse.csr_matrix:
  """The items nearest to each, float32 [N, N] with rows of sum 1, or of none.

  Args:
    rows_fn: int [b], items -> their likeness to all items, float [b, N]; what
      is not above 0 is no neighbor.
    num_items: N.
    num: K, neighbors of an item.
  """
  parts = []
  num = min(num, num_items - 1)
  for first in range(0, num_items, _BLOCK):
    items = np.arange(first, min(first + _BLOCK, num_items))
    like = np.array(rows_fn(items), np.float32)
    place = np.arange(len(items))
    like[place, items] = 0
    like[:, 0] = 0
    best = np.argpartition(-like, num - 1, axis=1)[:, :num]
    weights = np.maximum(np.take_along_axis(like, best, axis=1), 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
    row = np.repeat(place, num)
    parts.append(
      sparse.csr_matrix(
        (weights.ravel(), (row, best.ravel())), (len(items), num_items)
      )
    )
  found = sparse.vstack(parts, format='csr')
  found.eliminate_zeros()
  return found


class LinearModel:
  """A model of scores by a matrix of items by items.

  Attributes:
    similar: float32 [N, N], sparse: S.
    had: float32 [N, N], sparse: what an item of a history stands for; None: for
      itself.
  """

  def __init__(
    self,
    similar: sparse.csr_matrix,
    nearest: sparse.csr_matrix | None = None,
    had: sparse.csr_matrix | None = None,
    *,
    max_history: int = 100,
    half_life: float = 0.0,
  ):
    """Takes the matrices as they are.

    Args:
      similar: S.
      nearest: float32 [N, N], sparse: T; None: an item has its own score.
      had: See the class.
      max_history: Newest items that count.
      half_life: Items after which the weight of a history's item is halved.
    """
    self.similar, self.had = similar, had
    self._of_nearest = None if nearest is None else nearest.T.tocsr()
    self._max_history, self._half_life = max_history, half_life

  def scores(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, N]."""
    had = histories.matrix(
      history_BL, self.similar.shape[0], self._max_history, self._half_life
    )
    if self.had is not None:
      had = had @ self.had
    found = had @ self.similar
    if self._of_nearest is not None:
      found = found @ self._of_nearest
    return found.toarray()


class EASE:
  """A model of scores; see the module."""

  def __init__(
    self,
    users: np.ndarray,
    items: np.ndarray,
    num_items: int,
    *,
    max_items: int = 6000,
    ridge: float = 100.0,
    half_life: float = 0.0,
    max_history: int = 100,
  ):
    """Solves for S.

    Args:
      users: int [E], the user of each event.
      items: int [E].
      num_items: N.
      max_items: M.
      ridge: Weight of the squares of S.
      half_life: Items after which the weight of a history's item is halved.
      max_history: Newest items that count.
    """
    self._num_items = num_items
    self._half_life, self._max_history = half_life, max_history
    counts = np.bincount(items, minlength=num_items)
    most = np.argsort(-counts, kind='stable')[:max_items]
    self._chosen = np.sort(most[counts[most] > 0])
    ones = np.ones(len(items), np.float32)
    shape = (int(users.max(initial=0)) + 1, num_items)
    had = sparse.csr_matrix((ones, (users, items)), shape)[:, self._chosen]
    had.data[:] = 1  # However often.
    gram = (had.T @ had).toarray()
    gram[np.diag_indices(len(gram))] += ridge
    similar = linalg.inv(gram, overwrite_a=True, check_finite=False)
    similar /= -np.diag(similar).copy()
    np.fill_diagonal(similar, 0)
    self.similar = similar  # float32 [M, M]

  def scores(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, N]; 0 for items that are not among the M."""
    had = histories.matrix(
      history_BL, self._num_items, self._max_history, self._half_life
    )
    found = np.zeros(had.shape, np.float32)
    found[:, self._chosen] = had[:, self._chosen] @ self.similar
    return found
