# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LLM-Rec over a store: prefixes, titles and words, on a tiny model."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.ctr.bahe import encode
from antjax.ctr.llm_rec import texts, untrained
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.model import VectorConfig
from antjax.ctr.llm_rec.stored import StoredEncoder, StoredRec
from antjax.ctr.llm_rec.stored_inputs import StoredInputs
from antjax.lm.config import Config
from antjax.lm.positions import token_mask
from antjax.lm.text_encoder import pool
from antjax.lm.transformer import Transformer
from tests.lm import tiny_models

VOCAB = 20
TOKENS = np.array([[-1, -1, -1], [3, 4, -1], [5, 6, 7], [8, -1, -1], [4, 9, 2]])
DOMAINS = np.array([-1, 0, 0, 1, 1])
BERT = {
  'causal': False,
  'positions': 'learned',
  'max_positions': 8,
  'norm': 'layer',
  'norm_place': 'post',
  'embed_norm': True,
  'qkv_bias': True,
  'out_bias': True,
  'mlp_bias': True,
  'gated_mlp': False,
}
users_of = jax.jit(StoredRec.users)
VECTOR = VectorConfig(
  pooling='mean',
  normalize=True,
  half_life=2,
  word_dim=8,
  projection_dim=6,
  token_vectors=True,
)


# Nobody changes it, so that one does for all.
@functools.cache
def language_model(**options):
  config = Config(
    vocab_size=VOCAB,
    num_layers=2,
    embed_dim=16,
    num_heads=2,
    num_kv_heads=2,
    mlp_dim=16,
    **BERT | options,
  )
  return Transformer.of(config, tiny_models.params_of(config))


@functools.cache
def rows_of(lm, num_low):
  low = encode.LowEncoder(lm, num_low)
  lengths = (TOKENS >= 0).sum(axis=1)
  return np.asarray(encode.vectors(low, np.maximum(TOKENS, 0), lengths))


@functools.cache
def _born(lm, num_low, pooling, vector, loss, user):
  """A `StoredRec` made by one program, not one for each initializer."""
  return nnx.jit(
    lambda: StoredRec(
      lm,
      num_low,
      pooling,
      vector,
      loss,
      user=user,
      max_history=4,
      rarity_V=np.linspace(1, 2, VOCAB),
      rngs=nnx.Rngs(1),
    )
  )()


def model_of(
  lm, num_low, pooling='mean', vector=VECTOR, *, user=None, **options
):
  loss = LossConfig(
    negatives='shared', num_negatives=2, temperature=0.1, **options
  )
  model = nnx.clone(_born(lm, num_low, pooling, vector, loss, user))
  rng = np.random.default_rng(2)  # What begins at 0.
  of_head = getattr(model.head, 'tokens', None)
  for param in (getattr(model.lm, 'behavior_positions', None), of_head):
    if param is not None:
      param[...] = jnp.asarray(rng.normal(size=param.shape), jnp.float32)
  return model


@pytest.mark.parametrize(
  ('num_low', 'pooling'),
  [
    pytest.param(0, 'last', marks=pytest.mark.slow),
    pytest.param(1, 'mean', marks=pytest.mark.slow),
    (2, 'mean'),
  ],
)
def test_one_pass_gives_the_vector_of_every_prefix(num_low, pooling):
  lm = language_model()
  titles = rows_of(lm, num_low), TOKENS
  model = model_of(lm, num_low, pooling)
  # Two users in a row, then padding.
  places = np.array([[1, 2, 4, 3, 2, 0]])
  segments = np.array([[1, 1, 1, 2, 2, 0]])
  found = np.asarray(users_of(model, titles, places, segments))[0]
  encoder = StoredEncoder(model, *titles, max_history=4)
  prefixes = [[1], [1, 2], [1, 2, 4], [3], [3, 2]]
  alone = encoder.user_vectors(
    np.array([x + [0] * (5 - len(x)) for x in prefixes])
  )
  np.testing.assert_allclose(found[:5], alone, atol=1e-5)
  # Where nothing tells a user of one title from an item, they are one.
  if not model.lm.max_behaviors:
    np.testing.assert_allclose(alone[3], encoder.item_vectors()[3], atol=1e-5)
  assert not encoder.item_vectors()[0].any()


def test_item_vectors_are_those_of_all_layers_over_the_titles():
  lm = language_model()
  vector = VectorConfig(pooling='mean')
  model = model_of(lm, 2, vector=vector)
  found = StoredEncoder(
    model, rows_of(lm, 2), TOKENS[:, :0], max_history=4
  ).item_vectors()
  lengths = (TOKENS >= 0).sum(axis=1)
  tokens, mask = np.maximum(TOKENS, 0), token_mask(TOKENS, lengths)
  direct = np.asarray(pool(jax.jit(Transformer.hidden)(lm, tokens, mask), mask))
  np.testing.assert_allclose(found, direct, atol=1e-5)
  half = StoredEncoder(
    model, rows_of(lm, 2).astype(np.float16), TOKENS[:, :0], max_history=4
  ).item_vectors()
  np.testing.assert_allclose(half, direct, atol=4e-3)


