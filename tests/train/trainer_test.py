# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The loop around the step: the end of data, evaluation, bad input."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import PaRO
from antjax.metrics import means as metrics_lib
from antjax.train.state import Layout
from antjax.train.trainer import Trainer
from tests.cases import first_fast


def loss_fn(params, batch, rng):
  del rng
  return jnp.square(batch['x'] @ params['w'] - batch['y'])


def predict_fn(params, batch, rng):
  del rng
  return {
    'prediction': batch['x'] @ params['w'],
    'label': batch['y'],
    'weight': batch['weight'],
  }


def batches(num, size=16):
  rng = np.random.default_rng(0)
  for _ in range(num):
    x = rng.normal(size=(size, 4)).astype(np.float32)
    yield {
      'x': x,
      'y': (x @ np.arange(4)).astype(np.float32),
      'weight': rng.integers(0, 2, size).astype(np.float32),
    }


def make_trainer(paro='IIG', **kwargs):
  return Trainer(
    loss_fn, optax.sgd(0.1), mesh=make_mesh(intra=4), paro=paro, **kwargs
  )


PARAMS = {'w': np.zeros(4, np.float32)}


@pytest.mark.parametrize(
  'paro',
  first_fast('NIG', 'NNN', 'GGG'),
)
def test_steps_and_predictions_need_no_types(paro):
  # As on TPUs, where the loss may call a Pallas kernel.
  def run(**options):
    trainer = make_trainer(
      paro, num_micro_batches=2, min_shard_size=1, **options
    )
    state = trainer.init(PARAMS)
    losses = []
    for batch in batches(3):
      state, metrics = trainer.step(state, batch)
      losses.append(float(metrics['loss']))
    found = trainer.predict(state, batches(2), predict_fn)
    return losses, trainer.params(state), found

  jax.tree.map(np.testing.assert_array_equal, run(check_vma=False), run())


def test_fit_learns_and_reports_each_step_once():
  trainer = make_trainer()
  seen = {}
  state = trainer.fit(
    trainer.init(PARAMS),
    batches(100),
    60,
    on_step=lambda step, values: seen.setdefault(step, values),
  )
  assert sorted(seen) == list(range(1, 61))
  assert seen[60]['loss'] < 0.01 * seen[1]['loss']
  np.testing.assert_allclose(trainer.params(state)['w'], range(4), atol=0.05)
  assert 'examples_per_s' not in seen[1]  # It holds the compilation.
  assert seen[2]['examples_per_s'] > 0
  assert {values['num_examples'] for values in seen.values()} == {16}


def test_fit_ends_with_the_data():
  trainer = make_trainer()
  steps = []
  state = trainer.fit(
    trainer.init(PARAMS),
    batches(3),
    10,
    on_step=lambda step, _: steps.append(step),
  )
  assert steps == [1, 2, 3]
  assert int(state.step) == 3


def test_a_loss_that_is_not_finite_ends_the_run_unsaved(tmp_path):
  def some():
    for i, batch in enumerate(batches(6)):
      yield batch if i < 3 else batch | {'y': np.full(16, np.nan, np.float32)}

  trainer = make_trainer()
  with pytest.raises(RuntimeError, match='loss of step 4 is nan'):
    trainer.fit(
      trainer.init(PARAMS),
      some(),
      6,
      checkpoint_dir=str(tmp_path),
      checkpoint_every=2,
    )
  kept = [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]
  assert max(kept) < 4


def test_a_batch_of_weight_0_is_a_step_and_not_the_end():
  def weighted(params, batch, rng):
    return loss_fn(params, batch, rng), batch['weight']

  def some():
    for i, batch in enumerate(batches(4)):
      yield batch | {'weight': np.full(16, float(i != 1), np.float32)}

  trainer = Trainer(
    weighted, optax.adamw(0.1), mesh=make_mesh(intra=4), paro='IIG'
  )
  weights = []
  state = trainer.fit(
    trainer.init(PARAMS),
    some(),
    10,
    on_step=lambda _, values: weights.append(values['weight']),
  )
  assert weights == [16, 0, 16, 16]
  assert int(state.step) == 4
  assert int(state.opt_state[0].count) == 3


def test_bytes_per_device_are_those_of_the_state():
  for optimizer in (optax.sgd(0.1), optax.sgd(0.1, 0.9), optax.adamw(0.1)):
    trainer = Trainer(
      lambda p, b, r: b['x'] @ p['w'],
      optimizer,
      mesh=make_mesh(intra=4),
      paro='IIG',
      compute_dtype=jnp.bfloat16,
    )
    state = trainer.init({'w': jnp.ones((64, 37), jnp.bfloat16)})

    def held(tree):
      return sum(
        x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree)
      )

    sizes = trainer.bytes_per_device()
    assert sizes['params'] == held(state.params)
    assert sizes['opt_state'] == held((state.opt_state, state.master))
    assert state.master['w'].dtype == jnp.float32


