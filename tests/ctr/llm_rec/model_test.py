# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LLM-Rec's step against the recipe, done plainly; devices against one."""

import dataclasses
import functools
import types

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.ctr import tuning
from antjax.ctr.llm_rec import packing
from antjax.ctr.llm_rec.inputs import TrainingInputs
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.model import init_words, LLMRec, VectorConfig
from antjax.layers import functional
from antjax.lm import packed
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from tests.ctr.llm_rec import small_catalogue
from tests.ctr.llm_rec.small_catalogue import COUNTS, DOMAINS
from tests.lm import tiny_models

B = 8
FAMILIES = ['bert', 't5', 'opt', 'llama']


def inputs_of(family, loss, part=B, **options):
  found = TrainingInputs(
    small_catalogue.text_maker(family),
    loss,
    DOMAINS,
    COUNTS,
    examples_per_part=part,
    **options,
  )
  samples = [small_catalogue.examples(part, seed) for seed in range(8)]
  found.fit(samples)
  return found


def model_of(family, loss, pooling=None, **options):
  config = tiny_models.CONFIGS[family]
  return LLMRec(
    Transformer.of(config, tiny_models.params_of(config)),
    pooling or small_catalogue.MARKS[family].pooling,
    loss_config=loss,
    rarity_V=small_catalogue.text_maker('bert').rarity(config.vocab_size),
    rngs=nnx.Rngs(0),
    **options,
  )


def recipe(family, lm, batch, negatives):
  """The official code's loss: 1 + J encodings an example, all padded alike."""
  marks = small_catalogue.MARKS[family]
  rows = small_catalogue.rows()
  items = np.concatenate([batch['target'][:, None], negatives], axis=1)
  texts = [h[h != 0] for h in batch['history']] + [[i] for i in items.ravel()]
  tokens = np.zeros((len(texts), 24), np.int32)
  mask = np.zeros_like(tokens)
  for i, ids in enumerate(texts):
    text = [*marks.leading, *np.concatenate([rows[j] for j in ids])]
    text += marks.trailing
    tokens[i, : len(text)] = text
    mask[i, : len(text)] = 1
  x_MTD = jax.jit(Transformer.hidden)(lm, tokens, mask)
  last = mask.sum(axis=1) - 1 if marks.pooling == 'last' else 0 * mask[:, 0]
  vectors = np.asarray(x_MTD)[np.arange(len(texts)), last]
  users, items = vectors[:B], vectors[B:].reshape(B, -1, vectors.shape[1])
  scores = np.einsum('bd,bjd->bj', users, items)
  return -np.asarray(jax.nn.log_softmax(scores, axis=1))[:, 0]


@pytest.mark.parametrize('family', FAMILIES)
def test_the_loss_is_the_recipes(family):
  loss = LossConfig(num_negatives=3)
  inputs = inputs_of(family, loss)
  batch = small_catalogue.examples(B, seed=1)
  prepared = inputs(batch, 1)
  model = model_of(family, loss)
  got, weights = jax.jit(LLMRec.loss)(model, prepared)
  # What was drawn, once more.
  forbidden = np.concatenate([batch['target'][:, None], batch['seen']], axis=1)
  drawn = inputs._sampler.draw(batch['key'], batch['domain'], forbidden, 3)
  want = recipe(family, model.lm, batch, drawn)
  np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
  np.testing.assert_array_equal(weights, 1)


def test_each_distinct_item_is_encoded_once():
  inputs = inputs_of('bert', LossConfig(num_negatives=10))
  batch = small_catalogue.examples(B, seed=2)
  prepared = inputs(batch, 1)
  encoded = (prepared['lengths'][B:] > 0).sum()
  assert encoded <= 30 < B * 11
  lengths = prepared['lengths']
  tokens = sum((texts > 0).sum() for _, texts in prepared['lanes'])
  assert tokens == lengths.sum()


