# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click models over tables, in a trainer."""

import jax
import numpy as np
import optax
import pytest

import antjax
from antjax.ctr.antm2c.clicks import ScenarioClicks, TextVectors
from antjax.ctr.antm2c.fields import FieldConfig
from antjax.ctr.antm2c.model import DataSizes, ScenarioModel
from antjax.networks import moments
from antjax.networks.load import NetworkConfig

NETWORK = NetworkConfig(
  widths=(8,),
  tower_widths=(4,),
  expert_widths=(8,),
  num_experts=2,
  gate_width=4,
)
SIZES = DataSizes(
  num_users=9,
  num_items=7,
  num_behaviors=6,
  num_scenarios=2,
  columns={'city': 5, 'sex': 3},
  num_numeric=2,
  max_history=3,
  modal={'text_title': 4},
  labels=('click', 'sale'),
)


def clicks(size=64, seed=0):
  rng = np.random.default_rng(seed)
  tops = (9, 7, 6, 2, 5, 3)
  starts = rng.integers(0, 20, (size, 1))
  return ScenarioClicks(
    names=('user', 'item', 'title', 'scenario', 'column_city', 'column_sex'),
    ids=np.stack([rng.integers(0, n, size) for n in tops], 1).astype(np.int32),
    label=rng.integers(0, 2, size).astype(np.float32),
    numeric=rng.normal(size=(size, 2)).astype(np.float32),
    starts=starts,
    stops=starts + rng.integers(0, 4, (size, 1)),
    events=(rng.integers(1, 6, 30).astype(np.int32),),
    history=0,
    max_history=3,
    text=TextVectors(rng.normal(size=(6, 4)).astype(np.float16), ()),
    labels=rng.integers(0, 2, (size, 1)).astype(np.float32),
  )


def model_of(name, **fields):
  config = FieldConfig(embedding_dim=4, learning_rate=0.05, **fields)
  return ScenarioModel(name, config, NETWORK, SIZES)


def trainer_of(model, paro='NNN', intra=1):
  mesh = antjax.make_mesh(intra=intra, devices=jax.devices()[: 2 * intra])
  tables = model.tables(mesh, 0.05, num_examples=64)

  def loss(params, rows, batch, rng):
    return model.loss(params, tables.lookup(rows, batch['ids']), batch, rng)

  trainer = antjax.Trainer(
    loss,
    optax.adam(0.02),
    mesh=mesh,
    paro=paro,
    tables=tables,
    min_shard_size=1,
  )
  return trainer, tables


def train(model, num_steps=3, **options):
  trainer, _ = trainer_of(model, **options)
  state = trainer.init(model.init_params, seed=0)
  batch = model.prepare(clicks().batch(np.arange(64), 64))
  losses = []
  for _ in range(num_steps):
    state, values = trainer.step(state, batch)
    losses.append(float(values['loss']))
  return trainer, state, losses


@pytest.mark.parametrize(
  'name',
  [
    'esmm',
    *(
      pytest.param(n, marks=pytest.mark.slow) for n in ('deepfm', 'din', 'ple')
    ),
  ],
)
def test_training_on_devices_under_a_code_learns(name):
  model = model_of(name)
  _, _, losses = train(model, num_steps=12, paro='IIG', intra=2)
  assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_tables_and_codes_do_not_show():
  plain = train(model_of('deepfm', level='none'))[2]
  split = train(model_of('deepfm', level='global'), paro='IIG', intra=2)[2]
  np.testing.assert_allclose(plain, split, rtol=2e-5)


def test_fields_are_those_that_are_asked_for():
  model = model_of('mlp')
  assert model.field_names == (
    *('user', 'item', 'title', 'scenario', 'column_city', 'column_sex'),
    *('history', 'numeric'),
  )
  model = model_of('mlp', use=('item', 'text'))
  assert model.field_names == ('item', 'scenario')
  prepared = model.prepare(clicks().batch(np.arange(4), 4))
  assert set(prepared['ids']) == {'fields_none'}
  assert prepared['ids']['fields_none'].shape == (4, 2)
  assert 'text_title' in prepared and 'numeric' not in prepared


