# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A hybrid recommender: texts, items had together and popularity, weighted.

  score(u, i) = w . x(u, i)        for an item with events in training
              = v . x(u, i) + c    for one without, those of texts a times

x are features, each of a part that can be left out:

  words       BM25 of each of the newest titles, the best of them, halved for
              every so many newer ones
  vectors     cosine of given text vectors, likewise, and of their mean
  lm          score of a model of vectors
  knn         item-kNN, by windows and half-lives
  nearest     item-kNN by way of the titles nearest to an item's, and to those
              of the history
  popularity  logarithm of an item's events in training
  domain      share of an item's domain in the history, and in its last item

v is 0 for `knn` and `popularity`: an item without events is scored by its title
and domain alone, by construction. w, v and c are fitted together, by softmax
cross-entropy of held-out targets among drawn items. Hardly a target has no
event, so items with events stand in for those: of each example a share of the
candidates, by lot, is scored by v. Then `new_items` chooses a and c.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from antjax.ctr.llm_rec import (
  histories,
  item_knn,
  new_items,
  ranking,
  untrained,
)

# Shape suffixes: N = items with the padding, B = users, L = places of a
# history, E = events, X = examples, J = candidates of an example, F = features,
# D = width.

PARTS = ('words', 'vectors', 'lm', 'knn', 'nearest', 'popularity', 'domain')
_WITHOUT_TITLES = ('knn', 'popularity')  # Know nothing of a new item.
_OF_TITLES = ('words', 'vectors', 'lm')  # Of a new item they count a times.
_NEWEST = 30  # Titles of a history that count.
_HALF_LIVES = (0.1, 1.5, 5.0, 15.0, 0.0)  # Of the best of words and vectors.
_MEAN_HALF_LIVES = (5.0, 0.0)  # Of their sums and means.


class _Kind(NamedTuple):
  """An item-kNN, see `item_knn`."""

  window: int
  half_life: float
  power: float = 0.5
  in_order: bool = False
  by_lag: bool = False


_KNN = (
  _Kind(1, 2.0),
  _Kind(3, 5.0),
  _Kind(10, 5.0),
  _Kind(50, 5.0),
  _Kind(50, 20.0),
  _Kind(50, 0.0),
  _Kind(50, 20.0, power=0.3),
  _Kind(20, 5.0, by_lag=True),
  _Kind(1, 1.0, in_order=True),
  _Kind(10, 5.0, in_order=True),
)
# By way of the titles nearest to an item, and to one of the history.
_NEAREST = (_Kind(3, 5.0), _Kind(50, 5.0), _Kind(50, 0.0))
_NEAREST_HISTORY = (_Kind(50, 5.0),)
NUM_NEAREST = 5
_BATCH = 64  # Users whose features are made at once.
_SCORED = 16  # Those whose candidates' vectors are there at once.


