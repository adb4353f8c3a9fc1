# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problem that `llm_rec_bench` and its peers solve; numpy only.

Users with a history of items, a target, and negatives of its domain, as
LLM-Rec is trained on. Lengths of titles and histories are drawn so that they
are spread as in Amazon's food and kitchen data with MiniLM's tokenizer (see
`TITLE_TOKENS`, `HISTORY`); which item it is and what tokens it has is random,
and so are the weights: speed does not depend on their values.
"""

import dataclasses
from typing import Any

import numpy as np

from benchmarks import bahe_problem

NUM_ITEMS = 36_298
DOMAIN_SIZES = (8_661, 27_637)
MAX_TITLE_TOKENS = 40
MAX_HISTORY = 10
NUM_NEGATIVES = 10
BATCH = 24
LEARNING_RATE = 5e-5
# Mean and deviation of a title's tokens, cut to MAX_TITLE_TOKENS.
TITLE_TOKENS = (21.0, 9.0)
# Share of training examples with a history of 1, 2, .. 9, 10 and more items.
HISTORY = (0.18, 0.17, 0.16, 0.12, 0.09, 0.06, 0.05, 0.04, 0.03, 0.10)
CLS = 1  # Token in front of a text; a title's are above it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """What is trained: a model and a dtype to compute in.

  Attributes:
    model: A name of `bahe_problem.MODELS`.
    dtype: 'float32' or 'bfloat16'.
    num_batches: Batches that are trained on in turn.
  """

  model: str = 'minilm'
  dtype: str = 'float32'
  num_batches: int = 8

  @property
  def name(self) -> str:
    """The case's name on the command line."""
    return f'{self.model}-{self.dtype}'


CASES = tuple(Case(dtype=dtype) for dtype in ('float32', 'bfloat16'))


def fields(model: str, is_quick: bool) -> dict[str, Any]:
  """A model's config.json."""
  found = bahe_problem.fields(model, is_quick)
  return found | {'max_position_embeddings': 512}


def make(case: Case, vocab_size: int, is_quick: bool, seed: int = 0):
  """Titles, and batches of examples.

  Returns:
    tokens: int32 [all], the titles' tokens.
    offsets: int64 [items + 1]: item i has tokens[offsets[i]:offsets[i + 1]];
      item 0 has none.
    domains: int32 [items], -1 for item 0.
    history: int32 [X, N], oldest first, 0 behind the newest.
    target: int32 [X], and negatives int32 [X, 10], items of its domain.
    shared: int32 [batches, 10], negatives of a whole batch.
  """
  rng = np.random.default_rng(seed)
  # A quick problem is one that compiles quickly: short texts, in few rows.
  scale, shorter, longest = (40, 8, 3) if is_quick else (1, 1, MAX_HISTORY)
  sizes = [size // scale for size in DOMAIN_SIZES]
  num_items = sum(sizes) + 1
  lengths = rng.normal(*TITLE_TOKENS, num_items).round().astype(np.int64)
  lengths = np.clip(lengths, 4, MAX_TITLE_TOKENS) // shorter + is_quick
  lengths[0] = 0
  num = BATCH * case.num_batches
  domains = np.repeat([-1, 0, 1], [1, *sizes]).astype(np.int32)
  first = np.array([1, 1 + sizes[0]])
  # Few items are often a target: as 1 / rank within a domain.
  domain = rng.choice(2, num, p=(0.2, 0.8))
  target = np.empty(num, np.int32)
  negatives = np.empty((num, NUM_NEGATIVES), np.int32)
  history = np.zeros((num, longest), np.int32)
  lengths_h = rng.choice(np.arange(1, 1 + MAX_HISTORY), num, p=HISTORY)
  lengths_h = np.minimum(lengths_h, longest)
  for i in range(num):
    size, start = sizes[domain[i]], first[domain[i]]
    count = 1 + lengths_h[i]
    ranks = np.exp(rng.random(4 * count) * np.log(size)).astype(np.int64) - 1
    had = start + np.unique(ranks)
    had = rng.permutation(had)[:count]
    target[i] = had[0]
    history[i, : len(had) - 1] = had[1:]
    pool = np.setdiff1d(start + rng.integers(0, size, 40), had)
    negatives[i] = rng.permutation(pool)[:NUM_NEGATIVES]
  shared = np.stack(
    [
      rng.permutation(np.unique(batch))[:NUM_NEGATIVES]
      for batch in negatives.reshape(case.num_batches, -1)
    ]
  )
  return {
    'tokens': rng.integers(2, vocab_size, lengths.sum()).astype(np.int32),
    'offsets': np.concatenate([[0], np.cumsum(lengths)]),
    'domains': domains,
    'history': history,
    'target': target,
    'negatives': negatives,
    'shared': shared.astype(np.int32),
  }
