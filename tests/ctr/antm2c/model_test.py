# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click models over tables, in a trainer."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

import antjax
from antjax.ctr.antm2c.clicks import ScenarioClicks, TextVectors
from antjax.ctr.antm2c.data_sizes import DataSizes
from antjax.ctr.antm2c.fields import FieldConfig
from antjax.ctr.antm2c.model import ScenarioModel
from antjax.networks import moments
from antjax.networks.load import NetworkConfig
from tests.cases import first_fast

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
  numbers={'age': 'linear', 'price': 'autodis'},
  histories=(3,),
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
    histories=(0,),
    max_history=3,
    text=TextVectors(rng.normal(size=(6, 4)).astype(np.float16), ()),
    labels=rng.integers(0, 2, (size, 1)).astype(np.float32),
  )


def model_of(name, network=NETWORK, **fields):
  config = FieldConfig(embedding_dim=4, learning_rate=0.05, **fields)
  return ScenarioModel(name, config, network, SIZES)


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
    mutable=model.mutable.__contains__ if model.mutable else None,
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
  first_fast('deepfm', 'esmm', 'din', 'ple'),
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
    *('history', 'age', 'price'),
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

  @functools.partial(jax.jit, static_argnames='model')
  def values(rng, model):
    return model.loss(params, vectors, batch, rng)[0]

  def losses(rng, model=model):
    return np.asarray(values(rng, model))

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


def test_linear_terms_hold_numbers_and_vectors_of_texts():
  model = model_of('lr', use=('numeric', 'text'))
  params = model.init_params(jax.random.key(0))
  batch = model.prepare(clicks().batch(np.arange(8), 8))
  dims = {'fields_none': 4, 'fields_none:weight': 1}
  vectors = {
    n: np.zeros((*ids.shape, dims[n])) for n, ids in batch['ids'].items()
  }
  assert not model.logits(params, vectors, batch)['prediction'].any()
  weight, text = np.array([0.5, -1]), np.arange(4) / 4
  params['numbers']['weight'] = jax.numpy.asarray(weight)
  params['weights']['text_title'] = jax.numpy.asarray(text)
  np.testing.assert_allclose(
    model.logits(params, vectors, batch)['prediction'],
    batch['numeric'] @ weight + batch['text_title'] @ text,
    rtol=1e-5,
  )


def test_histories_and_bags_are_read_as_by_numpy():
  rng = np.random.default_rng(0)
  sizes = dataclasses.replace(
    SIZES,
    numbers={},
    modal={},
    histories=(3, 3),
    history_columns=('city',),
    bags={'tags': (4, 'mean'), 'words': (5, 'attention')},
  )
  config = FieldConfig(embedding_dim=4)
  model = ScenarioModel('din', config, NETWORK, sizes)
  assert model.field_names[6:] == (
    *('history_0', 'history_city_0', 'history_1', 'history_city_1'),
    *('bag_tags', 'bag_words'),
  )
  assert model.sizes.history_width == 8
  history = rng.integers(-1, 6, (2, 2, 3))
  batch = clicks().batch(np.arange(2), 2) | {
    'history': history,
    'history_city': np.where(history < 0, -1, history % 5),
    'bag_tags': np.array([[0, 3], [-1, -1]]),
    'bag_words': np.array([[1, 2, -1], [0, -1, -1]]),
  }
  batch = model.prepare(batch)
  vectors = {
    n: rng.normal(size=(*ids.shape, 4)) for n, ids in batch['ids'].items()
  }
  params = model.init_params(jax.random.key(0))
  _, x = model._inputs(params, vectors, batch)
  assert np.isfinite(model.logits(params, vectors, batch)['prediction']).all()
  fields = dict(zip(model.field_names, np.swapaxes(x.fields_BFD, 0, 1)))
  for h, found in enumerate(x.histories):
    keys = [vectors[n][:, h] for n in ('history', 'history_city')]
    np.testing.assert_allclose(found.keys_BMD, np.concatenate(keys, 2), 1e-5)
    query = [fields['title'], fields['column_city']]
    np.testing.assert_allclose(found.query_BD, np.concatenate(query, 1), 1e-5)
    there = history[:, h] >= 0
    np.testing.assert_array_equal(found.is_there_BM, there)
    mean = (keys[1] * there[..., None]).sum(1) / there.sum(1)[:, None]
    np.testing.assert_allclose(fields[f'history_city_{h}'], mean, 1e-4)
  tags, words = vectors['bag_tags'], vectors['bag_words']
  np.testing.assert_allclose(
    fields['bag_tags'], [tags[0].mean(0), np.zeros(4)], 1e-5
  )
  share = np.exp(words[0, :2] @ fields['item'][0] / 2)
  np.testing.assert_allclose(
    fields['bag_words'],
    [share @ words[0, :2] / share.sum(), words[1, 0]],
    1e-4,
  )