@pytest.mark.parametrize(
  ('vector', 'pooling'),
  [
    (VectorConfig(normalize=True, half_life=3, word_dim=5), 'mean'),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        (VectorConfig(projection_dim=6, normalize=True), 'mean'),
        (VectorConfig(normalize=True), 'first'),
        (VectorConfig(), 'last'),
        (VectorConfig(normalize=True, word_dim=5, word_weight=3), 'first'),
      )
    ),
  ],
)
def test_packed_and_padded_texts_have_the_same_vectors(vector, pooling):
  loss = LossConfig()
  inputs = inputs_of('bert', loss)
  prepared = inputs(small_catalogue.examples(B, seed=3), 1)
  model = model_of('bert', loss, pooling, vector=vector)
  lanes = [packed.Lane(*lane) for lane in prepared['lanes']]
  got = jax.jit(LLMRec.encode_packed)(
    model, lanes, prepared['starts'], prepared['lengths']
  )
  flat = np.concatenate([tokens.ravel() for tokens, _ in prepared['lanes']])
  lengths = prepared['lengths']
  padded = np.zeros((len(lengths), 24), np.int32)
  for i, (start, length) in enumerate(zip(prepared['starts'], lengths)):
    padded[i, :length] = flat[start : start + length]
  want = jax.jit(LLMRec.encode)(model, padded, lengths)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
  assert got.shape[1] == model.dim
  assert (np.asarray(got)[lengths == 0] == 0).all()


def test_half_life_and_words_as_documented():
  half_life, weight = 3.0, 2.0
  vector = VectorConfig(
    normalize=True, half_life=half_life, word_dim=5, word_weight=weight
  )
  model = model_of('bert', LossConfig(), 'mean', vector=vector)
  tokens = np.array([[3, 7, 7, 9], [5, 2, 0, 0]], np.int32)
  lengths = np.array([4, 2])
  got = np.asarray(jax.jit(LLMRec.encode)(model, tokens, lengths))
  table = np.asarray(model.head.words.embedding[...])

  def unit(x):
    return x / np.linalg.norm(x)

  hidden = jax.jit(Transformer.hidden)
  for row, length, vector in zip(tokens, lengths, got, strict=True):
    row = row[:length]
    counts = 2.0 ** (-(length - 1 - np.arange(length)) / half_life)
    outputs = np.asarray(hidden(model.lm, row[None]))[0]
    parts = unit(counts @ outputs) / 3**0.5, unit(counts @ table[row])
    want = np.concatenate([parts[0], (2 / 3) ** 0.5 * parts[1]])
    np.testing.assert_allclose(vector, want, atol=1e-4)
  assert np.linalg.norm(got, axis=1) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize('family', ['bert', 'opt'])
def test_words_begin_as_long_as_they_are_rare(family):
  texts = small_catalogue.text_maker(family)
  rows = small_catalogue.rows()
  vocab_size = tiny_models.CONFIGS[family].vocab_size
  marks = (*texts.marks.leading, *texts.marks.trailing)
  rarity = texts.rarity(vocab_size)
  number = len(rows) - 1  # Row 0 is the padding.
  for token in range(vocab_size):
    there = sum(token in row for row in rows[1:])
    want = np.log(1 + number / (1 + there))
    want = 0 if token in marks else want
    assert rarity[token] == pytest.approx(want, rel=1e-5)
  table = np.asarray(init_words(jax.random.key(0), rarity, 4096))
  lengths = np.linalg.norm(table, axis=1)
  np.testing.assert_allclose(lengths, rarity, rtol=0.1)


