# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Late interaction by its formula: scores, gradients, ranks, padding."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.ctr.llm_rec import evaluation, late, ranking
from antjax.ctr.llm_rec.late import UserConfig
from antjax.ctr.llm_rec.stored import StoredEncoder
from antjax.ctr.llm_rec.stored_inputs import StoredInputs
from tests.ctr.llm_rec import stored_test

LATE = UserConfig(interaction='late')
MAX_HISTORY = 4
HISTORIES = np.array([[1, 0, 0], [1, 2, 0], [1, 2, 4], [3, 0, 0], [3, 2, 0]])
# The same in one row, one user behind the other, and padding.
PLACES = np.array([[1, 2, 4, 3, 2, 0]])
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0]])


def model_of(num_low=2, user=LATE, vector=stored_test.VECTOR, **loss):
  lm = stored_test.language_model()
  model = stored_test.model_of(lm, num_low, vector=vector, user=user, **loss)
  if user.is_late:
    model.head.ages[...] = jnp.array([0.1, -0.7, -0.2, -1.0])
  return model, (stored_test.rows_of(lm, num_low), stored_test.TOKENS)


@jax.jit
def of_prefixes(model, titles, places, items):
  """Scores of items for each user of `SEGMENTS` after each title."""
  scale, q = model._scale(), model.users(titles, places, SEGMENTS)
  return late.of_prefixes(
    scale * q @ items.T, scale, model.head.ages[...], SEGMENTS
  )[0, :5]


def plain(history, terms_HI, ages):
  """Scores of all items, by the formula; terms_HI has a title's q . k / T."""
  newest = len(history) - 1
  return np.log(
    sum(
      np.exp(ages[newest - j] + np.float64(terms_HI[title]))
      for j, title in enumerate(history)
    )
  )


def test_scores_are_the_formula():
  model, titles = model_of()
  encoder = StoredEncoder(model, *titles, max_history=MAX_HISTORY)
  vectors = encoder.item_vectors()
  np.testing.assert_array_equal(vectors[1:, -2:], [[1, 0]] * 4)
  terms = 10 * vectors[:, :-2] @ vectors[:, :-2].T
  ages = np.asarray(model.head.ages[...])
  want = np.array([plain(x[x > 0], terms, ages) for x in HISTORIES])
  found = ranking.scores(encoder.user_vectors(HISTORIES), vectors)
  np.testing.assert_allclose(found[:, 1:], want[:, 1:], rtol=1e-5)
  of_drawn = ranking.scores(
    encoder.user_vectors(HISTORIES), vectors[np.array([[2, 4]] * 5)]
  )
  np.testing.assert_allclose(of_drawn, want[:, [2, 4]], rtol=1e-5)


@pytest.mark.parametrize(
  'num_low', [pytest.param(1, marks=pytest.mark.slow), 2]
)
def test_one_pass_scores_every_prefix(num_low):
  model, titles = model_of(num_low)
  encoder = StoredEncoder(model, *titles, max_history=MAX_HISTORY)
  vectors = encoder.item_vectors()
  found = of_prefixes(model, titles, PLACES, vectors[:, :-2])
  alone = ranking.scores(encoder.user_vectors(HISTORIES), vectors)
  np.testing.assert_allclose(found[:, 1:], alone[:, 1:], rtol=1e-5)


