# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A made-up catalogue of two domains, and examples of it; all synthetic."""

import numpy as np

from antjax.ctr.texts import Marks, TextMaker

MARKS = {
  'bert': Marks((2,), (), 'first'),
  't5': Marks((), (3,), 'last'),
  'opt': Marks((3,), (3,), 'last'),
  'llama': Marks((), (3,), 'last'),
}
NUM_ITEMS = 31  # With the padding.
# Even items are of domain 0, odd ones of domain 1.
DOMAINS = np.where(np.arange(NUM_ITEMS) == 0, -1, np.arange(NUM_ITEMS) % 2)
COUNTS = np.where(np.arange(NUM_ITEMS) == 0, 0, 40 - np.arange(NUM_ITEMS))


class Cache:
  """Tokens of items, as `TokenCache` has them."""

  def __init__(self, rows):
    self.tokens = np.concatenate([np.zeros(0, np.int32), *rows])
    self.tokens = self.tokens.astype(np.int32)
    self.offsets = np.cumsum([0, *map(len, rows)])


def rows(seed=0, longest=6):
  """Token ids of each item; ids up to 4 are special."""
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, longest + 1, NUM_ITEMS)
  sizes[0] = 0
  return [rng.integers(5, 61, size).astype(np.int32) for size in sizes]


def text_maker(family='bert', **options):
  return TextMaker(Cache(rows()), MARKS[family], **{'max_tokens': 24} | options)


def examples(num, seed=0, num_history=4):
  """A batch of `num` examples, as launch makes them."""
  rng = np.random.default_rng(seed)
  history = np.zeros((num, num_history), np.int32)
  target = np.zeros(num, np.int32)
  for i in range(num):
    length = rng.integers(1, num_history + 1)
    drawn = rng.choice(np.arange(1, NUM_ITEMS), length + 1, replace=False)
    history[i, :length], target[i] = drawn[:-1], drawn[-1]
  return {
    'history': history,
    'seen': history,
    'target': target,
    'domain': DOMAINS[target].astype(np.int32),
    'key': 100 * seed + np.arange(num, dtype=np.int64),
    'weight': np.ones(num, np.float32),
  }