def test_the_heaviest_words_have_dimensions_of_their_own():
  number = 1000
  counts = np.array([0, 1, 3, 10, 30, 100, 300, 900])
  rarity = np.log1p(number / (1 + counts)).astype(np.float32)
  rarity[0] = 0  # A mark.
  table = init_words(jax.random.key(0), rarity, 6)
  gram = np.asarray(table @ table.T)
  heaviest = np.argsort(-(rarity**2) * (1 + counts))[:3]
  assert set(heaviest) == {5, 6, 7}
  for token in heaviest:
    others = np.delete(gram[token], token)
    np.testing.assert_array_equal(others, 0)
    assert gram[token, token] == pytest.approx(rarity[token] ** 2, rel=1e-5)
  assert gram[0, 0] == 0 and abs(gram[2, 3]) > 0


@pytest.mark.slow
def test_words_learn_and_the_language_model_too():
  loss = LossConfig(negatives='in_batch')
  prepared = inputs_of('bert', loss)(small_catalogue.examples(B, seed=7), 1)
  vector = VectorConfig(normalize=True, half_life=8, word_dim=6)
  merge, params = functional.split(
    model_of('bert', loss, 'mean', vector=vector)
  )
  grads = jax.jit(jax.grad(lambda p: jnp.sum(merge(p).loss(prepared)[0])))(
    params
  )
  used = np.unique(np.concatenate([t[x > 0] for t, x in prepared['lanes']]))
  moving = np.asarray(grads['head']['words']['embedding'])
  moved = np.flatnonzero(np.abs(moving).max(axis=1))
  assert set(moved) <= set(used) and len(moved) > len(used) / 2
  assert all(np.abs(np.asarray(g)).max() > 0 for g in _weights(grads['lm']))


def _weights(grads):
  """Gradients of matrices; keys' biases change nothing."""
  return [g for g in jax.tree.leaves(grads) if g.ndim > 1]


def test_settings_of_vectors_that_do_not_fit():
  with pytest.raises(ValueError, match='add --vector.normalize'):
    VectorConfig(word_dim=4)
  with pytest.raises(ValueError, match='no words to weigh'):
    VectorConfig(word_weight=2)
  with pytest.raises(ValueError, match='one token is read'):
    model_of('bert', None, 'first', vector=VectorConfig(half_life=3))
  with pytest.raises(ValueError, match='word_weight=0'):
    VectorConfig(normalize=True, word_dim=4, word_weight=0)
  with pytest.raises(ValueError, match='half_life=-1'):
    VectorConfig(half_life=-1)