def test_gradients_are_those_of_the_plain_formula():
  rng = np.random.default_rng(0)
  terms = jnp.asarray(rng.uniform(-20, 20, (1, 6, 3)), jnp.float32)
  ages = jnp.array([0.1, -0.7, -0.2, -1.0])
  weights = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)

  def one_pass(terms, ages):
    found = late.of_prefixes(terms, jnp.float32(20), ages, SEGMENTS)[0, :5]
    return (weights * found).sum()

  def one_by_one(terms, ages):
    total = 0.0
    for weight, (first, last) in zip(
      weights, [(0, 0), (0, 1), (0, 2), (3, 3), (3, 4)], strict=True
    ):
      mine = terms[0, first : last + 1] + ages[: last - first + 1][::-1, None]
      total += (weight * jax.nn.logsumexp(mine, axis=0)).sum()
    return total

  got, want = (
    jax.jit(jax.value_and_grad(fn, (0, 1)))(terms, ages)
    for fn in (one_pass, one_by_one)
  )
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_one_title_ranks_as_the_pooled_vector_does():
  both = [model_of(user=user) for user in (LATE, UserConfig())]
  found = []
  for model, titles in both:
    encoder = StoredEncoder(model, *titles, max_history=MAX_HISTORY)
    users = encoder.user_vectors(HISTORIES[[0, 3]])
    found.append(np.asarray(ranking.scores(users, encoder.item_vectors())))
  # A cosine over the temperature, and the weight of the newest title.
  np.testing.assert_allclose(
    found[0][:, 1:], 10 * found[1][:, 1:] + 0.1, rtol=1e-5
  )


def test_padding_changes_no_score():
  model, titles = model_of()
  encoder = StoredEncoder(model, *titles, max_history=MAX_HISTORY)
  users, vectors = encoder.user_vectors(HISTORIES), encoder.item_vectors()
  want = ranking.scores(users, vectors)
  wider = np.pad(users, [(0, 0), (2, 3), (0, 0)])
  np.testing.assert_allclose(ranking.scores(wider, vectors), want, rtol=1e-6)
  longer = encoder.user_vectors(np.pad(HISTORIES, [(0, 0), (0, 9)]))
  np.testing.assert_array_equal(longer, users)
  # Nor does what stands where nobody is, in training.
  found, other = (
    of_prefixes(model, titles, places, vectors[:, :-2])
    for places in (PLACES, np.where(SEGMENTS, PLACES, 4))
  )
  np.testing.assert_array_equal(found, other)
  # Who had nothing ranks nothing ahead of anything.
  nothing = encoder.user_vectors(np.zeros((1, 3), int))
  ranks = ranking.full_ranks(
    nothing, vectors, np.array([2]), np.zeros((1, 1), int)
  )
  assert ranks.tolist() == [3]


def test_an_item_without_events_needs_its_title_only():
  model, (rows, tokens) = model_of()
  known = StoredEncoder(model, rows[:4], tokens[:4], max_history=MAX_HISTORY)
  grown = StoredEncoder(model, rows, tokens, max_history=MAX_HISTORY)
  np.testing.assert_allclose(
    grown.item_vectors()[:4], known.item_vectors(), atol=1e-6
  )
  users = known.user_vectors(HISTORIES[[1]])
  found = np.asarray(ranking.scores(users, grown.item_vectors()))
  np.testing.assert_allclose(
    found[:, :4], ranking.scores(users, known.item_vectors()), rtol=1e-5
  )
  # What the caller adds to new ones is in their vectors.
  grown.raise_new(np.arange(5) == 4, 0.5)
  raised = np.asarray(ranking.scores(users, grown.item_vectors()))
  np.testing.assert_allclose(raised[:, :4], found[:, :4])
  np.testing.assert_allclose(raised[:, 4], found[:, 4] + 0.5, rtol=1e-5)
  # Their words count as often as is said; what was added before is gone.
  before = grown.item_vectors()[4].copy()
  grown.raise_new(np.arange(5) == 4, 0.25, words=3.0)
  after, num = grown.item_vectors()[4], stored_test.VECTOR.word_dim
  np.testing.assert_allclose(after[-2 - num : -2], 3 * before[-2 - num : -2])
  np.testing.assert_array_equal(after[: -2 - num], before[: -2 - num])
  assert after[-2:].tolist() == [1, 0.25]


def problem(num_users=30, num_items=90, longest=5, width=8):
  rng = np.random.default_rng(3)
  users = rng.normal(size=(num_users, longest, width)).astype(np.float32)
  sizes = rng.integers(1, longest + 1, num_users)
  users[np.arange(longest) >= sizes[:, None]] = 0
  items = rng.normal(size=(num_items, width)).astype(np.float32)
  items[50] = items[7]  # Equal titles are tied.
  targets = rng.integers(1, num_items, num_users)
  targets[:2] = 7, 50
  terms = np.einsum('uhd,nd->uhn', users, items)
  terms[np.arange(longest) >= sizes[:, None]] = -np.inf
  return users, items, targets, np.log(np.exp(terms).sum(axis=1))


