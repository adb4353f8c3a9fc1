# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of `stored.StoredRec`: histories in rows, and the titles in them.

A part of a batch is what one device works off at a time. Its histories stand
one behind the other in rows, its distinct titles once, with their rows of the
store and their tokens. All of these are the pool: inputs, targets, and items
that are drawn for the part, of those with events.
"""

import copy

from absl import logging
import numpy as np

from antjax.ctr.llm_rec import losses, packing
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.negatives import NegativeSampler

# Shape suffixes: N = items with the padding, X = width of a stored row, T =
# tokens of a title, B = histories, L = events of a history, b = histories of a
# part, S = slots of a part.

_WIDTH = 64  # Of rows, or that of the longest history.


class StoredInputs:
  """Makes what a step reads.

  Attributes:
    num_left_out: Targets whose history found no room.
    shape: Rows of a part, from `fit`.
    num_titles: Most distinct titles of a part, from `fit`.
  """

  def __init__(
    self,
    rows_NX: np.ndarray,
    tokens_NT: np.ndarray,
    config: LossConfig,
    domains: np.ndarray,
    counts: np.ndarray,
    *,
    histories_per_part: int,
    max_history: int,
    pool_parts: int = 1,
    seed: int = 0,
  ):
    """Draws nothing yet.

    Args:
      rows_NX: Rows of the store; may be a memory map.
      tokens_NT: int32, tokens of titles, 0 behind the last one; T may be 0.
      config: Configuration of the loss.
      domains: int32 [N], -1 for item 0, the padding.
      counts: int64 [N], events of each item in training.
      histories_per_part: b.
      max_history: Longest history that is read.
      pool_parts: Parts whose items make one pool.
      seed: Seed of the draws.

    Raises:
      ValueError: The loss draws negatives for each example.
    """
    if config.negatives == 'own':
      raise ValueError(
        'loss.negatives=own: the users of a row share their negatives; with'
        ' --store use shared or in_batch.'
      )
    self._rows_NX, self._tokens_NT, self._config = rows_NX, tokens_NT, config
    self._domains = np.asarray(domains, np.int32)
    # An item without events would be learned to be wrong for everybody.
    self._drawable = np.where(counts > 0, self._domains, -1)
    self._sampler = NegativeSampler(self._drawable, seed)
    self._counts, self._pool_parts = counts, pool_parts
    self._size, self._max_history = histories_per_part, max_history
    self._drawn = config.num_negatives * (config.negatives == 'shared')
    self._is_alone = False
    self.num_left_out = 0
    self.shape: packing.Shape = ()
    self.num_titles = 0

  def fit(self, samples: list[np.ndarray]) -> None:
    """Chooses the rows by samples of parts, int [b, L] as of `__call__`."""
    lengths = [np.maximum((x > 0).sum(axis=1) - 1, 0) for x in samples]
    width = max(_WIDTH, -(-self._max_history // 8) * 8)
    longest = max(int(x.sum()) for x in lengths)
    rows = -(-longest // width)
    while any(
      (packing.pack(x, (packing.LaneShape(width, rows),))[x > 0] < 0).any()
      for x in lengths
    ):
      rows += 1
    self.shape = (packing.LaneShape(width, rows),)
    num_events = packing.num_slots(self.shape) + self._size
    self.num_titles = num_events + self._drawn + 1
    self._log_q = losses.pool_log_q(
      self._config,
      self._drawable,
      self._counts,
      int(np.mean([x.sum() + self._size for x in lengths])) * self._pool_parts,
      self._drawn * self._pool_parts,
    )
    logging.info(
      'Histories of a micro-batch: %.0f predictions on average, in %d x %d.',
      np.mean([x.sum() for x in lengths]),
      rows,
      width,
    )

  def of_pairs(self) -> 'StoredInputs':
    """The same, but an event is predicted by the one before it alone."""
    found = copy.copy(self)
    found._is_alone = True
    return found

  def __call__(
    self, events_BL: np.ndarray, keys_B: np.ndarray, num_parts: int
  ) -> dict[str, np.ndarray]:
    """What the model's loss reads.

    Args:
      events_BL: int32, oldest first, 0 behind the newest, at most max_history
        events and the one that follows; an event is predicted by those before.
      keys_B: int64, names of the histories.
      num_parts: Equal runs of histories that are worked off apart.
    """
    made = [
      self._part(
        events_BL[i : i + self._size], int(keys_B[min(i, len(keys_B) - 1)])
      )
      for i in range(0, num_parts * self._size, self._size)
    ]
    return {name: np.concatenate([m[name] for m in made]) for name in made[0]}

  def _part(self, events_bL: np.ndarray, key: int) -> dict[str, np.ndarray]:
    ((width, _),) = self.shape
    num_slots = packing.num_slots(self.shape)
    sizes = np.maximum((events_bL > 0).sum(axis=1) - 1, 0)
    starts = packing.pack(sizes, self.shape)
    self.num_left_out += int(sizes[(starts < 0)].sum())
    sizes = np.where(starts < 0, 0, sizes)
    user = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(user)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    slots = np.repeat(starts, sizes) + place
    targets = events_bL[user, place + 1]
    drawn = np.zeros(0, np.int32)
    if self._drawn and len(targets):
      domains = self._domains[targets]
      drawn = self._sampler.draw_shared(key, domains, self._drawn)
    used = np.concatenate([[0], events_bL[sizes > 0].ravel(), drawn])
    ids = np.unique(used).astype(np.int32)
    target = np.searchsorted(ids, targets)
    inputs = np.searchsorted(ids, events_bL[user, place])
    num_filled = self.num_titles - len(ids)
    is_there = np.pad(ids > 0, (0, num_filled))
    ids = np.pad(ids, (0, num_filled))

    segments = np.arange(len(user)) if self._is_alone else user

    def at_slots(values: np.ndarray, dtype: type = np.int32) -> np.ndarray:
      found = np.zeros((num_slots, *values.shape[1:]), dtype)
      found[slots] = values
      return found

    found = {
      'rows': np.asarray(self._rows_NX[ids]),
      'tokens': self._tokens_NT[ids],
      'places': at_slots(inputs).reshape(-1, width),
      'segments': at_slots(segments + 1).reshape(-1, width),
      'items': ids,
      'item_domain': self._domains[ids],
      'in_pool': is_there.astype(np.float32),
      'target': at_slots(target),
      'domain': at_slots(self._domains[targets]),
      'weight': at_slots(np.ones(len(slots)), np.float32),
    }
    if self._config.exclude == 'seen':  # What follows is no negative either.
      found['seen'] = at_slots(events_bL[user])
    if self._config.log_q:
      found['log_q'] = self._log_q[ids]
    return found
