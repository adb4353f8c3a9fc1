# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Faults that reviews have found, each with its case."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.checkpoint import Checkpointer
from antjax.train.trainer import Trainer


def loss_fn(params, batch, rng):
  del rng
  return jnp.square(batch @ params['w'] + params['b'] - 1)


PARAMS = {'w': np.ones(16, np.float32), 'b': np.float32(0)}
BATCH = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)


def make_trainer(optimizer, loss=loss_fn, code='IIG', **kwargs):
  return Trainer(
    loss,
    optimizer,
    mesh=make_mesh(intra=4),
    paro=code,
    min_shard_size=8,
    **kwargs,
  )


@pytest.mark.parametrize(
  'optimizer',
  [
    optax.multi_transform(
      {'adam': optax.adam(0.1), 'sgd': optax.sgd(0.1)},
      {'w': 'adam', 'b': 'sgd'},
    ),
    optax.masked(optax.adam(0.1), {'w': True, 'b': False}),
  ],
  ids=['multi_transform', 'masked'],
)
def test_optimizers_inside_optimizers(optimizer):
  trainer = make_trainer(optimizer)
  state = trainer.init(PARAMS)
  split = [
    x for x in jax.tree.leaves(state.opt_state) if not x.is_fully_replicated
  ]
  assert len(split) == 2  # Both moments of w.
  state, _ = trainer.step(state, BATCH)
  params, opt_state = jax.tree.map(jnp.asarray, PARAMS), optimizer.init(PARAMS)
  grads = jax.grad(lambda p: loss_fn(p, BATCH, None).mean())(params)
  updates, _ = optimizer.update(grads, opt_state, params)
  expected = optax.apply_updates(params, updates)
  np.testing.assert_allclose(
    trainer.params(state)['w'], expected['w'], atol=1e-6
  )


class Listed(nnx.Module):
  def __init__(self):
    self.layer = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    self.empty = nnx.List([nnx.Dropout(0.5)])


@pytest.mark.parametrize(
  'make', [lambda: {'a.b': np.full(16, 5.0), 'a': {'b': np.ones(9)}}, Listed]
)
def test_names_that_files_would_confuse_stay_apart(make, tmp_path):
  params = make()
  trainer = make_trainer(optax.sgd(0.1, momentum=0.9))
  state = trainer.init(params)
  with Checkpointer(str(tmp_path), trainer.layout) as saver:
    saver.save(0, state)
    restored, _ = saver.restore()
  jax.tree.map(np.testing.assert_array_equal, trainer.params(restored), params)


@pytest.mark.parametrize('dtype', [np.uint8, np.int8, np.int16, np.int64])
def test_ids_of_any_width_find_the_same_rows(dtype):
  tables = EmbeddingTables(
    [TableSpec(n, 120, 4, 'global', init_scale=1.0) for n in ('a', 'b', 'c')],
    {n: n for n in ('a', 'b', 'c')},
    mesh=make_mesh(intra=4),
  )
  ids = {n: np.arange(16, dtype=dtype) * 7 for n in ('a', 'b', 'c')}
  wide = {n: x.astype(np.int32) for n, x in ids.items()}
  jax.tree.map(
    np.testing.assert_array_equal,
    tables.prepare(ids, 8),
    tables.prepare(wide, 8),
  )


def test_a_lost_gradient_is_not_saved(tmp_path):
  trainer = make_trainer(
    optax.sgd(0.1), lambda p, b, r: jnp.sqrt(jnp.abs(b @ p['w'])) + 1
  )
  state = trainer.init({'w': np.zeros(16, np.float32)})
  with pytest.raises(RuntimeError, match='norm of its gradient nan'):
    trainer.fit(
      state, [BATCH] * 3, 3, checkpoint_dir=str(tmp_path), checkpoint_every=1
    )
  assert not [p for p in tmp_path.iterdir() if p.name.isdigit()]