class Features:
  """x of all items, a feature at a time.

  Attributes:
    parts: Part of each feature, F.
    counts: int [N], training events of each item; 0: a new one.
    vectors: Given text vectors, of length 1, [N, D].
    whitening: Whitening that they have been through, or None.
  """

  def __init__(
    self,
    titles: Sequence[str],
    domains: np.ndarray,
    users: np.ndarray,
    items: np.ndarray,
    *,
    vectors: np.ndarray | None = None,
    whitening: tuple[np.ndarray, np.ndarray] | None = None,
    model: Any = None,
    parts: Sequence[str] = PARTS,
  ):
    """Counts events and looks for each title's nearest ones.

    Args:
      titles: Titles of all items, [N]; item 0 is the padding.
      domains: int [N].
      users: int [E], the user of each training event; a user's are adjacent.
      items: int [E], each user's in time.
      vectors: float [N, D], one a title; None: no such part.
      whitening: Whitening that they have been through, kept for new titles.
      model: Model of vectors, see `evaluation`; None: no such part.
      parts: Parts that are not left out.
    """
    self._domains, self._kept = domains, set(parts)
    self.whitening = whitening
    self.counts = np.bincount(items, minlength=len(titles))
    self._log_counts = np.log1p(self.counts).astype(np.float32)
    self._words = untrained.BM25(titles, max_history=_NEWEST)
    self.vectors = np.zeros((len(titles), 0), np.float32)
    if vectors is None:
      self._kept.discard('vectors')
    else:
      self.vectors = untrained.unit(np.asarray(vectors, np.float32))
    self._model, self._item_vectors = model, np.zeros((len(titles), 0))
    if model is None:
      self._kept.discard('lm')
    elif 'lm' in self._kept:
      self._item_vectors = np.asarray(model.item_vectors())
    self._knn = self._make_knn(users, items)
    no_history = np.zeros((1, 1), np.int32)
    self.parts = [part for part, _ in self(no_history)]

  def _make_knn(
    self, users: np.ndarray, items: np.ndarray
  ) -> list[tuple[str, item_knn.LinearModel]]:
    kinds = [(kind, None, None) for kind in _KNN if 'knn' in self._kept]
    if 'nearest' in self._kept:
      rows_fns = [self._words.of_titles]
      if 'vectors' in self._kept:
        rows_fns.append(self._cosines)
      for rows_fn in rows_fns:
        near = item_knn.nearest(rows_fn, len(self.counts), NUM_NEAREST)
        kinds += [(kind, near, None) for kind in _NEAREST]
        kinds += [(kind, near, near) for kind in _NEAREST_HISTORY]
    pairs = {}
    found = []
    for kind, near, had in kinds:
      key = kind.window, kind.by_lag
      if key not in pairs:
        pairs[key] = item_knn.cooccurrence(
          users, items, len(self.counts), kind.window, by_lag=kind.by_lag
        )
      similar = item_knn.likeness(
        pairs[key], self.counts, kind.power, in_order=kind.in_order
      )
      model = item_knn.LinearModel(similar, near, had, half_life=kind.half_life)
      found.append(('knn' if near is None else 'nearest', model))
    return found

  def _cosines(self, items: np.ndarray) -> np.ndarray:
    return self.vectors[items] @ self.vectors.T

  def __call__(
    self, history_BL: np.ndarray, candidates_BJ: np.ndarray | None = None
  ) -> Iterator[tuple[str, np.ndarray]]:
    """(part, float32 [B, N]) of each feature; of item 0 it means nothing.

    With candidates, int [B, J], it is of these alone: float32 [B, J].
    """

    def of(x_BN: np.ndarray) -> np.ndarray:
      if candidates_BJ is None:
        return x_BN
      return np.take_along_axis(x_BN, candidates_BJ, axis=1)

    num_items = len(self.counts)
    newest_BM = histories.newest(history_BL, _NEWEST)
    means = [
      histories.matrix(newest_BM, num_items, _NEWEST, half_life)
      for half_life in _MEAN_HALF_LIVES
    ]
    if 'words' in self._kept:
      rows_fn: Callable[[np.ndarray], np.ndarray] = self._words.of_titles
      for found in untrained.best_of(rows_fn, newest_BM, _HALF_LIVES):
        yield 'words', of(found)
      for had in means:
        yield 'words', of(self._words.of_histories(had))
    if 'vectors' in self._kept:
      for found in untrained.best_of(self._cosines, newest_BM, _HALF_LIVES):
        yield 'vectors', of(found)
      for had in means:
        mean = untrained.unit(had @ self.vectors)
        yield 'vectors', of(mean @ self.vectors.T)
    if 'lm' in self._kept:
      yield 'lm', self._of_lm(history_BL, candidates_BJ)
    for part, model in self._knn:
      yield part, np.sqrt(of(model.scores(history_BL)))  # Long tails.
    if 'popularity' in self._kept:
      shape = len(history_BL), num_items
      yield 'popularity', of(np.broadcast_to(self._log_counts, shape))
    if 'domain' in self._kept:
      for length in (history_BL.shape[1], 1):
        yield 'domain', of(self._domain_share(history_BL, length))

  def _of_lm(
    self, history_BL: np.ndarray, candidates_BJ: np.ndarray | None
  ) -> np.ndarray:
    users, items = self._model.user_vectors(history_BL), self._item_vectors
    if candidates_BJ is None:
      return np.asarray(ranking.scores(users, items))
    found = np.zeros(candidates_BJ.shape, np.float32)
    for first in range(0, len(found), _SCORED):
      part = slice(first, first + _SCORED)
      found[part] = ranking.scores(users[part], items[candidates_BJ[part]])
    return found

  def _domain_share(self, history_BL: np.ndarray, length: int) -> np.ndarray:
    newest = histories.newest(history_BL, length)
    of = np.where(newest > 0, self._domains[newest], -1)[:, :, None]
    num = (of == np.arange(self._domains.max() + 1)).sum(axis=1)
    share = num / np.maximum(num.sum(axis=1, keepdims=True), 1)
    return share.astype(np.float32)[:, self._domains]

  def of_candidates(
    self,
    history_BL: np.ndarray,
    candidates_BJ: np.ndarray,
    progress: Callable[[int], None] = lambda num_done: None,
  ) -> np.ndarray:
    """float32 [B, J, F]."""
    shape = (*candidates_BJ.shape, len(self.parts))
    found = np.zeros(shape, np.float32)
    for first in range(0, len(history_BL), _BATCH):
      part = slice(first, first + _BATCH)
      every = self(history_BL[part], candidates_BJ[part])
      for f, (_, x_BJ) in enumerate(every):
        found[part, :, f] = x_BJ
      progress(min(first + _BATCH, len(history_BL)))
    return found