def test_evaluate_merges_batches_and_weighs_rows():
  trainer = make_trainer()
  state = trainer.init({'w': np.ones(4, np.float32)})
  actual = trainer.evaluate(
    state, batches(3), predict_fn, {'MAE': metrics_lib.MAE()}
  )
  errors, weights = [], []
  for batch in batches(3):
    errors.append(np.abs(batch['x'].sum(1) - batch['y']))
    weights.append(batch['weight'])
  expected = np.average(np.concatenate(errors), weights=np.concatenate(weights))
  assert actual['MAE'] == pytest.approx(expected, rel=1e-6)


def test_evaluation_metrics_reach_on_step():
  trainer = make_trainer()
  seen = {}
  trainer.fit(
    trainer.init(PARAMS),
    batches(10),
    5,
    evaluate_fn=lambda state: {'mae': float(state.step)},
    evaluate_every=2,
    on_step=lambda step, values: seen.setdefault(step, {}).update(values),
  )
  assert {s: v['mae'] for s, v in seen.items() if 'mae' in v} == {
    2: 2.0,
    4: 4.0,
    5: 5.0,
  }


def test_frozen_leaves_have_no_optimizer_state():
  trainer = Trainer(
    lambda p, b, r: loss_fn({'w': p['w'] + p['frozen']}, b, r),
    optax.adam(0.1),
    mesh=make_mesh(intra=4),
    trainable=lambda name: name != 'frozen',
  )
  state = trainer.init(PARAMS | {'frozen': np.ones(4, np.float32)})
  mu = state.opt_state[0].mu
  assert mu['w'].shape == (4,)
  assert mu['frozen'] is None
  state, _ = trainer.step(state, next(batches(1)))
  np.testing.assert_array_equal(state.params['frozen'], np.ones(4))
  # Two moments of four floats, and the optimizer's step count.
  assert trainer.bytes_per_device()['opt_state'] == 2 * 4 * 4 + 4


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'paro': 'GIN'}, 'use GIG'),
    ({'paro': 'XYZ'}, 'three letters'),
    ({'num_micro_batches': 0}, 'at least 1'),
  ],
)
def test_bad_options_are_refused_at_once(kwargs, message):
  with pytest.raises(ValueError, match=message):
    make_trainer(**kwargs)


@pytest.mark.parametrize('name', ['checkpoint_every', 'evaluate_every'])
def test_an_interval_that_is_none_is_refused_before_the_first_step(name):
  trainer = make_trainer()
  with pytest.raises(ValueError, match=f'{name}=-1.*needed is a number'):
    trainer.fit(trainer.init(PARAMS), batches(1), 1, **{name: -1})


def test_a_foreign_mesh_is_refused():
  mesh = Mesh(np.array(make_mesh(intra=8).devices.ravel()), ('data',))
  with pytest.raises(ValueError, match='Make the mesh with antjax.make_mesh'):
    Trainer(loss_fn, optax.sgd(0.1), mesh=mesh)


def test_nothing_to_train_is_refused():
  with pytest.raises(ValueError, match='no leaf is left to train'):
    make_trainer(trainable=lambda name: False).init(PARAMS)


@pytest.mark.parametrize('counts', [[1], [1, 2, 1], [0.5, 1], [-1, 1], [2, 1]])
def test_bad_counts_are_refused(counts):
  with pytest.raises(ValueError, match=r'step\(num_micro_batches='):
    make_trainer().step(None, next(batches(1)), counts)


def test_layout_before_init_is_an_error():
  with pytest.raises(RuntimeError, match=r'call init\(\) first'):
    _ = make_trainer().layout


def test_bytes_per_code_count_masters_only_in_mixed_precision():
  mesh = make_mesh(intra=4)
  params = {'w': np.zeros((64, 64), np.float32), 'b': np.zeros(1, np.float32)}
  size = 64 * 64

  def held(code, **options):
    layout = Layout.of(
      params, mesh, PaRO.from_code(code), optax.adam(1e-3), **options
    )
    parts = layout.bytes_per_device()
    return [parts[name] for name in ('params', 'grads', 'opt_state')]

  def equal(found, want):  # Up to the bias and the optimizer's step count.
    np.testing.assert_allclose(found, want, atol=20)

  equal(held('NIG'), [4 * size, size, size])
  mixed = held('IIG', compute_dtype='bfloat16')
  equal(mixed, [2 * size // 4, size, 12 * size // 8])
  frozen = held('IIG', trainable=lambda name: name == 'b')
  equal(frozen, [size, 0, 0])