def test_dropout_is_of_training_alone():
  model = model_of('mlp', dropout=0.5)
  params = model.init_params(jax.random.key(0))
  batch = model.prepare(clicks().batch(np.arange(64), 64))
  vectors = jax.tree.map(
    lambda ids: np.random.default_rng(0).normal(size=(*ids.shape, 4)),
    batch['ids'],
  )

  def losses(rng, model=model):
    return np.asarray(model.loss(params, vectors, batch, rng)[0])

  whole, dropped = losses(None), losses(jax.random.key(1))
  assert np.abs(whole - dropped).max() > 1e-3
  assert np.abs(losses(jax.random.key(2)) - dropped).max() > 1e-3
  np.testing.assert_array_equal(losses(jax.random.key(1)), dropped)
  np.testing.assert_array_equal(
    losses(jax.random.key(1), model_of('mlp')), whole
  )


def test_a_pooled_model_is_not_told_the_scenario():
  batch = clicks().batch(np.arange(64), 64)
  told, pooled = model_of('star'), model_of('star', knows_scenario=False)
  assert told.field_names == pooled.field_names
  seen, hidden = told.prepare(batch), pooled.prepare(batch)
  assert len(set(seen['scenario'])) > 1 and not hidden['scenario'].any()
  (group,) = hidden['ids'].keys() - {'history'}
  place = pooled.field_names.index('scenario')
  assert not hidden['ids'][group][:, place].any()
  np.testing.assert_array_equal(
    np.delete(hidden['ids'][group], place, axis=1),
    np.delete(seen['ids'][group], place, axis=1),
  )
  assert len(set(batch['ids'][:, 3])) > 1  # The batch is as it was.


def test_large_tables_are_spread_and_looked_up_apart():
  sizes = DataSizes(
    num_users=20_000,
    num_items=7,
    num_behaviors=6,
    num_scenarios=2,
    columns={},
  )
  use = ('user', 'item')
  model = ScenarioModel('mlp', FieldConfig(use=use), NETWORK, sizes)
  prepared = model.prepare(clicks().batch(np.arange(4), 4))
  assert {n: x.shape for n, x in prepared['ids'].items()} == {
    'fields_global': (4, 1),
    'fields_none': (4, 2),
  }
  assert model.field_names == ('user', 'item', 'scenario')


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'use': ('user', 'picture')}, 'picture'),
    ({'use': ('user', 'image')}, '--image_vectors'),
    ({'use': ('user', 'history')}, 'name title too'),
    ({'dropout': 1.0}, 'dropout=1.0: must be from 0 to below 1'),
    ({'l2': -1.0}, 'l2=-1.0 must not be negative'),
  ],
)
def test_fields_that_cannot_be_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    model_of('mlp', **fields)


@pytest.mark.slow
def test_a_click_s_logit_is_its_own_where_a_model_normalises():
  model = model_of('star')
  trainer, state, _ = train(model, num_steps=2)
  tables = trainer.tables
  data = clicks()

  def sums(params, rows, batch, rng):
    vectors = tables.lookup(rows, batch['ids'])
    found = model.moment_sums(params, vectors, batch)
    return {n: x.reshape(1, -1) for n, x in found._asdict().items()}

  def predict(params, rows, batch, rng):
    vectors = tables.lookup(rows, batch['ids'])
    return model.logits(params, vectors, batch)

  batch = model.prepare(data.batch(np.arange(64), 64))
  found = trainer.predict(state, [batch], sums)
  width = 2, model.sizes.flat_width
  totals = moments.MomentSums(
    found['count_S'].reshape(-1, 2).sum(0),
    found['sum_SX'].reshape(-1, *width).sum(0),
    found['square_SX'].reshape(-1, *width).sum(0),
  )
  assert totals.count_S.sum() == 64
  known = moments.finish(totals)
  more = {'moments': tuple(np.stack([x, x]) for x in known)}  # Two devices.
  whole = trainer.predict(state, [batch | more], predict)['prediction']
  part = model.prepare(data.batch(np.arange(10, 20), 10))
  apart = trainer.predict(state, [part | more], predict)['prediction']
  np.testing.assert_allclose(apart, whole[10:20], rtol=1e-4, atol=1e-5)