@dataclasses.dataclass(frozen=True)
class Hybrid:
  """A model of scores.

  Attributes:
    features: x.
    known_F: float32, w: weights for items with events.
    new_F: float32, v: those for items without, a times where it counts.
    bias: c.
  """

  features: Features
  known_F: np.ndarray
  new_F: np.ndarray
  bias: float

  def scores(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, N]."""
    return np.sum([*self.by_part(history_BL).values()], axis=0)

  def by_part(self, history_BL: np.ndarray) -> dict[str, np.ndarray]:
    """Part -> what it adds to the scores, float32 [B, N]."""
    is_new_N = self.features.counts == 0
    parts = [*dict.fromkeys(self.features.parts)]
    shape = len(history_BL), len(is_new_N)
    found = {part: np.zeros(shape, np.float32) for part in parts}
    for first in range(0, len(history_BL), _BATCH):
      mine = slice(first, first + _BATCH)
      for f, (part, x_BN) in enumerate(self.features(history_BL[mine])):
        weight_N = np.where(is_new_N, self.new_F[f], self.known_F[f])
        found[part][mine] += x_BN * weight_N
    found[parts[0]] += np.where(is_new_N, np.float32(self.bias), 0)
    return found

  def with_factor(self, factor: float, addition: float = 0.0) -> 'Hybrid':
    """The same with another a, and another c."""
    scale_F = np.where(np.isin(self.features.parts, _OF_TITLES), factor, 1)
    new_F = (scale_F * self.new_F).astype(np.float32)
    return dataclasses.replace(self, new_F=new_F, bias=self.bias + addition)

  def scored(
    self, x_XJF: np.ndarray, candidates_XJ: np.ndarray
  ) -> new_items.ScoredExamples:
    """Scores of candidates, from `Features.of_candidates`."""

    def of_new(factor: float) -> np.ndarray:
      return x_XJF @ self.with_factor(factor).new_F + self.bias

    is_there = candidates_XJ > 0
    return new_items.ScoredExamples(
      np.where(is_there, x_XJF @ self.known_F, -np.inf),
      is_there & (self.features.counts[candidates_XJ] == 0),
      of_new,
    )


def fit(
  features: Features,
  x_XJF: np.ndarray,
  candidates_XJ: np.ndarray,
  *,
  new_targets: tuple[np.ndarray, np.ndarray] | None = None,
  new_share: float = 0.1,
  loss_of_ndcg: float = 0.02,
  ridge: float = 1e-4,
  seed: int = 0,
) -> tuple[Hybrid, tuple[float, float]]:
  """Fits w, v and c to examples.

  Args:
    features: What made x.
    x_XJF: From `Features.of_candidates`.
    candidates_XJ: int; candidate 0 of an example is its target.
    new_targets: x and candidates of examples whose targets are new; they choose
      a. None: it is 1.
    new_share: Share of the candidates that stand in for new items.
    loss_of_ndcg: Share of NDCG@10 over all examples that may be given for new
      items: c is the largest that costs no more.
    ridge: Weight of the squares of w and v, of features with deviation 1.
    seed: Seed of the lots.

  Returns:
    The model, and its loss at first and in the end.
  """
  shape, num_features = candidates_XJ.shape, x_XJF.shape[-1]
  flat = x_XJF.reshape(-1, num_features)
  scale = np.maximum(flat.std(axis=0), 1e-6)
  flat = flat / scale
  lots = np.random.default_rng(seed).random(shape) < new_share
  is_new_XJ = (features.counts[candidates_XJ] == 0) | lots
  of_title = np.array([part not in _WITHOUT_TITLES for part in features.parts])
  weight = np.float32(1 / len(candidates_XJ))
  is_target = np.arange(shape[1]) == 0
  is_padding = candidates_XJ == 0

  def split(theta: np.ndarray) -> list[np.ndarray]:
    return np.split(theta.astype(np.float32), [num_features, 2 * num_features])

  def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss and its gradient, which sums p - y over known and new ones."""
    known, new, bias = split(theta)
    known_XJ = (flat @ known).reshape(shape)
    new_XJ = (flat @ (new * of_title)).reshape(shape) + bias
    scores = np.where(is_new_XJ, new_XJ, known_XJ)
    scores[is_padding] = -np.inf
    scores -= scores.max(axis=1, keepdims=True)
    p_XJ = np.exp(scores)
    sums_X1 = p_XJ.sum(axis=1, keepdims=True)
    value = (weight * (np.log(sums_X1) - scores[:, :1])).sum()
    slope = weight * (p_XJ / sums_X1 - is_target)
    of_new = np.where(is_new_XJ, slope, 0).ravel()
    grad = np.concatenate(
      [
        (slope.ravel() - of_new) @ flat,
        (of_new @ flat) * of_title,
        [of_new.sum()],
      ]
    )
    return value + ridge * theta @ theta, grad + 2 * ridge * theta

  start = np.zeros(2 * num_features + 1)
  found = optimize.minimize(
    loss, start, jac=True, method='L-BFGS-B', options={'maxiter': 100}
  )
  known, new, bias = split(found.x)
  new = new * of_title
  model = Hybrid(features, known / scale, new / scale, float(bias[0]))
  factor, addition = new_items.choose(
    model.scored(x_XJF, candidates_XJ),
    None if new_targets is None else model.scored(*new_targets),
    loss_of_ndcg=loss_of_ndcg,
  )
  model = model.with_factor(factor, addition)
  return model, (float(loss(start)[0]), float(found.fun))