def test_whitened_titles_begin_as_whitened_rows():
  lm, rows = language_model(), rows_of(language_model(), 2)
  vector = VectorConfig(
    pooling='mean', normalize=True, whiten=True, projection_dim=16
  )

  def model_of(num_low):
    return nnx.jit(
      lambda whitening: StoredRec(
        lm,
        num_low,
        'mean',
        vector,
        max_history=4,
        whitening=whitening,
        rngs=nnx.Rngs(1),
      )
    )(untrained.whitening(rows))

  encoder = StoredEncoder(model_of(2), rows, TOKENS[:, :0], max_history=4)
  expected = untrained.unit(untrained.whiten(rows))
  np.testing.assert_allclose(encoder.item_vectors(), expected, atol=1e-4)
  # A user is the mean of such titles.
  both = untrained.unit(expected[[1]] + expected[[3]])
  found = encoder.user_vectors(np.array([[1, 3]]))
  np.testing.assert_allclose(found, both, atol=1e-4)
  with pytest.raises(ValueError, match='1 of 2 layers'):
    model_of(1)


def test_pairs_are_of_neighbors_alone():
  lm = language_model()
  model = model_of(lm, 2)
  inputs = StoredInputs(
    rows_of(lm, 2),
    TOKENS,
    model.loss_config,
    DOMAINS,
    np.ones(5, np.int64),
    histories_per_part=1,
    max_history=4,
  )
  events = np.array([[1, 2, 4, 3, 0]], np.int32)
  inputs.fit([events])
  batch = inputs.of_pairs()(events, np.array([5]), 1)
  titles = batch['rows'], batch['tokens']
  users = users_of(model, titles, batch['places'], batch['segments'])
  told = batch['weight'] > 0
  alone = jax.jit(StoredRec.items)(model, titles)[batch['places'].ravel()]
  np.testing.assert_allclose(
    np.asarray(users).reshape(-1, model.dim)[told], alone[told], atol=1e-5
  )
  assert inputs(events, np.array([5]), 1)['segments'].max() == 1


def test_a_batch_predicts_each_event_by_those_before():
  lm = language_model()
  rows = rows_of(lm, 1)
  model = model_of(lm, 1)
  inputs = StoredInputs(
    rows,
    TOKENS,
    model.loss_config,
    DOMAINS,
    np.ones(5, np.int64),
    histories_per_part=2,
    max_history=4,
  )
  events = np.array([[1, 2, 4, 0, 0], [3, 1, 0, 0, 0]], np.int32)
  inputs.fit([events])
  batch = inputs(events, np.array([5, 6]), 1)
  told = batch['weight'] > 0
  items = batch['items']
  pairs = {
    (int(items[batch['places'].ravel()[i]]), int(items[batch['target'][i]]))
    for i in np.flatnonzero(told)
  }
  assert pairs == {(1, 2), (2, 4), (3, 1)} and inputs.num_left_out == 0
  np.testing.assert_array_equal(batch['rows'], rows[items])
  np.testing.assert_array_equal(
    batch['domain'][told], DOMAINS[items[batch['target'][told]]]
  )
  losses, weights = nnx.jit(lambda m: m.loss(batch))(model)
  assert np.isfinite(np.asarray(losses)).all() and weights.sum() == 3
  # A history that finds no room counts for nothing, and is counted.
  crowd = np.tile(np.array([[1, 2, 3, 4, 2]], np.int32), (40, 1))
  inputs._size = 40
  assert inputs(crowd, np.arange(40), 1)['weight'].sum() == 64
  assert inputs.num_left_out == 40 * 4 - 64


def test_items_without_events_are_no_negatives():
  lm = language_model()
  model = model_of(lm, 1)
  inputs = StoredInputs(
    rows_of(lm, 1),
    TOKENS,
    model.loss_config,
    np.array([-1, 0, 0, 0, 0]),
    np.array([0, 3, 2, 0, 1]),
    histories_per_part=1,
    max_history=4,
  )
  events = np.array([[1, 2, 0, 0, 0]], np.int32)
  inputs.fit([events])
  pools = [set(inputs(events, np.array([i]), 1)['items']) for i in range(20)]
  assert set.union(*pools) == {0, 1, 2, 4}


def test_what_a_store_cannot_serve_is_refused():
  with pytest.raises(ValueError, match='shared or in_batch'):
    StoredInputs(
      np.zeros((5, 4)),
      TOKENS,
      LossConfig(),
      DOMAINS,
      np.ones(5),
      histories_per_part=2,
      max_history=4,
    )


def test_tokens_of_titles_are_padded_and_cut():
  found = texts.title_tokens(np.array([4, 5, 6, 7]), np.array([0, 0, 3, 4]), 2)
  assert found.tolist() == [[-1, -1], [4, 5], [7, -1]]
