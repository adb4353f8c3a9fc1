# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""SASRec, GRU4Rec and SASRec on texts: what they see, compute and learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.ctr.llm_rec import next_item, untrained
from antjax.ctr.llm_rec.encoders import GRU4RecConfig, SASRecConfig
from antjax.ctr.llm_rec.next_item import NextItemModel, TrainedNextItem
from antjax.layers import functional

SASREC = SASRecConfig(dim=16, num_heads=2, max_length=6, dropout=0.0)
GRU = GRU4RecConfig(dim=16, state_dim=12, max_length=6, dropout=0.0)
ENCODERS = pytest.mark.parametrize(
  'encoder', [SASREC, pytest.param(GRU, marks=pytest.mark.slow)]
)
NUM_ITEMS = 21


def vectors(*shape, seed=0):
  found = np.random.default_rng(seed).normal(size=shape)
  return found.astype(np.float32)


def made(init, seed=5):
  """Parameters whose every part matters, biases included.

  Nothing is initialized, which would compile a program for each leaf.
  """
  rng = np.random.default_rng(seed)

  def random(path, leaf):
    start = path[-1].key == 'scale'
    return (start + 0.3 * rng.normal(size=leaf.shape)).astype(np.float32)

  return jax.tree.map_with_path(random, jax.eval_shape(init, jax.random.key(0)))


@ENCODERS
def test_what_comes_later_does_not_change_what_came_before(encoder):
  params = made(encoder.init)
  x = vectors(3, 6, 16)
  encode = jax.jit(encoder)
  base = np.asarray(encode(params, x))
  for place in range(6):
    turned = x.copy()
    turned[:, place] *= -1
    other = np.asarray(encode(params, turned))
    # Exactly: nothing of a later item may come in, not even times zero.
    np.testing.assert_array_equal(other[:, :place], base[:, :place])
    assert (np.abs(other[:, place:] - base[:, place:]).max((0, 2)) > 1e-3).all()


@ENCODERS
def test_dropout_is_for_training(encoder):
  params = made(encoder.init)
  dropping = dataclasses.replace(encoder, dropout=0.5)
  x = vectors(2, 6, 16)
  drop = jax.jit(dropping)
  np.testing.assert_array_equal(jax.jit(encoder)(params, x), drop(params, x))
  assert not np.allclose(drop(params, x, jax.random.key(0)), drop(params, x))
  with pytest.raises(ValueError, match='dropout=1.0 must be from 0 to below'):
    dataclasses.replace(encoder, dropout=1.0)


def test_the_gru_is_its_equations():
  params = made(GRU.init)
  x = np.asarray(vectors(2, 5, 16), np.float64)

  def sigmoid(a):
    return 1 / (1 + np.exp(-a))

  w, b = (
    np.asarray(params['input'][k], np.float64) for k in ('kernel', 'bias')
  )
  u = np.asarray(params['state']['kernel'], np.float64)
  wz, wr, wc = np.split(w, 3, axis=1)
  bz, br, bc = np.split(b, 3)
  uz, ur, uc = np.split(u, 3, axis=1)
  state = np.zeros((2, 12))
  for t in range(5):
    z = sigmoid(x[:, t] @ wz + state @ uz + bz)
    r = sigmoid(x[:, t] @ wr + state @ ur + br)
    c = np.tanh(x[:, t] @ wc + r * (state @ uc) + bc)
    state = (1 - z) * c + z * state
  out = jax.tree.map(np.asarray, params['out'])
  expected = state @ out['kernel'] + out['bias']
  found = jax.jit(GRU)(params, jnp.asarray(x, jnp.float32))[:, -1]
  np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_the_loss_is_the_formula():
  model = NextItemModel(SASREC, NUM_ITEMS)
  params = made(model.init_params)
  rows = vectors(NUM_ITEMS, 16, seed=3)
  sequence = np.array([[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0]])
  drawn = np.array([[4, 11], [12, 8], [13, 14]])
  ids = model.prepare(sequence, drawn)['ids']
  assert ids['sequence'].tolist()[1] == [7, 8, -1, -1]
  found = {
    name: np.where((x < 0)[..., None], 0, rows[x]) for name, x in ids.items()
  }
  losses, weights = jax.jit(model.loss)(params, ids, found)
  assert weights.tolist() == [3, 1, 0]
  encode = jax.jit(SASREC)
  h = np.asarray(encode(params['encoder'], found['sequence'][:, :-1]), float)
  rows = np.asarray(rows, float)
  for b, items in enumerate(sequence):
    terms = []
    for t, target in enumerate(items[1:]):
      if target:
        others = [i for i in drawn.reshape(-1) if i != target]
        scores = rows[[target, *others]] @ h[b, t]
        terms.append(np.log(np.exp(scores).sum()) - scores[0])
    expected = np.mean(terms) if terms else 0
    assert losses[b] == pytest.approx(expected, rel=1e-4)