def test_ranks_are_those_of_a_loop_in_blocks():
  users, items, targets, scores = problem()
  seen = np.array([[1, 2]] * 30)
  drawn = np.random.default_rng(4).integers(1, 90, (30, 20))
  want, of_drawn = [], []
  for u, target in enumerate(targets):
    ahead = scores[u] > scores[u, target] - 1e-4
    others = {*range(1, 90)} - {*seen[u], target}
    want.append(sum(ahead[i] for i in others))
    of_drawn.append(sum(ahead[i] for i in drawn[u]))
  found = ranking.full_ranks(
    users, items, targets, seen, block_items=32, block_users=8
  )
  assert found.tolist() == want
  found = ranking.sampled_ranks(users, items, targets, drawn)
  assert found.tolist() == of_drawn


def test_examples_of_any_length_keep_their_places():
  users, items, targets, scores = problem(longest=3)
  sizes = (users != 0).any(axis=2).sum(axis=1)

  class Model:
    is_late = True

    def item_vectors(self):
      return items

    def user_vectors(self, history):
      longest = (history > 0).sum(axis=1).max()
      return users[history[:, 0] - 1, :longest]

  history = np.where(
    np.arange(3) < sizes[:, None], 1 + np.arange(30)[:, None], 0
  )
  drawn = np.tile(np.arange(1, 21), (30, 1))
  examples = evaluation.RankedExamples(targets, drawn, lambda i: history[i])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, '_BATCH', 4)
    found = evaluation.ranks(Model(), examples)
  for kind, rank_fn, third in (
    ('sampled', ranking.sampled_ranks, drawn),
    ('full', ranking.full_ranks, history),
  ):
    want = rank_fn(users, items, targets, third)
    np.testing.assert_array_equal(found[kind], want)


def test_no_array_has_users_titles_and_items():
  made = jax.make_jaxpr(late.scores)(np.ones((7, 11, 3)), np.ones((13, 3)))

  def sizes(jaxpr):
    for equation in jaxpr.eqns:
      yield from (np.prod(x.aval.shape) for x in equation.outvars)
      for inner in equation.params.values():
        if hasattr(inner, 'jaxpr'):
          yield from sizes(inner.jaxpr)

  assert max(sizes(made.jaxpr)) < 7 * 11 * 13


def test_a_batch_has_a_loss_whose_gradient_reaches_ages_and_temperature():
  model, (rows, tokens) = model_of(exclude='target', in_domain=False)
  inputs = StoredInputs(
    rows,
    tokens,
    model.loss_config,
    stored_test.DOMAINS,
    np.ones(5, np.int64),
    histories_per_part=2,
    max_history=MAX_HISTORY,
  )
  events = np.array([[1, 2, 4, 3, 0], [3, 1, 0, 0, 0]], np.int32)
  inputs.fit([events])
  batch = inputs(events, np.array([5, 6]), 1)

  @nnx.jit
  @nnx.value_and_grad
  def total(model):
    losses, weights = model.loss(batch)
    return (losses * weights).sum()

  loss, grads = total(model)
  assert np.isfinite(loss) and loss > 0
  assert np.abs(grads['head']['ages'][...][:3]).min() > 0
  step = 1e-2  # Against a finite difference.
  moved = []
  for sign in (1, -1):
    model.head.log_scale[...] += sign * step
    moved.append(total(model)[0])
    model.head.log_scale[...] -= sign * step
  slope = (moved[0] - moved[1]) / (2 * step)
  np.testing.assert_allclose(
    grads['head']['log_scale'][...][0], slope, rtol=2e-2
  )


def test_terms_must_be_cosines():
  vector = dataclasses.replace(stored_test.VECTOR, normalize=False, word_dim=0)
  with pytest.raises(ValueError, match=r'add --vector\.normalize'):
    model_of(vector=vector)
