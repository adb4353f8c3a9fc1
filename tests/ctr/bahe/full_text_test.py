# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Towers that read tokens: all of them, or those of distinct behaviors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.ctr import tuning
from antjax.ctr.bahe import encode, table, towers
from antjax.ctr.bahe.full_text import FullTextTower, text_maker
from antjax.ctr.texts import Marks
from antjax.jobs import trainer as trainer_lib
from antjax.layers import functional
from antjax.lm import positions
from antjax.lm.transformer import Transformer
from tests.cases import first_fast
from tests.ctr.bahe import small_clicks

NUM_TOKENS = 12
MARKS = Marks((), separator=(30,))


class Cache:
  """A TokenCache in memory."""

  def __init__(self, num_tokens=5):
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, num_tokens, small_clicks.NUM_BEHAVIORS)
    sizes[0] = 0
    self.offsets = np.concatenate([[0], np.cumsum(sizes)])
    self.tokens = rng.integers(1, 30, self.offsets[-1]).astype(np.int32)

  def padded(self, ids, num_tokens):
    sizes = np.diff(self.offsets)[ids]
    tokens = np.zeros((len(ids), num_tokens), np.int32)
    for row, i in zip(tokens, ids):
      part = self.tokens[self.offsets[i] : self.offsets[i + 1]]
      row[: len(part)] = part
    return tokens, sizes.astype(np.int32)


def full_text(config=small_clicks.LLAMA):
  lm = small_clicks.whole(config)
  return FullTextTower(lm, 2, NUM_TOKENS, 5, MARKS, Cache())


def dedup(num_low=1, config=small_clicks.LLAMA):
  return small_clicks.dedup_tower(
    Cache(), small_clicks.NUM_BEHAVIORS, config, num_low
  )


def stored(tower):
  """The store's tower on rows that the low half made, one at a time."""
  cache = tower.cache
  rows = encode.Encoder(
    small_clicks.whole(),
    num_low=tower.low.num_low,
    max_tokens=5,
    devices=jax.devices()[:1],
  )(cache.tokens, cache.offsets)
  rows = table.DeviceTable({'behavior_rows': jnp.asarray(rows)})
  return towers.StoreTower(tower.high, 2, rows)


@pytest.mark.slow
@pytest.mark.parametrize('config', [small_clicks.LLAMA, small_clicks.BERT])
def test_a_text_is_encoded_as_if_alone(config):
  tower = full_text(config)
  tower.null[...] = jnp.full_like(tower.null[...], 7)
  batch = tower.prepare(small_clicks.batch(), 1)
  encoded = jax.jit(tower)(batch)
  user_BND = np.asarray(encoded.user_BF).reshape(16, 2, -1)
  encode_lm = jax.jit(Transformer.hidden)
  seen = set()
  for i, j in np.ndindex(16, 2):
    length = int(batch['text_lengths'][i, j])
    if not length:
      np.testing.assert_array_equal(user_BND[i, j], 7)
    elif length not in seen and len(seen) < 3:  # Each length compiles.
      tokens = batch['text'][i, j, :length][None]
      alone = encode_lm(tower.lm, tokens)[0].mean(axis=0)
      np.testing.assert_allclose(user_BND[i, j], alone, atol=2e-5)
    seen.add(length)
  assert 0 in seen and len(seen) > 2


def test_too_long_a_text_for_learned_positions_is_refused():
  with pytest.raises(ValueError, match='12 learned positions'):
    FullTextTower(
      small_clicks.whole(small_clicks.BERT), 2, 13, 5, MARKS, Cache()
    )


def test_more_positions_repeat_the_trained_ones():
  config = dataclasses.replace(small_clicks.BERT, position_offset=2)
  params = small_clicks.language_model(config)
  longer, extended = positions.extend_learned(config, params, 30)
  assert longer.max_positions == 30
  table_PD = extended['positions']
  assert table_PD.shape == (32, 16)
  np.testing.assert_array_equal(table_PD[:14], params['positions'])
  np.testing.assert_array_equal(table_PD[14:26], params['positions'][2:])
  tokens = np.arange(10)[None]
  encode_lm = jax.jit(Transformer.hidden)
  np.testing.assert_array_equal(
    encode_lm(Transformer.of(longer, extended), tokens),
    encode_lm(Transformer.of(config, params), tokens),
  )
  assert positions.extend_learned(config, params, 12)[1] is params
  llama = small_clicks.LLAMA
  assert positions.extend_learned(llama, params, 99)[0] is llama


