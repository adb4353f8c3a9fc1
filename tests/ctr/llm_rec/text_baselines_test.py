# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Popularity, BM25 and the cosines of texts, against the plain formulas."""

import collections
import math

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from antjax.ctr.llm_rec import evaluation, untrained
from antjax.ctr.llm_rec.untrained import Popularity

TITLES = [
  '',
  'Green tea, 20 bags',
  'Black TEA (loose)',
  'Tea pot; tea cosy',
  'Caf\xe9 au lait',
  '---',
  'Pot and pan',
]
HISTORY = np.array([[1, 4, 3], [6, 0, 0], [5, 0, 0], [0, 0, 0], [2, 1, 1]])


def words(title):
  for sign in ',();-':
    title = title.replace(sign, ' ')
  return title.lower().split()


def plain_bm25(query, k1, b):
  documents = [collections.Counter(words(t)) for t in TITLES[1:]]
  mean = sum(d.total() for d in documents) / len(documents)
  scores = [0.0]
  for d in documents:
    total = 0.0
    for word in query:
      n = sum(word in other for other in documents)
      idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
      low = k1 * (1 - b + b * d.total() / mean)
      total += idf * d[word] * (k1 + 1) / (d[word] + low) if d[word] else 0
    scores.append(total)
  return scores


@pytest.mark.parametrize('k1, b', [(1.2, 0.75), (0.5, 0.0), (2.0, 1.0)])
@pytest.mark.parametrize('max_history', [2, 10])
def test_bm25_is_the_formula(k1, b, max_history):
  model = untrained.BM25(TITLES, max_history=max_history, k1=k1, b=b)
  found = model.scores(HISTORY)
  assert found.shape == (5, 7) and found.dtype == np.float32
  for row, history in zip(found, HISTORY):
    items = history[history > 0][-max_history:]
    query = [w for i in items for w in words(TITLES[i])]
    np.testing.assert_allclose(row, plain_bm25(query, k1, b), rtol=1e-5)


def test_popularity_ranks_by_count():
  counts = np.array([0, 5, 9, 9, 1, 0, 2])
  model = Popularity(counts)
  examples = evaluation.RankedExamples(
    np.array([2, 1, 6, 5]),
    np.array([[1, 3, 4], [2, 4, 6], [5, 4, 0], [4, 1, 6]]),
    lambda index: HISTORY[index],
  )
  found = evaluation.ranks(model, examples)
  # A tie (2 and 3) counts against the model.
  assert found['sampled'].tolist() == [1, 1, 0, 3]
  assert found['full'].tolist() == [0, 2, 3, 5]


def vectors():
  rng = np.random.default_rng(0)
  return rng.normal(size=(7, 4)).astype(np.float32) * 3


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_cosines_of_the_last_and_of_the_mean():
  given = vectors()
  last = untrained.TextCosine('last', given)
  mean = untrained.TextCosine('mean', given, 2)
  for model in (last, mean):
    scores = model.user_vectors(HISTORY) @ model.item_vectors().T
    for row, history in zip(scores, HISTORY):
      items = history[history > 0]
      if not len(items):
        assert not row.any()
        continue
      for i in range(1, 7):
        if model is last:
          expected = cosine(given[items[-1]], given[i])
        else:  # Cosine with each, then the mean: that of unit vectors.
          newest = items[-2:]
          expected = np.mean([cosine(given[j], given[i]) for j in newest])
        assert row[i] == pytest.approx(expected, abs=1e-6)


def test_one_text_is_of_the_newest_titles_oldest_first():
  seen = []

  def encode(rows):
    seen.extend(untrained.join_titles([TITLES[i] for i in row]) for row in rows)
    return np.ones((len(rows), 4))

  model = untrained.TextCosine('concatenated', vectors(), 2, encode)
  found = model.user_vectors(HISTORY)
  assert seen[0] == 'Caf\xe9 au lait; Tea pot; tea cosy'
  assert seen[3] == ''
  np.testing.assert_allclose(found, 0.5)
  with pytest.raises(ValueError, match='concatenated needs `encode`'):
    untrained.TextCosine('concatenated', vectors())
  with pytest.raises(ValueError, match='nothing else takes it'):
    untrained.TextCosine('mean', vectors(), 2, encode)


def test_the_old_end_of_a_text_is_cut():
  vocabulary = {'[UNK]': 0, 'a': 1, 'b': 2, 'c': 3}
  inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, '[UNK]'))
  inner.pre_tokenizer = pre_tokenizers.Whitespace()
  untrained.keep_newest(inner, 2)
  assert inner.encode('a b c').ids == [2, 3]


def test_a_model_of_scores_is_ranked_like_one_of_vectors():
  given = vectors()
  model = untrained.TextCosine('mean', given, 2)

  class Scores:
    def scores(self, history):
      return model.user_vectors(history) @ model.item_vectors().T

  rng = np.random.default_rng(1)
  examples = evaluation.RankedExamples(
    rng.integers(1, 7, 5),
    rng.integers(1, 7, (5, 4)),
    lambda index: HISTORY[index],
  )
  allowed = np.arange(7) != 2
  a = evaluation.ranks(model, examples, allowed=allowed)
  b = evaluation.ranks(Scores(), examples, allowed=allowed)
  for kind in ('sampled', 'full'):
    np.testing.assert_array_equal(a[kind], b[kind])
  only = evaluation.ranks(model, examples, with_full=False)
  assert [*only] == ['sampled']


def test_examples_can_be_taken_with_a_part_of_their_histories():
  examples = evaluation.RankedExamples(
    np.arange(1, 6), np.ones((5, 2), int), lambda index: HISTORY[index]
  )
  is_kept = np.isin(np.arange(7), [1, 3])
  part = examples.take(np.array([4, 0]), is_kept)
  assert len(part) == 2 and part.targets.tolist() == [5, 1]
  assert part.history_fn(np.array([1])).tolist() == [[1, 3, 0]]
  assert part.history_fn(np.array([0, 1])).tolist() == [[1, 1, 0], [1, 3, 0]]
