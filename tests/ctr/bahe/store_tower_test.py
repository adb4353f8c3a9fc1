# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BAHE's tower: its three homes, its edges, and what of it is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.ctr import tuning
from antjax.jobs import trainer as trainer_lib
from antjax.layers import functional
from antjax.mesh import paro
from tests.ctr.bahe import small_clicks


def make_trainer(model, mesh, code='NNN', num_micro_batches=1, **options):
  tables = model.tables(mesh)
  merge, _ = functional.split(model)

  def loss_fn(params, rows, batch, rng):
    del rng
    return merge(params).loss(batch, tables.lookup(rows, batch['ids']))

  return antjax.Trainer(
    loss_fn,
    optax.sgd(0.3),
    mesh=mesh,
    paro=code,
    tables=tables,
    num_micro_batches=num_micro_batches,
    min_shard_size=16,
    trainable=tuning.trainable('full'),
    scanned=trainer_lib.is_stack,
    constants=getattr(model.tower.table, 'constants', None),
    **options,
  )


def train(model, mesh, num_steps=2, **options):
  """Parameters and losses of a few steps on 32 clicks each."""
  num_micro_batches = options.get('num_micro_batches', 1)
  trainer = make_trainer(model, mesh, **options)
  state, losses = trainer.init(functional.params_of(model)), []
  for i in range(num_steps):
    batch = small_clicks.batch(30, size=32, seed=i)
    prepared = model.prepare(batch, 8 * num_micro_batches)
    state, metrics = trainer.step(state, prepared)
    losses.append(float(metrics['loss']))
  found = jax.tree.map(np.asarray, trainer.params(state))
  return found, losses, trainer, state


@pytest.fixture(scope='module')
def plain():
  mesh = antjax.make_mesh(intra=4)
  return train(small_clicks.store_model(mesh, examples=4), mesh)


def assert_same(found, expected, atol=2e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5),
    found,
    expected,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'home, num_micro_batches',
  [('split', 2), ('split', 1), ('group', 2), ('host', 1), ('host', 2)],
)
def test_three_homes_train_alike(plain, home, num_micro_batches):
  mesh = antjax.make_mesh(intra=4)
  table = small_clicks.place(
    mesh,
    home if home == 'host' else 'split',
    4 // num_micro_batches,
    inside_groups=home == 'group',
  )
  tower = small_clicks.store_tower(table)
  found, losses, _, _ = train(
    small_clicks.click_model(tower), mesh, num_micro_batches=num_micro_batches
  )
  np.testing.assert_allclose(losses, plain[1], rtol=1e-5)
  assert_same(found, plain[0])


@pytest.mark.slow
def test_a_split_table_takes_rounds_where_one_owner_has_most():
  mesh = antjax.make_mesh(intra=4)
  whole = small_clicks.place(mesh, 'split', 4)
  tight = dataclasses.replace(
    whole, exchange=dataclasses.replace(whole.exchange, capacity=1)
  )
  batch = small_clicks.batch(30, size=32)
  assert (tight.prepare(batch, 8)['behavior_halvings'] > 0).any()
  tower = small_clicks.store_tower(tight)
  found, _, _, _ = train(small_clicks.click_model(tower), mesh, 1)
  model = small_clicks.store_model(mesh, 'device', 4)
  expected, _, _, _ = train(model, mesh, 1)
  assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize('code', paro.VALID_CODES)
def test_every_code_is_plain_data_parallelism(plain, code):
  mesh = antjax.make_mesh(intra=4)
  model = small_clicks.store_model(mesh, examples=4)
  found, losses, _, _ = train(model, mesh, code=code)
  np.testing.assert_allclose(losses, plain[1], rtol=1e-5)
  assert_same(found, plain[0])


def test_a_user_is_their_newest_known_behaviors():
  mesh = antjax.make_mesh(intra=4)
  tower = small_clicks.store_model(mesh).tower
  constants = {'constants': {'behavior_rows': small_clicks.vectors()}}

  def encode(batch):
    prepared = tower.prepare(batch, 1) | constants
    return np.asarray(jax.jit(tower)(prepared).user_BF)

  batch = small_clicks.batch(3)
  # Of 9 behaviors the newest 6; of none, the null vectors, which are 0 here.
  assert (batch['behaviors'][2, 0] > 0).all()
  found = encode(batch)
  np.testing.assert_array_equal(found[0, :16], 0)
  assert np.abs(found[1:, :16]).min() > 0
  # A behavior that the vocabulary lacks is row 1, a text like any other.
  unknown = np.zeros((1, 2, 6), np.int32)
  unknown[0, 0, 0] = 1
  row = jnp.asarray(small_clicks.vectors()[1])
  x_BNMD = jnp.zeros((1, 2, 6, 16)).at[0, 0, 0].set(row)
  expected = jax.jit(tower.encode)(x_BNMD, unknown > 0, row[None])
  np.testing.assert_allclose(
    encode({'behaviors': unknown, 'title': np.array([1])}),
    expected.user_BF,
    rtol=1e-6,
  )


def test_only_high_half_and_head_are_trained(plain):
  mesh = antjax.make_mesh(intra=4)
  model = small_clicks.store_model(mesh)
  before = functional.params_of(model)
  after, _, trainer, state = plain
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
  assert jax.tree.all(moved['tower']) and jax.tree.all(moved['head'])
  # Two of three layers; the rows of the table are nowhere in the state.
  layers = state.params['tower']['high']['layers']
  assert {x.shape[0] for x in jax.tree.leaves(layers)} == {2}
  sizes = {x.shape for x in jax.tree.leaves(trainer.params(state))}
  assert (small_clicks.NUM_BEHAVIORS, 16) not in sizes