@pytest.mark.parametrize('num_low', first_fast(1, 0, 3))
def test_dedup_is_the_store_to_rounding(num_low):
  tower = dedup(num_low)
  batch = small_clicks.batch()
  found = jax.jit(tower)(tower.prepare(batch, 1))
  other = stored(tower)
  prepared = other.prepare(batch, 1) | {'constants': other.table.constants}
  expected = jax.jit(other)(prepared)
  np.testing.assert_allclose(found.user_BF, expected.user_BF, atol=1e-5)
  np.testing.assert_allclose(found.title_BD, expected.title_BD, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['full_text', 'dedup'])
def test_training_moves_what_is_trained(kind):
  # Long texts take this way, in shard_map and under a layer's checkpoint.
  config = dataclasses.replace(
    small_clicks.LLAMA, attention='blocked', remat='layer'
  )
  tower = full_text(config) if kind == 'full_text' else dedup(config=config)
  model = small_clicks.click_model(tower)
  mesh = antjax.make_mesh(intra=2, devices=jax.devices()[:4])
  tables = model.tables(mesh)
  merge, params = functional.split(model)

  def loss_fn(params, rows, batch, rng):
    del rng
    return merge(params).loss(batch, tables.lookup(rows, batch['ids']))

  trainer = antjax.Trainer(
    loss_fn,
    optax.sgd(0.3),
    mesh=mesh,
    paro='IIG',
    tables=tables,
    min_shard_size=16,
    trainable=tuning.trainable('full'),
    scanned=trainer_lib.is_stack,
  )
  before = jax.tree.map(np.asarray, params)
  state = trainer.init(params)
  batch = model.prepare(small_clicks.batch(), 4)
  losses = []
  for _ in range(4):
    state, metrics = trainer.step(state, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < losses[0]
  after = jax.tree.map(np.asarray, trainer.params(state))

  def moved(part):
    pairs = zip(
      jax.tree.leaves(before['tower'][part]),
      jax.tree.leaves(after['tower'][part]),
    )
    return [bool((a != b).any()) for a, b in pairs]

  if kind == 'full_text':
    assert all(moved('lm'))
  else:
    assert not any(moved('low')) and all(moved('high'))


CLS, SEP = 90, 91
BERT = Marks((90,), num_special=1)
LLAMA = Marks((), separator=(80, 81))


class RowsCache:
  """A TokenCache in memory, of rows given."""

  def __init__(self, rows):
    self.tokens = np.array([t for row in rows for t in row], np.int32)
    self.offsets = np.cumsum([0, *map(len, rows)])


def join(rows, histories, num_tokens, marks):
  return text_maker(RowsCache(rows), num_tokens, marks).padded(histories)


def by_hand(rows, history, num_tokens, marks):
  """What a `TextMaker` says it does, one token after the other."""
  lead = marks.num_special
  bodies = [rows[i][lead:] for i in history if i and len(rows[i]) > lead]
  leads = [rows[i][:lead] for i in history if i and len(rows[i]) > lead]
  text = []
  for body, first in zip(reversed(bodies), reversed(leads)):
    inner = [*body, *marks.separator, *text[lead:]] if text else list(body)
    if len(first) + len(inner) > num_tokens:
      if not text:
        text = [*first, *inner][:num_tokens]
      break
    text = [*first, *inner]
  return text


@pytest.mark.parametrize('marks', [BERT, LLAMA])
@pytest.mark.parametrize('num_tokens', [3, 8, 13, 40])
def test_text_is_the_newest_whole_behaviors(marks, num_tokens):
  rng = np.random.default_rng(num_tokens)
  rows = [[], [1, 2]]
  for _ in range(12):
    body = rng.integers(3, 70, rng.integers(1, 7)).tolist()
    rows.append([CLS, *body, SEP] if marks is BERT else body)
  rows[1] = [CLS, 1, SEP] if marks is BERT else [1]
  histories = np.zeros((50, 6), np.int32)
  for history in histories:
    length = rng.integers(0, 7)
    history[:length] = rng.integers(1, len(rows), length)
  text, lengths = join(rows, histories, num_tokens, marks)
  assert text.shape == (50, num_tokens)
  for row, length, history in zip(text, lengths, histories):
    expected = by_hand(rows, history, num_tokens, marks)
    assert row[:length].tolist() == expected
    assert not row[length:].any()


def test_a_history_without_tokens_is_empty():
  rows = [[], [5], []]
  text, lengths = join(
    rows, np.array([[2, 2, 0], [0, 0, 0]], np.int32), 4, LLAMA
  )
  assert not text.any()
  assert lengths.tolist() == [0, 0]


def test_no_room_beside_special_tokens_is_refused():
  with pytest.raises(ValueError, match='1 are special ones in front'):
    join([[]], np.zeros((1, 1), np.int32), 1, BERT)