def mesh_of(num_devices):
  devices = jax.devices()[:num_devices]
  return make_mesh(devices=devices, intra=max(1, num_devices // 2))


def train_step(mesh, loss, batch, paro='NNN', num_chunks=1, vector=None):
  """Parameters after a step, and its loss; `batch` is this process's."""
  part = B // mesh.size
  inputs = inputs_of(
    'bert',
    loss,
    part,
    pool_parts=mesh.size,
    num_chunks=num_chunks,
  )
  merge, params = functional.split(
    model_of(
      'bert', loss, num_chunks=num_chunks, vector=vector or VectorConfig()
    )
  )
  trainer = Trainer(
    lambda params, batch, rng: merge(params).loss(batch),
    optax.sgd(0.1),
    mesh=mesh,
    paro=paro,
    scanned=lambda name: '.layers.' in name,
    min_shard_size=64,
  )
  state = trainer.init(jax.tree.map(np.asarray, params))
  num_parts = len(mesh.local_devices)
  state, metrics = trainer.step(state, inputs(batch, num_parts))
  return jax.tree.map(np.asarray, trainer.params(state)), float(metrics['loss'])


def assert_same(got, want):
  assert got[1] == pytest.approx(want[1], rel=1e-4)
  for a, b in zip(
    jax.tree.leaves(got[0]), jax.tree.leaves(want[0]), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


IN_BATCH = LossConfig(negatives='in_batch', across='all', in_domain=False)


@functools.cache
def step_of_one_device():
  return train_step(mesh_of(1), IN_BATCH, small_catalogue.examples(B, seed=4))


@pytest.mark.slow
@pytest.mark.parametrize('paro', ['IIG', 'NNN', 'GGG'])
def test_negatives_of_8_devices_equal_those_of_one(paro):
  batch = small_catalogue.examples(B, seed=4)
  assert_same(
    train_step(mesh_of(8), IN_BATCH, batch, paro), step_of_one_device()
  )


@pytest.mark.slow
def test_words_of_8_devices_equal_those_of_one():
  batch = small_catalogue.examples(B, seed=4)
  vector = VectorConfig(normalize=True, half_life=6, word_dim=8)
  found = [
    train_step(mesh_of(n), IN_BATCH, batch, code, vector=vector)
    for n, code in ((8, 'IIG'), (1, 'NNN'))
  ]
  assert_same(*found)


@pytest.mark.slow
def test_without_a_gather_a_device_knows_its_own_negatives():
  batch = small_catalogue.examples(B, seed=4)
  alone = dataclasses.replace(IN_BATCH, across='device')
  loss = train_step(mesh_of(2), alone, batch)[1]
  assert loss < 0.9 * step_of_one_device()[1]


@pytest.mark.slow
def test_chunks_of_a_large_batch_give_the_plain_gradient():
  batch = small_catalogue.examples(B, seed=5)
  loss = LossConfig(negatives='shared', num_negatives=6)
  prepared = inputs_of('bert', loss, num_chunks=2)(batch, 1)
  found = []
  for num_chunks in (1, 2):
    model = model_of('bert', loss, num_chunks=num_chunks)
    merge, params = functional.split(model)

    def total(params, merge=merge):
      return jnp.sum(merge(params).loss(prepared)[0])

    value, grads = jax.jit(jax.value_and_grad(total))(params)
    found.append((jax.tree.map(np.asarray, grads), float(value)))
  assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)
  plain, chunked = (jax.tree.leaves(grads) for grads, _ in found)
  # Keys' biases change nothing: their gradient is noise.
  size = max(np.abs(a).max() for a in plain)
  for a, b in zip(plain, chunked, strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6 * size)


def test_an_example_without_room_has_no_weight():
  loss = LossConfig(negatives='in_batch')
  inputs = inputs_of('bert', loss)
  batch = small_catalogue.examples(B, seed=6)
  ((width, rows),) = inputs.shapes[-1]
  inputs.shapes = ((packing.LaneShape(width, 2 * rows // 3),),)
  prepared = inputs(batch, 1)
  num_out = int((prepared['weight'] == 0).sum())
  assert 0 < num_out < B
  assert inputs.num_left_out == num_out
  model = model_of('bert', loss)
  losses, _ = jax.jit(LLMRec.loss)(model, prepared)
  assert np.isfinite(np.asarray(losses)).all()


def test_what_is_trained():
  vector = VectorConfig(projection_dim=4)
  model = model_of('bert', None, 'first', vector=vector)
  tuning.add_lora(model, rank=2, targets=('query', 'value'), rngs=nnx.Rngs(1))
  params = functional.params_of(model)
  names = [
    jax.tree_util.keystr(path, simple=True, separator='.')
    for path, _ in jax.tree.leaves_with_path(params)
  ]
  trained = {
    how: {name for name in names if tuning.trainable(how)(name)}
    for how in ('full', 'lora', 'none')
  }
  head = {'head.projection.bias', 'head.projection.kernel'}
  assert trained['full'] == set(names) and trained['none'] == head
  adapters = {
    f'lm.layers.{name}_lora_{part}'
    for name in ('query', 'value')
    for part in 'ab'
  }
  assert trained['lora'] == head | adapters


def test_adapters_that_no_family_has_are_refused_at_the_start():
  config = dataclasses.replace(tiny_models.CONFIGS['llama'], norm='layer')
  lm = Transformer(config, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='could not be saved.*use tuning=full'):
    tuning.add_lora(types.SimpleNamespace(lm=lm), rank=2, rngs=nnx.Rngs(0))