def test_a_metric_without_value_is_the_worst(tmp_path):
  scores = iter([0.5, 0.1, float('nan'), 0.3, 0.6, 0.7])
  trainer = make_trainer(optax.sgd(0.01))
  trainer.fit(
    trainer.init(PARAMS),
    [BATCH] * 6,
    6,
    checkpoint_dir=str(tmp_path),
    keep=1,
    best_metric='mae',
    evaluate_fn=lambda _: {'mae': next(scores)},
    evaluate_every=1,
  )
  kept = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
  assert kept == [2, 6]


def test_bf16_parameters_keep_one_program_and_true_bytes():
  trainer = make_trainer(optax.adam(0.1))
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PARAMS)
  state = trainer.init(params)
  for _ in range(2):
    state, _ = trainer.step(state, BATCH)
  assert trainer.compiled_step()._cache_size() == 1
  held = sum(
    x.addressable_shards[0].data.nbytes
    for x in jax.tree.leaves(state.opt_state)
  )
  assert trainer.bytes_per_device()['opt_state'] == held


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'best_mode': 'minimum'}, "best_mode 'min' or 'max'"),
    ({'keep': 0}, 'keep must be at least 1'),
    ({'best_metric': 'mae'}, 'needs an evaluate_fn'),
    ({'config': {'a': np.float32(1)}}, 'float32 is not JSON serializable'),
    (
      {'best_metric': 'mea', 'evaluate_fn': lambda state: {'mae': 1.0}},
      r"best_metric='mea'.*metrics are \['mae'\]",
    ),
  ],
)
def test_bad_checkpoint_options_are_refused(tmp_path, kwargs, message):
  trainer = make_trainer(optax.sgd(0.1))
  with pytest.raises(ValueError, match=message):
    trainer.fit(
      trainer.init(PARAMS), [BATCH], 1, checkpoint_dir=str(tmp_path), **kwargs
    )


@jax.tree_util.register_pytree_node_class
class Callable:
  """As an Equinox module: a pytree that is called on its input."""

  def __init__(self, w):
    self.w = w

  def __call__(self, x):
    return x @ self.w

  def tree_flatten(self):
    return (self.w,), None

  @classmethod
  def tree_unflatten(cls, aux, children):
    return cls(*children)


def test_a_pytree_that_can_be_called_is_no_init_function():
  trainer = make_trainer(optax.sgd(0.1), lambda p, b, r: jnp.square(p(b)))
  state = trainer.init(Callable(np.ones(16, np.float32)))
  state, metrics = trainer.step(state, BATCH)
  assert float(metrics['loss']) > 0


@pytest.mark.parametrize('is_init', [False, True])
@pytest.mark.parametrize(
  ('leaf', 'kind'),
  [(jnp.tanh, 'type'), ('mlp', 'type str'), (np.array(['a']), 'dtype <U1')],
)
def test_leaves_that_are_no_numbers_are_explained(leaf, kind, is_init):
  params = {'w': np.ones(16, np.float32), 'layers': [{'act': leaf}]}
  message = rf"params\['layers'\]\[0\]\['act'\] is of {kind}.*eqx.partition"
  with pytest.raises(ValueError, match=message):
    make_trainer(optax.sgd(0.1)).init(
      (lambda key: params) if is_init else params
    )


def test_a_random_key_among_parameters_is_explained():
  params = PARAMS | {'key': jax.random.key(0)}
  with pytest.raises(ValueError, match='leaf key is a random key.*nnx.split'):
    make_trainer(optax.sgd(0.1)).init(params)


def test_params_without_a_leaf_are_explained():
  with pytest.raises(ValueError, match='params has no leaf'):
    make_trainer(optax.sgd(0.1)).init({})


@pytest.mark.parametrize(
  ('ids', 'message'),
  [
    (np.arange(16), 'it must be a nested dict'),
    ([np.arange(16)], 'it must be a nested dict'),
    ({'a': np.arange(15)}, 'multiple of 8'),
  ],
)
def test_malformed_ids_are_explained(ids, message):
  tables = EmbeddingTables(
    [TableSpec('a', 100, 4)], {'a': 'a'}, mesh=make_mesh(intra=4)
  )
  with pytest.raises(ValueError, match=message):
    tables.prepare(ids, 8)
