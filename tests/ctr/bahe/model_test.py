# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The click model: what each feature does, and what of it is trained."""

import dataclasses
import itertools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import antjax
from antjax.ctr import tuning
from antjax.ctr.bahe import model as model_lib
from antjax.layers.functional import params_of
from antjax.train.optimizer import OptimizerConfig
from tests.cases import slow_but
from tests.ctr.bahe import small_clicks


def device_batch(model, batch):
  """A prepared batch, as one device sees it, and vectors of its ids."""
  prepared = model.prepare(batch, 1)
  if model.tower is not None:
    prepared['constants'] = {'behavior_rows': small_clicks.vectors()}
  prepared = jax.tree.map(jnp.asarray, prepared)
  dim = model.ids.embedding_dim

  def vector(path, ids):
    table = jax.random.normal(jax.random.key(len(str(path))), (50, dim))
    return jnp.where(ids[..., None] < 0, 0, table[ids])

  ids = prepared.get('ids', {})
  return prepared, jax.tree.map_with_path(vector, ids)


def make(kind='dnn', tower=True, sizes=small_clicks.SIZES, **ids):
  mesh = antjax.make_mesh(intra=4)
  stored = small_clicks.store_model(mesh).tower
  return small_clicks.click_model(stored if tower else None, kind, sizes, **ids)


@pytest.mark.parametrize(
  'kind, tower',
  slow_but(
    itertools.product(('dnn', 'dcnv2', 'din'), (False, True)), ('dnn', False)
  ),
)
def test_every_feature_changes_the_logit_and_padding_does_not(kind, tower):
  model = make(kind, tower)
  batch = small_clicks.batch(6)
  prepared, vectors = device_batch(model, batch)
  logits = jax.jit(model.logits)
  base = np.asarray(logits(prepared, vectors))
  assert base.shape == (6,) and base.dtype == np.float32
  for name, found in vectors.items():
    moved = logits(prepared, vectors | {name: found + 1.0})
    # A history is moved only where there is one.
    changed = np.asarray(moved) != base
    has = (prepared['ids'][name].reshape(6, -1) >= 0).any(axis=1)
    np.testing.assert_array_equal(changed, np.asarray(has), err_msg=name)
  moved = logits(prepared | {'numeric': prepared['numeric'] + 1}, vectors)
  assert (np.asarray(moved) != base).all()
  assert (model.head.text is not None) == (kind == 'din' and tower)


def test_given_user_vectors_are_features():
  sizes = dataclasses.replace(small_clicks.SIZES, user_vector_dim=3)
  model = make(tower=False, sizes=sizes)
  batch = small_clicks.batch(4) | {'user_vector': np.ones((4, 3), np.float32)}
  prepared, vectors = device_batch(model, batch)
  logits = jax.jit(model.logits)
  base = logits(prepared, vectors)
  other = prepared | {'user_vector': prepared['user_vector'] * 2}
  assert (np.asarray(logits(other, vectors)) != base).all()


def test_tables_of_the_ids():
  mesh = antjax.make_mesh(intra=4)
  found = make().tables(mesh)
  rows = {name: spec.num_embeddings for name, spec in found.specs.items()}
  assert rows == {'user': 9, 'item': 12, 'behavior': 40, 'column_genre': 5}
  assert make(use=()).tables(mesh) is None
  assert set(make(use=('user',)).tables(mesh).specs) == {'user'}
  with pytest.raises(ValueError, match=r"\['price'\] unknown"):
    model_lib.IdConfig(use=('user', 'price'))
  with pytest.raises(ValueError, match='ids.embedding_dim=0'):
    model_lib.IdConfig(embedding_dim=0)


def test_what_is_trained():
  model = make('din')
  tuning.add_lora(model, rank=2, targets=('query', 'value'), rngs=nnx.Rngs(0))
  params = params_of(model)
  names = [
    jax.tree_util.keystr(path, simple=True, separator='.')
    for path, _ in jax.tree.leaves_with_path(params)
  ]
  full, lora, none = (
    {n for n in names if tuning.trainable(how)(n)}
    for how in ('full', 'lora', 'none')
  )
  assert full == set(names)
  high = {n for n in names if n.startswith('tower.high.')}
  assert none == full - high and 'tower.null' in none
  assert lora - none == {
    f'tower.high.layers.{name}_lora_{x}'
    for name in ('query', 'value')
    for x in 'ab'
  }
  share = tuning.frozen_share(params, tuning.trainable('none'), 1000)
  sizes = [x.size for x in jax.tree.leaves(params)]
  trained = sum(
    x.size for n, x in zip(names, jax.tree.leaves(params)) if n in none
  )
  assert share == pytest.approx(1 - trained / (sum(sizes) + 1000))


def test_places_of_behaviors_are_trained_beside_adapters():
  is_trained = tuning.trainable('lora')
  assert is_trained('tower.high.behavior_positions')
  assert not is_trained('tower.high.layers.query')


def test_a_tower_without_layers_takes_no_adapters():
  with pytest.raises(ValueError, match='no layers to put adapters in'):
    tuning.add_lora(
      make(tower=False), rank=2, targets=('query',), rngs=nnx.Rngs(0)
    )


def test_rates_of_the_language_model_and_the_head():
  params = {
    'tower': {'high': {'layers': {'query': jnp.ones((1, 2, 2))}}},
    'head': {'kernel': jnp.ones((2, 2))},
  }
  optimizer = OptimizerConfig(
    lm_learning_rate=1e-4,
    learning_rate=1e-2,
    warmup_steps=0,
    weight_decay=0.0,
  ).build(10, tuning.is_lm)
  grads = jax.tree.map(jnp.ones_like, params)
  state = jax.jit(optimizer.init)(params)
  updates, _ = jax.jit(optimizer.update)(grads, state, params)
  lm = updates['tower']['high']['layers']['query']
  ratio = np.asarray(updates['head']['kernel'] / lm[0])
  np.testing.assert_allclose(ratio, 100, rtol=1e-4)
  with pytest.raises(
    ValueError, match='optimizer.clip_norm must not be negative'
  ):
    OptimizerConfig(clip_norm=-1)