def test_the_adapter_is_its_equations():
  adapter = functional.Functional(next_item.TextAdapter, 10, 16, 3)
  params = made(adapter.init)
  x = np.asarray(vectors(4, 10), float)
  maps, offsets, gate = (
    np.asarray(params[name], float) for name in ('maps', 'offsets', 'gate')
  )
  weights = np.exp(x @ gate)
  weights /= weights.sum(axis=1, keepdims=True)
  expected = sum(
    weights[:, [k]] * ((x - offsets[k]) @ maps[k]) for k in range(3)
  )
  run = jax.jit(lambda params, *args: adapter.merge(params)(*args))
  found = run(params, jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  # Noise mixes the same whitenings otherwise.
  noisy = run(params, jnp.asarray(x, jnp.float32), jax.random.key(0))
  assert np.abs(noisy - found).max() > 1e-2


def test_ids_beside_texts_begin_as_nothing():
  mesh = antjax.make_mesh(devices=jax.devices()[:1])
  model = NextItemModel(SASREC, NUM_ITEMS, 10, num_experts=2, has_ids=True)
  tables = model.tables(mesh)
  rows = tables.to_canonical(tables.init(jax.random.key(0)))['item']['table']
  params = made(model.init_params)
  texts = vectors(NUM_ITEMS, 10, seed=4)
  items = jax.jit(model.items)
  alone = items(params, None, texts)
  both = items(params, rows[:NUM_ITEMS], texts)
  np.testing.assert_array_equal(both, alone)
  rows = np.array(rows)
  rows[3] = 1.0
  moved = items(params, rows[:NUM_ITEMS], texts)
  assert np.flatnonzero(np.any(moved != alone, axis=1)).tolist() == [3]
  batch = model.prepare(np.array([[3, 4, 0]]), np.array([[5]]))
  assert batch['ids']['sequence'].tolist() == batch['sequence'].tolist()


@ENCODERS
@pytest.mark.parametrize('text_dim', [0, 10])
def test_padding_and_older_items_change_nothing(encoder, text_dim):
  model = NextItemModel(encoder, NUM_ITEMS, text_dim)
  params = made(model.init_params)
  rows = vectors(NUM_ITEMS, text_dim or 16, seed=4)
  both = (None, rows) if text_dim else (rows, None)
  trained = TrainedNextItem(model, params, model.items(params, *both))
  short = np.array([[1, 2, 3], [4, 5, 0]])
  base = trained.user_vectors(short)
  wide = np.pad(short, [(0, 0), (0, 5)])
  np.testing.assert_allclose(trained.user_vectors(wide), base, rtol=1e-6)
  long = np.array([[9, 8, 7, 6, 5, 4, 3, 2, 1]])
  np.testing.assert_allclose(
    trained.user_vectors(long), trained.user_vectors(long[:, 3:]), rtol=1e-6
  )
  items = trained.item_vectors()
  assert items.shape == (NUM_ITEMS, 16)
  if text_dim:
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, rtol=1e-4)
  else:
    np.testing.assert_array_equal(items, rows)


def cycles(num, rng):
  """Sequences that go round: i is followed by i + 1, from 1 to 20."""
  first = rng.integers(0, 20, num)
  lengths = rng.integers(2, 8, num)
  sequence = (first[:, None] + np.arange(7)) % 20 + 1
  return np.where(np.arange(7) < lengths[:, None], sequence, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
  'encoder, text_dim, has_ids, paro, num_devices',
  [
    (SASREC, 0, False, 'NNN', 1),
    (GRU, 0, False, 'NNN', 1),
    (SASREC, 0, False, 'IIG', 8),
    (SASREC, 12, False, 'GGG', 8),
    (SASREC, 12, True, 'IIG', 8),
  ],
)
def test_learns_what_follows(encoder, text_dim, has_ids, paro, num_devices):
  mesh = antjax.make_mesh(
    intra=min(num_devices, 4), devices=jax.devices()[:num_devices]
  )
  model = NextItemModel(
    encoder,
    NUM_ITEMS,
    text_dim,
    learning_rate=0.02,
    num_experts=2,
    has_ids=has_ids,
  )
  texts = untrained.whiten(np.asarray(vectors(NUM_ITEMS, 12, seed=9)))
  tables = model.tables(mesh)

  def loss_fn(params, *rest):
    *rows, batch, rng = rest
    of_rows = of_texts = None
    if rows:
      ids = batch['ids']
      of_rows = tables.lookup(rows[0], ids)
    if text_dim:
      ids = {name: batch[name] for name in ('sequence', 'negatives')}
      table = jnp.asarray(texts)
      of_texts = {name: table[jnp.maximum(x, 0)] for name, x in ids.items()}
    return model.loss(params, ids, of_rows, rng, of_texts)

  trainer = antjax.Trainer(
    loss_fn,
    optax.adam(0.01),
    mesh=mesh,
    paro=paro,
    tables=tables,
    scanned=lambda name: '.layers.' in name,
    min_shard_size=1,
  )
  state = trainer.init(model.init_params(jax.random.key(0)))
  rng = np.random.default_rng(0)
  for _ in range(120):
    drawn = rng.integers(1, NUM_ITEMS, (32, 4))
    batch = model.prepare(cycles(32, rng), drawn)
    state, _ = trainer.step(state, batch)
  rows = None
  if tables is not None:
    rows = np.asarray(tables.to_canonical(state.tables)['item']['table'])
    rows = rows[:NUM_ITEMS]
  params = jax.tree.map(np.asarray, trainer.params(state))
  items = model.items(params, rows, texts if text_dim else None)
  trained = TrainedNextItem(model, params, items)
  history = cycles(64, rng)
  scores = trained.user_vectors(history) @ trained.item_vectors().T
  last = history[np.arange(64), (history > 0).sum(axis=1) - 1]
  best = scores[:, 1:].argmax(axis=1) + 1
  assert (best == last % 20 + 1).mean() > 0.9


def test_whitened_vectors():
  rng = np.random.default_rng(0)
  given = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + 3
  given = np.concatenate([given, given[:, :1]], axis=1)  # One direction less.
  found = untrained.whiten(given.astype(np.float32))
  assert not found[0].any()
  np.testing.assert_allclose(found[1:].mean(axis=0), 0, atol=1e-4)
  values = np.linalg.eigvalsh(np.cov(found[1:].T, bias=True))
  np.testing.assert_allclose(values, [0, 1, 1, 1, 1, 1], atol=1e-3)
