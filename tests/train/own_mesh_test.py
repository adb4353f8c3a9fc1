# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two axes of a user's mesh train by PaRO; the model splits over the others."""

import functools
import itertools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from antjax.collectives.layerwise import scan_layers
from antjax.embedding.layout import TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import VALID_CODES
from antjax.plan import census, plan_check
from antjax.train.trainer import Trainer
from tests.cases import covering, pairs, slow_but
from tests.train import paro_step_test
from tests.train import plain as plain_lib
from tests.train.elastic_control import Control
from tests.train.paro_step_test import BATCH, batches, optimizer, SUM_ORDER_ATOL

AUTO = {
  'up': P(None, 'model'),
  'bias': P('model'),
  'down': P('model'),
  'experts': P('model'),
}

SPLIT_LEVELS = ('intra', 'global')


def own_mesh(*axes, axis_types=None):
  """2 x 2 x 2 virtual devices."""
  axes = axes or ('model', 'data', 'fsdp')
  types = axis_types or (AxisType.Auto,) * 3
  return jax.make_mesh((2, 2, 2), axes, types)


def init_params():
  """Leaves that are even, odd in a dim, small and frozen."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32) * 0.3

  return {
    'up': normal(16, 26),
    'bias': normal(26),
    'down': normal(26, 13),
    'experts': normal(2, 13, 13),
    'odd': normal(13, 11),
    'frozen': normal(11, 11),
    'scale': np.float32(1.5),
  }


def loss_fn(params, batch, rng, split=lambda x, *axes: x):
  del rng
  up = split(params['up'], None, 'model')
  h = split(jnp.tanh(batch['x'] @ up + params['bias'][None]), None, 'model')
  h = jnp.tanh(h @ split(params['down'], 'model'))
  each = jnp.einsum('bi,eij->ebj', h, split(params['experts'], 'model'))
  h = jnp.tanh(split(each, 'model').sum(0))
  y = params['scale'] * (h @ params['odd'] @ params['frozen'])
  return jnp.mean(jnp.square(y - batch['y']), axis=-1), batch['weight']


def by_name(x, *axes):
  return lax.with_sharding_constraint(x, P(*axes))


split_loss_fn = functools.partial(loss_fn, split=by_name)


def make_trainer(code='IIG', loss=split_loss_fn, **kwargs):
  options = {
    'mesh': own_mesh(),
    'inter': 'data',
    'intra': 'fsdp',
    'trainable': lambda name: name != 'frozen',
    'min_shard_size': 8,
  }
  return Trainer(loss, optimizer(), paro=code, **(options | kwargs))


@functools.cache
def split_trainer():
  """One for several tests: its programs are compiled once."""
  return make_trainer(num_micro_batches=2, auto_specs=AUTO.get)


@pytest.fixture(scope='module')
def plain():
  return plain_lib.train(init_params(), loss_fn, optimizer(), batches())


def check_equal(trainer, plain):
  paro_step_test.check(trainer, expected=plain, start=init_params())


FAST = (('IIG', 2, True), ('GGG', 1, False))
CASES = covering(
  itertools.product(VALID_CODES, (1, 2), (False, True)), pairs, keep=FAST
)


@pytest.mark.parametrize(
  ('code', 'num_micro_batches', 'is_split'), slow_but(CASES, *FAST)
)
def test_every_code_equals_one_device(code, num_micro_batches, is_split, plain):
  if (code, num_micro_batches, is_split) == ('IIG', 2, True):
    trainer = split_trainer()
  else:
    trainer = make_trainer(
      code,
      num_micro_batches=num_micro_batches,
      auto_specs=AUTO.get if is_split else None,
    )
  check_equal(trainer, plain)


def test_a_named_sharding_and_set_mesh_of_the_users_mesh_count(plain):
  mesh = own_mesh()

  def named(x, *axes):
    return lax.with_sharding_constraint(x, NamedSharding(mesh, P(*axes)))

  loss = functools.partial(loss_fn, split=named)
  with jax.set_mesh(mesh):
    check_equal(make_trainer('NNN', loss), plain)


def test_the_state_is_split_over_other_axes_too():
  trainer = split_trainer()
  state, _ = trainer.step(trainer.init(init_params()), next(batches()))
  split = trainer.bytes_per_device()
  for name in ('params', 'opt_state'):
    leaves = jax.tree.leaves(getattr(state, name))
    assert sum(x.addressable_data(0).nbytes for x in leaves) == split[name]
  assert state.params['up'].sharding.spec == P('intra', 'model')
  whole = make_trainer()
  whole.init(init_params())
  for name, size in whole.bytes_per_device().items():
    assert split[name] < 0.7 * size


def test_nothing_leaves_a_group_between_micro_batches():
  trainer = split_trainer()
  state = trainer.init(init_params())
  inputs = trainer.step_inputs(next(batches()))
  text = trainer.compiled_step().lower(state, inputs).compile().as_text()
  found = census.collectives(text, trainer.mesh.shape)
  assert {c.inter_bytes for c in found if c.in_loop} == {0}
  assert any(c.inter_bytes for c in found)
  with pytest.raises(ValueError, match=r"automatic axes \('model',\)"):
    plan_check.compare(trainer.layout, found, num_micro_batches=2)


def test_predictions_are_one_row_for_each_example():
  trainer = split_trainer()
  state = trainer.init(init_params())

  def predict_fn(params, batch, rng):
    losses, _ = split_loss_fn(params, batch, rng)
    h = by_name(batch['x'] @ params['up'], None, 'model')
    return {'prediction': losses, 'label': losses, 'hidden': h}

  found = trainer.predict(state, batches(2), predict_fn)
  x = np.concatenate([batch['x'] for batch in batches(2)])
  np.testing.assert_allclose(
    found['hidden'], x @ init_params()['up'], rtol=1e-4, atol=1e-6
  )
  assert found['prediction'].shape == (2 * BATCH,)


@pytest.mark.slow
def test_a_checkpoint_goes_to_another_mesh_and_back(tmp_path):
  def fit(trainer, num_steps):
    state = trainer.init(init_params())
    return trainer.fit(
      state, batches(), num_steps, checkpoint_dir=str(tmp_path / 'run')
    )

  split = {'auto_specs': AUTO.get, 'compute_dtype': jnp.bfloat16}
  fit(make_trainer('IIG', **split), 1)
  other = {'mesh': make_mesh(intra=4), 'inter': 'inter', 'intra': 'intra'}
  there = make_trainer('NNG', loss_fn, compute_dtype=jnp.bfloat16, **other)
  expected = there.params(fit(there, 2))
  back = make_trainer('GGG', **split)
  state = fit(back, 2)
  jax.tree.map(np.testing.assert_array_equal, back.params(state), expected)
  assert state.params['up'].sharding.spec == P(('intra', 'inter'), 'model')


@pytest.mark.slow
def test_stacks_of_layers_are_gathered_one_by_one():
  rng = np.random.default_rng(0)
  layers = rng.normal(size=(4, 16, 16)).astype(np.float32) * 0.3

  def loss(params, batch, rng):
    del rng

    def layer(h, w):
      return jnp.tanh(h @ w)

    h = scan_layers(layer, batch['x'], params['layers'])
    return jnp.sum(jnp.square(h), axis=-1)

  found = []
  for options in (
    {'auto_specs': {'layers': P(None, None, 'model')}.get},
    {'mesh': make_mesh(intra=4), 'inter': 'inter', 'intra': 'intra'},
  ):
    trainer = make_trainer(
      'IIG', loss, scanned=lambda _: True, num_micro_batches=2, **options
    )
    state = trainer.init({'layers': layers})
    for batch in batches(2):
      state, _ = trainer.step(state, batch)
    found.append(trainer.params(state)['layers'])
  np.testing.assert_allclose(*found, atol=SUM_ORDER_ATOL)


def test_constants_keep_their_pieces():
  mesh = own_mesh()
  rows = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
  placed = jax.device_put(rows, NamedSharding(mesh, P(('data', 'fsdp'))))

  def loss(params, batch, rng):
    del rng
    return params['w'] * batch['constants'].sum(axis=1)[batch['at']]

  trainer = make_trainer(loss=loss, constants=placed, mesh=mesh)
  state = trainer.init({'w': np.float32(1)})
  _, metrics = trainer.step(state, {'at': np.tile([0, 1], 4)})
  np.testing.assert_allclose(metrics['loss'], rows.sum(axis=1).mean())
  placed = jax.device_put(rows, NamedSharding(mesh, P('model')))
  with pytest.raises(ValueError, match=r"split over \['model'\]"):
    make_trainer(constants=placed, mesh=mesh)


@pytest.mark.slow
def test_groups_do_their_own_number_of_micro_batches(plain):
  trainer = make_trainer('NIG', auto_specs=AUTO.get)
  state = trainer.init(init_params())
  state = trainer.fit(state, batches(), 3, elastic=Control())
  for name, value in plain[0].items():
    np.testing.assert_allclose(
      trainer.params(state)[name], value, atol=SUM_ORDER_ATOL, err_msg=name
    )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'inter': 'date'}, r'needed are two of them'),
    ({'inter': 'fsdp'}, r'needed are two of them'),
    ({'mesh': own_mesh('inter', 'data', 'fsdp')}, 'no other may be called so'),
    (
      {'mesh': Mesh(np.array(jax.devices()), ('fsdp',))},
      r'add an axis of size 1',
    ),
    (
      {'mesh': own_mesh(axis_types=(AxisType.Explicit,) * 3)},
      r"\('model', 'data', 'fsdp'\), axis_types=.*Auto,\) \* 3",
    ),
  ],
)
def test_a_mesh_that_does_not_do_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make_trainer(**options)


@pytest.mark.parametrize(
  'spec', [P('data'), P('fsdp'), P(None, None, 'model'), P(None, 'model')]
)
def test_a_leaf_that_cannot_be_split_so_is_refused(spec):
  trainer = make_trainer(auto_specs={'down': spec}.get)
  with pytest.raises(
    ValueError, match=r"down \(26, 13\).*axes of \('model',\)"
  ):
    trainer.init(init_params())


@pytest.mark.slow
@pytest.mark.parametrize('level', ['none', *SPLIT_LEVELS])
def test_tables_train_as_on_a_mesh_of_two_axes(level):
  found = []
  for mesh, names in (
    (own_mesh(), {'inter': 'data', 'intra': 'fsdp'}),
    (make_mesh(intra=2, devices=jax.devices()[:4]), {}),
  ):
    tables = EmbeddingTables(
      [TableSpec('item', 97, 4, level)], {'item': 'item'}, mesh=mesh, **names
    )

    def loss(params, rows, batch, rng, tables=tables):
      del rng
      x = tables.lookup(rows, batch['ids'])['item']
      return jnp.square(jnp.tanh(x) @ params['w'] - batch['y'])

    trainer = Trainer(
      loss, optax.adam(0.1), mesh=mesh, paro='IIG', tables=tables, **names
    )
    state = trainer.init({'w': np.ones(4, np.float32)})
    rng = np.random.default_rng(0)
    for _ in range(3):
      ids = rng.integers(0, 97, BATCH)
      y = rng.normal(size=BATCH).astype(np.float32)
      state, _ = trainer.step(state, {'ids': {'item': ids}, 'y': y})
    table = tables.to_canonical(state.tables)['item']['table']
    found.append((np.asarray(table)[:97], trainer.params(state)['w']))
  for one, other in zip(*found, strict=True):
    np.testing.assert_allclose(one, other, atol=SUM_ORDER_ATOL)


def test_tables_on_another_mesh_are_refused():
  tables = EmbeddingTables(
    [TableSpec('item', 64, 8)], {'item': 'item'}, mesh=make_mesh(intra=2)
  )
  with pytest.raises(ValueError, match='EmbeddingTables the same mesh, inter'):
    make_trainer(tables=tables)
