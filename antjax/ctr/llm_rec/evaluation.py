# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ranks the targets of held-out examples with any model.

A model has either vectors, `item_vectors()` [N, D] and `user_vectors(history)`,
whose products are its scores, [B, D], or more, [B, H, D] as of `late`; or it
has `scores(history)` [B, N]. A history is int32 [B, L], the whole of it, oldest
item first, 0 behind the newest; a model takes as much of its end as it can
read.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import numpy as np

from antjax.ctr.llm_rec import histories, ranking

# Shape suffixes: U = examples, J = negatives, N = items with the padding, B =
# examples of a batch, L = places of a history.

_CHUNK = 16_384  # Examples that go through the items together.
_BATCH = 256  # Examples that a model sees at once.
_SCORED = 16  # Those whose candidates' vectors are there at once.

FULL, SAMPLED = 'full', 'sampled'


class VectorModel(Protocol):
  """A model whose scores are products of vectors."""

  def item_vectors(self) -> Any:
    """Float [N, D]."""

  def user_vectors(self, history_BL: np.ndarray) -> Any:
    """Float [B, D], or [B, H, D] where the model says `is_late`."""


@runtime_checkable
class ScoreModel(Protocol):
  """A model whose scores are no products."""

  def scores(self, history_BL: np.ndarray) -> np.ndarray:
    """Float [B, N]."""


@dataclasses.dataclass(frozen=True)
class RankedExamples:
  """Held-out examples.

  Attributes:
    targets: int32 [U].
    negatives: int32 [U, J], from `negatives.draw`.
    history_fn: int [B], numbers of examples -> their whole histories [B, L].
  """

  targets: np.ndarray
  negatives: np.ndarray
  history_fn: Callable[[np.ndarray], np.ndarray]

  def __len__(self) -> int:
    return len(self.targets)

  def take(
    self, index: np.ndarray, is_kept: np.ndarray | None = None
  ) -> 'RankedExamples':
    """Some of the examples.

    Args:
      index: int [n], which.
      is_kept: bool [N]: items that their histories keep; None: all. For models
        that know one domain.
    """

    def history(mine: np.ndarray) -> np.ndarray:
      found = self.history_fn(index[mine])
      return found if is_kept is None else histories.of_items(found, is_kept)

    return RankedExamples(self.targets[index], self.negatives[index], history)


def ranks(
  model: VectorModel | ScoreModel,
  examples: RankedExamples,
  *,
  allowed: np.ndarray | None = None,
  with_full: bool = True,
  progress: Callable[[int], None] = lambda num_done: None,
) -> dict[str, np.ndarray]:
  """Ranks of all targets, among the negatives and among all items.

  Args:
    model: The model.
    examples: Examples to rank.
    allowed: bool [N], the candidates of the full ranking; None: all.
    with_full: Whether to rank among all items too.
    progress: Function called with the number of examples done.

  Returns:
    'sampled', and 'full' if asked for: int32 [U]; see `ranking`.
  """
  block, items, order = _BATCH, None, np.arange(len(examples))
  if not isinstance(model, ScoreModel):
    items = model.item_vectors()
    if getattr(model, 'is_late', False):  # Histories of one length together.
      sizes = (examples.history_fn(order) > 0).sum(axis=1)
      order = np.argsort(sizes, kind='stable')
    else:
      block = _CHUNK
  found = {SAMPLED: np.zeros(len(examples), np.int32)}
  if with_full:
    found[FULL] = np.zeros(len(examples), np.int32)
  num_done = 0
  for index in _parts(order, block):
    targets, negatives = examples.targets[index], examples.negatives[index]
    batches = [examples.history_fn(part) for part in _parts(index, _BATCH)]
    longest = max(seen.shape[1] for seen in batches)
    seen = np.concatenate(
      [np.pad(x, [(0, 0), (0, longest - x.shape[1])]) for x in batches]
    )
    if isinstance(model, ScoreModel):
      scores = model.scores(seen)
      sampled = ranking.ranks_of_scores(scores, targets, negatives=negatives)
      full_fn = functools.partial(ranking.ranks_of_scores, scores)
    else:
      users = np.concatenate([model.user_vectors(x) for x in batches])
      sampled = ranking.sampled_ranks(users, items, targets, negatives)
      full_fn = functools.partial(ranking.full_ranks, users, items)
    found[SAMPLED][index] = sampled
    if with_full:
      found[FULL][index] = full_fn(targets, seen=seen, allowed=allowed)
    num_done += len(index)
    progress(num_done)
  return found


def candidate_scores(
  model: VectorModel | ScoreModel, examples: RankedExamples
) -> tuple[np.ndarray, np.ndarray]:
  """Targets and negatives, int32 [U, 1 + J], and their scores, float32."""
  candidates_UJ = np.concatenate(
    [examples.targets[:, None], examples.negatives], axis=1
  )
  found = np.zeros(candidates_UJ.shape, np.float32)
  for part in _parts(np.arange(len(examples)), _SCORED):
    seen, candidates = examples.history_fn(part), candidates_UJ[part]
    if isinstance(model, ScoreModel):
      found[part] = np.take_along_axis(model.scores(seen), candidates, axis=1)
    else:
      items = np.asarray(model.item_vectors())[candidates]
      found[part] = ranking.scores(model.user_vectors(seen), items)
  return candidates_UJ, found


def _parts(index: np.ndarray, block: int) -> list[np.ndarray]:
  return [index[i : i + block] for i in range(0, len(index), block)]