@pytest.mark.parametrize(
  ('use', 'changes', 'message'),
  [
    (('title', 'history'), {'history_columns': ('city',)}, 'column_city is no'),
    (('title',), {'history_columns': ('city',)}, 'there is no history'),
    (('user',), {'bags': {'tags': (4, 'attention')}}, 'has neither'),
  ],
)
def test_what_has_no_candidate_is_refused(use, changes, message):
  sizes = dataclasses.replace(SIZES, **changes)
  with pytest.raises(ValueError, match=message):
    ScenarioModel('mlp', FieldConfig(use=use), NETWORK, sizes)


@pytest.mark.parametrize('paro', first_fast('NNN', 'IIG'))
def test_batch_norms_learn_running_averages_that_scores_use(paro):
  network = dataclasses.replace(NETWORK, norm='batch', activation='silu')
  model = model_of('mlp', network)
  names = {f'model.deep.mlp.norms.0.{n}' for n in ('mean', 'var')}
  assert model.mutable == names
  trainer, state, losses = train(model, 12, paro=paro, intra=2)
  assert losses[-1] < losses[0]
  norm = trainer.params(state)['model']['deep']['mlp']['norms'][0]
  assert np.abs(norm['mean']).max() > 1e-3
  data = clicks()

  def predict(params, rows, batch, rng):
    return model.logits(
      params, trainer.tables.lookup(rows, batch['ids']), batch
    )

  def logits(index):
    batch = model.prepare(data.batch(index, len(index)))
    return trainer.predict(state, [batch], predict)['prediction']

  whole = logits(np.arange(64))  # A row's score depends on that row alone.
  np.testing.assert_allclose(logits(np.arange(12)), whole[:12], rtol=1e-4)


def test_narrow_tables_are_widened():
  config = FieldConfig(embedding_dim=9, dim_rule='auto', level='none')
  model = ScenarioModel('mlp', config, NETWORK, SIZES)
  batch = model.prepare(clicks().batch(np.arange(4), 4))
  # 6 n^(1/4) is 10 of 9 users and 7 items, 9 of 6 titles and 5 cities.
  widths = {'fields_none': 9, 'fields_none_7': 7, 'fields_none_8': 8}
  assert {*batch['ids']} == {*widths, 'history'}
  rng = np.random.default_rng(0)
  vectors = {
    n: rng.normal(size=(*ids.shape, widths.get(n, 9)))
    for n, ids in batch['ids'].items()
  }
  params = model.init_params(jax.random.key(0))
  _, x = model._inputs(params, vectors, batch)
  place = model.field_names.index('scenario')
  np.testing.assert_allclose(
    x.fields_BFD[:, place],
    vectors['fields_none_7'][:, 0] @ params['maps']['scenario'],
    1e-4,
  )
  mesh = antjax.make_mesh(intra=1, devices=jax.devices()[:1])
  model.tables(mesh, 0.1, num_examples=4)


@pytest.mark.parametrize('how', ['mean', 'sum'])
def test_bags_that_the_tables_sum_are_those_summed_here(how):
  rng = np.random.default_rng(0)
  sizes = dataclasses.replace(
    SIZES, numbers={}, modal={}, bags={'tags': (4, how)}
  )
  config = FieldConfig(embedding_dim=4, lookup='kernel')
  model = ScenarioModel('dcnv2', config, NETWORK, sizes)
  batch = clicks().batch(np.arange(2), 2) | {
    'history': np.full((2, 1, 3), -1),
    'bag_tags': np.array([[0, 3, -1], [-1, -1, -1]], np.int32),
  }
  batch = model.prepare(batch)
  tables = model.tables(antjax.make_mesh(), 1e-3, num_examples=1)
  rows = {name: leaf['table'] for name, leaf in tables.shapes.items()}
  found = jax.eval_shape(tables.lookup, rows, batch['ids'])
  assert found['bag_tags'].shape == (2, 4)
  vectors = {n: rng.normal(size=(*x.shape, 4)) for n, x in batch['ids'].items()}
  params = model.init_params(jax.random.key(0))
  summed = vectors | {'bag_tags': vectors['bag_tags'][:, :2].sum(1)}
  summed['bag_tags'][1] = 0
  of = [model.logits(params, v, batch)['prediction'] for v in (vectors, summed)]
  np.testing.assert_allclose(*of, rtol=1e-5)
