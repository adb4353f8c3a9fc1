# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts histories and targets to packed texts and indices.

Runs on the host, in the input's threads. Of a part of the batch, which one
device works off at a time, each distinct item is encoded once, whatever
examples it is a target or a negative of: the official code encodes 11 items an
example.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from antjax.ctr.llm_rec import losses, packing
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.negatives import NegativeSampler
from antjax.ctr.texts import Planned, TextMaker

# Shape suffixes: b = examples of a part, N = items of a history, J = negatives,
# F = seen items, U = distinct items of a part, M = b + U texts.

Batch = Mapping[str, np.ndarray]


class _Part(NamedTuple):
  """What one part of a batch needs, before it is packed: M texts."""

  texts: Planned
  ids_U: np.ndarray  # 0 fills up.
  target_b: np.ndarray
  negatives_bJ: np.ndarray


class TrainingInputs:
  """Makes batches for `LLMRec.loss`.

  Call `fit` once, then the object.

  Attributes:
    shapes: Shapes of the packed texts; known after `fit`.
    num_left_out: Examples so far that had no room and got weight 0.
    num_lacking: Negatives so far that there were none for.
  """

  def __init__(
    self,
    texts: TextMaker,
    config: LossConfig,
    domains: np.ndarray,
    counts: np.ndarray,
    *,
    examples_per_part: int,
    pool_parts: int = 1,
    num_shapes: int = 3,
    num_chunks: int = 1,
    seed: int = 0,
    sampler: NegativeSampler | None = None,
  ):
    """Draws nothing yet.

    Args:
      texts: Tokenized titles of the data.
      config: Configuration of the loss.
      domains: int32 [items], -1 for item 0, the padding.
      counts: int64 [items], interactions of each in training.
      examples_per_part: b.
      pool_parts: Parts whose items make one pool.
      num_shapes: Shapes that batches may have; 1 where several processes run
        one program and must agree.
      num_chunks: The model's number of chunks.
      seed: Seed of the draws.
      sampler: Sampler of negatives; None: a `NegativeSampler` of the domains.
    """
    self._texts, self._config = texts, config
    self._domains = np.asarray(domains, np.int32)
    self._sampler = sampler or NegativeSampler(self._domains, seed)
    self._size = examples_per_part
    self._num_shapes, self._num_chunks = num_shapes, num_chunks
    drawn = {'own': examples_per_part, 'shared': 1, 'in_batch': 0}
    drawn_items = drawn[config.negatives] * config.num_negatives
    self.num_items = examples_per_part + drawn_items  # U.
    self._log_q = losses.pool_log_q(
      config,
      self._domains,
      counts,
      examples_per_part * pool_parts,
      drawn_items * pool_parts,
    )
    self.shapes: tuple[packing.Shape, ...] = ()
    self.num_left_out, self.num_lacking = 0, 0

  def fit(self, samples: list[Batch]) -> None:
    """Chooses the shapes, so that parts like the samples fit.

    Args:
      samples: Each a part's 'history', 'target', 'domain', 'key'.
    """
    lengths = [self._part(sample).texts.lengths for sample in samples]
    self.shapes = packing.choose(
      lengths,
      self._texts.max_tokens,
      num_shapes=self._num_shapes,
      multiple=self._num_chunks,
    )
    mean = float(np.mean([x.sum() for x in lengths]))
    logging.info(
      'Texts of a micro-batch: %.0f tokens on average, in rows of %s.',
      mean,
      ', or '.join(
        ' + '.join(f'{rows} x {width}' for width, rows in shape)
        for shape in self.shapes
      ),
    )

  def __call__(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """What the model's loss reads.

    Args:
      batch: 'history' int32 [B, N], oldest first, 0 behind the newest; 'target'
        and 'domain' int32 [B]; 'key' int64 [B], names of the examples; 'weight'
        float32 [B]; 'seen' int32 [B, F], 0 for none, where the loss excludes
        it.
      num_parts: Equal runs of examples that are worked off apart.

    Raises:
      RuntimeError: `fit` was not called.
    """
    if not self.shapes:
      raise RuntimeError('TrainingInputs: call fit() first; it makes shapes.')
    parts = [
      self._part({k: x[i : i + self._size] for k, x in batch.items()})
      for i in range(0, num_parts * self._size, self._size)
    ]
    shape, starts = self._packed([part.texts.lengths for part in parts])
    made = [
      self._arrays(part, mine, packing.num_slots(shape))
      for part, mine in zip(parts, starts, strict=True)
    ]
    flat = np.stack([[m.pop('tokens'), m.pop('texts')] for m in made])
    result: dict[str, Any] = {
      name: np.concatenate([m[name] for m in made]) for name in made[0]
    }
    has_room = result.pop('has_room')
    result['weight'] = np.where(has_room, batch['weight'], 0)
    result['weight'] = result['weight'].astype(np.float32)
    num_out = int((~has_room & (np.asarray(batch['weight']) > 0)).sum())
    if num_out and not self.num_left_out:
      logging.warning(
        'An example has weight 0: its texts do not fit beside those of its'
        ' micro-batch, which are longer than the samples that shapes were made'
        ' for. This is said once; the report counts such examples.'
      )
    self.num_left_out += num_out
    result['lanes'] = _lanes(flat, shape)
    if self._config.negatives != 'own':
      result['domain'] = np.asarray(batch['domain'], np.int32)
      if self._config.exclude == 'seen':
        result['seen'] = np.asarray(batch['seen'], np.int32)
    return result

  def _packed(
    self, lengths: list[np.ndarray]
  ) -> tuple[packing.Shape, list[np.ndarray]]:
    """The smallest shape in which all parts fit, or the last; their starts."""
    for shape in self.shapes:
      starts = [packing.pack(x, shape) for x in lengths]
      if all((mine >= 0)[x > 0].all() for mine, x in zip(starts, lengths)):
        break
    return shape, starts

  # Parts.

  def _part(self, batch: Batch) -> _Part:
    target = np.asarray(batch['target'])
    history = np.asarray(batch['history'])
    drawn, negatives = self._draw(batch)
    ids = np.unique(np.concatenate([target, drawn.ravel()]))
    ids = ids[ids != 0]
    place = np.searchsorted(ids, negatives)
    # Users, then items: texts of one.
    width = max(history.shape[1], 1)
    rows = np.zeros((self._size + self.num_items, width), np.int64)
    rows[: len(history), : history.shape[1]] = history
    rows[self._size : self._size + len(ids), 0] = ids
    return _Part(
      self._texts.plan(rows),
      np.pad(ids, (0, self.num_items - len(ids))).astype(np.int32),
      np.searchsorted(ids, target).astype(np.int32),
      np.where(negatives != 0, place, -1).astype(np.int32),
    )

  def _draw(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """(drawn items, negatives of each example [b, J])."""
    config = self._config
    target, domain = np.asarray(batch['target']), np.asarray(batch['domain'])
    keys = np.asarray(batch['key'], np.int64)
    forbidden = none = np.zeros((len(target), 0), np.int32)
    if config.negatives == 'in_batch':
      return none, none
    if config.negatives == 'shared':
      num, key = config.num_negatives, int(keys[0])
      return self._sampler.draw_shared(key, domain, num), none
    if config.exclude != 'nothing':
      forbidden = target[:, None]
    if config.exclude == 'seen':
      forbidden = np.concatenate([forbidden, batch['seen']], axis=1)
    drawn = self._sampler.draw(keys, domain, forbidden, config.num_negatives)
    lacking = int((drawn == 0).sum())
    if lacking and not self.num_lacking:
      logging.warning(
        'An example has %d of %d negatives: its domain has no more items that'
        ' its user has not had.',
        int((drawn != 0).sum(axis=1).min()),
        config.num_negatives,
      )
    self.num_lacking += lacking
    return drawn, drawn

  def _arrays(
    self, part: _Part, starts_M: np.ndarray, num_slots: int
  ) -> dict[str, np.ndarray]:
    """One part's arrays; its tokens and texts flat over all rows."""
    tokens, texts = np.zeros((2, num_slots), np.int32)
    self._texts.write(part.texts, starts_M, tokens, texts)
    is_there_M = (starts_M >= 0) & (part.texts.lengths > 0)
    user_there_b, item_there_U = np.split(is_there_M, [self._size])
    found = {
      'tokens': tokens,
      'texts': texts,
      'starts': np.where(is_there_M, starts_M, 0).astype(np.int32),
      'lengths': np.where(is_there_M, part.texts.lengths, 0).astype(np.int32),
      'target': part.target_b,
      'has_room': user_there_b & item_there_U[part.target_b],
    }
    if self._config.negatives == 'own':
      there = item_there_U[np.maximum(part.negatives_bJ, 0)]
      found['negatives'] = np.where(there, part.negatives_bJ, -1)
      return found
    found['items'] = part.ids_U
    found['item_domain'] = self._domains[part.ids_U]
    found['in_pool'] = ((part.ids_U != 0) & item_there_U).astype(np.float32)
    if self._config.log_q:
      found['log_q'] = self._log_q[part.ids_U]
    return found


def _lanes(
  flat: np.ndarray, shape: packing.Shape
) -> list[tuple[np.ndarray, np.ndarray]]:
  """[P, 2, slots] -> (tokens, texts) [P * rows, width] of each lane."""
  found, start = [], 0
  for width, rows in shape:
    stop = start + width * rows
    pair = flat[:, :, start:stop].reshape(len(flat), 2, rows, width)
    tokens, texts = (
      np.ascontiguousarray(pair[:, i]).reshape(-1, width) for i in range(2)
    )
    found.append((tokens, texts))
    start = stop
  return found
