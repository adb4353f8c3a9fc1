# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stacks gathered a layer at a time train as whole ones do, and stay split."""

import itertools
import re

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.collectives.choose import XLA
from antjax.layers.functional import Functional
from antjax.lm import Config, Transformer
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from antjax.train import gradient
from tests.cases import code_pairs, covering, first_fast, slow_but

L, D = 4, 12  # D does not divide by 8 devices.
FAST_CODES = ['IIG', 'GGG']


def init_params():
  rng = np.random.default_rng(0)
  return {
    'first': rng.normal(size=(6, D)).astype(np.float32),
    'layers': {
      'w': rng.normal(size=(L, D, 2 * D)).astype(np.float32) * 0.4,
      'v': rng.normal(size=(L, 2 * D, D)).astype(np.float32) * 0.4,
      'frozen': rng.normal(size=(L, D, D)).astype(np.float32) * 0.4,
      'bias': rng.normal(size=(L, D)).astype(np.float32),
    },
  }


def loss_fn(params, batch, rng, **options):
  del rng

  def body(h, layer):
    y = jnp.tanh(h @ layer['w']) @ layer['v'] + layer['bias'][None]
    return h + jnp.tanh(y @ layer['frozen'])

  h = antjax.scan_layers(
    body, batch['x'] @ params['first'], params['layers'], **options
  )
  return jnp.mean(jnp.square(h - batch['y']), axis=-1)


def batches(num=3):
  rng = np.random.default_rng(1)
  for _ in range(num):
    yield {
      'x': rng.normal(size=(32, 6)).astype(np.float32),
      'y': rng.normal(size=(32, D)).astype(np.float32),
    }


def trainer_of(
  code, intra=4, num_micro_batches=2, options=None, loss=loss_fn, **kwargs
):
  return antjax.Trainer(
    lambda *args: loss(*args, **(options or {})),
    optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2)),
    mesh=antjax.make_mesh(intra=intra),
    paro=code,
    num_micro_batches=num_micro_batches,
    trainable=lambda name: 'frozen' not in name,
    min_shard_size=64,
    **kwargs,
  )


def scanned(name):
  return name.startswith('layers')


def train(trainer, counts=None):
  state = trainer.init(init_params())
  metrics = []
  for batch in batches():
    state, m = trainer.step(state, batch, counts)
    metrics.append((float(m['loss']), float(m['grad_norm'])))
  return trainer.params(state), metrics


def assert_same(got, want):
  np.testing.assert_allclose(got[1], want[1], rtol=1e-5)
  for a, b in zip(
    jax.tree.leaves(got[0]), jax.tree.leaves(want[0]), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.fixture(scope='module')
def want():
  """Plain data parallel, nothing scanned by antjax, nothing recomputed."""
  return train(trainer_of('NNN', options={'remat': False}))


@pytest.mark.parametrize('code', FAST_CODES)
def test_code_equals_data_parallel(code, want):
  assert_same(train(trainer_of(code, scanned=scanned)), want)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('code', 'intra'),
  covering(itertools.product(VALID_CODES, (1, 2, 8)), code_pairs),
)
def test_every_code_and_mesh_equals_data_parallel(code, intra, want):
  assert_same(train(trainer_of(code, intra, scanned=scanned)), want)


def train_transformer(code):
  sizes = {'num_layers': 2, 'embed_dim': 16, 'num_heads': 4, 'mlp_dim': 24}
  lm = Functional(Transformer, Config(vocab_size=29, **sizes))
  trainer = antjax.Trainer(
    lambda params, batch, rng: lm.merge(params).loss(batch),
    optax.sgd(0.5, momentum=0.9),
    mesh=antjax.make_mesh(intra=4),
    paro=code,
    num_micro_batches=2,
    min_shard_size=64,
    scanned=scanned,
  )
  state = trainer.init(lm.init)
  metrics = []
  for seed in range(3):
    tokens = np.random.default_rng(seed).integers(1, 29, (16, 8), np.int32)
    state, m = trainer.step(state, {'tokens': tokens})
    metrics.append((float(m['loss']), float(m['grad_norm'])))
  return trainer.params(state), metrics


@pytest.fixture(scope='module')
def want_transformer():
  return train_transformer('NNN')


@pytest.mark.slow
@pytest.mark.parametrize('code', VALID_CODES)
def test_every_code_trains_a_transformer_alike(code, want_transformer):
  assert_same(train_transformer(code), want_transformer)


@pytest.mark.parametrize(
  'options',
  first_fast(
    {'options': {'layers_per_step': 2}},
    {'regather': False},
    {'options': {'remat': False}},
    {
      'options': {'policy': jax.checkpoint_policies.dots_saveable},
      'regather': False,
    },
  ),
  ids=lambda o: '-'.join(map(str, o)),
)
def test_policies_change_no_number(options, want):
  assert_same(train(trainer_of('IIG', scanned=scanned, **options)), want)


@pytest.mark.parametrize('code', slow_but(VALID_CODES, 'IIG'))
def test_layers_fetched_ahead_change_no_number(code, want):
  assert_same(train(trainer_of(code, scanned=scanned, overlap=True)), want)


@pytest.mark.parametrize(
  ('code', 'num_micro_batches'),
  first_fast(('IIG', 4), ('IIG', 1), ('NIG', 4), ('GIG', 4), ('NIG', 1)),
)
def test_sums_that_cross_beside_the_last_micro_batch(
  code, num_micro_batches, want
):
  trainer = trainer_of(
    code,
    4,
    num_micro_batches,
    scanned=scanned,
    overlap=True,
    early_sums=True,
  )
  assert_same(train(trainer), want)
  assert trainer.step_spec().crosses_early


@pytest.mark.parametrize(
  ('code', 'num_micro_batches', 'options'),
  first_fast(
    ('IIG', 4, {'early_sums': True}),
    ('NNG', 4, {}),
    ('IIG', 1, {'early_sums': True}),
    ('NIG', 4, {'early_sums': True}),
    ('NGG', 4, {}),
    ('ING', 1, {}),
    ('IGG', 4, {'compute_dtype': 'float32'}),
    ('IIG', 2, {'early_sums': True}),
    ('GIG', 4, {}),
    ('III', 4, {}),
  ),
)
def test_parameters_that_come_beside_the_first_micro_batch(
  code, num_micro_batches, options, want
):
  trainer = trainer_of(
    code,
    4,
    num_micro_batches,
    scanned=scanned,
    overlap=True,
    late_params=True,
    **options,
  )
  assert_same(train(trainer), want)
  assert trainer.layout.late_params == (code not in ('GIG', 'III'))


@pytest.mark.slow
def test_late_parameters_are_in_checkpoints_and_predictions(tmp_path):
  def trainer(**kwargs):
    kwargs = {'scanned': scanned, 'overlap': True} | kwargs
    return trainer_of('IIG', 4, 4, compute_dtype='bfloat16', **kwargs)

  late, plain = trainer(late_params=True), trainer()
  states = []
  for each in late, plain:
    folder = str(tmp_path) if each is late else None
    data = iter(list(batches()))
    state = each.init(init_params())
    states.append(each.fit(state, data, 2, checkpoint_dir=folder))
  there = plain.fit(
    plain.init(init_params()), iter(()), 2, checkpoint_dir=str(tmp_path)
  )

  def predict(params, batch, rng):
    return {'prediction': loss_fn(params, batch, rng)}

  batch = [next(batches())]
  found = [
    (each.params(state), each.predict(state, batch, predict)['prediction'])
    for each, state in zip((late, plain, plain), (*states, there), strict=True)
  ]
  for other in found[1:]:
    for x, y in zip(
      jax.tree.leaves(found[0]), jax.tree.leaves(other), strict=True
    ):
      np.testing.assert_array_equal(x, y)
  # A device keeps an eighth of a trained stack, not a quarter.
  w, kept = (s.params['layers']['w'].addressable_shards[0] for s in states)
  assert 2 * w.data.size == kept.data.size


def test_without_stacks_no_micro_batch_stands_alone(want):
  # A copy of the model for the first and the last of them would be for nothing.
  options = {'overlap': True, 'early_sums': True, 'late_params': True}
  trainer = trainer_of('IIG', 4, 4, **options)
  assert_same(train(trainer), want)
  state = trainer.init(init_params())
  inputs = trainer.step_inputs(next(batches()))
  text = trainer.compiled_step().lower(state, inputs).as_text(debug_info=True)
  for scope in (gradient.FIRST_MICRO_BATCH, gradient.LAST_MICRO_BATCH):
    assert scope not in text


def test_late_parameters_refuse_elastic_steps_and_no_overlap():
  late = {'scanned': scanned, 'late_params': True}
  with pytest.raises(ValueError, match='need overlap=True'):
    trainer_of('IIG', **late)
  trainer = trainer_of('IIG', overlap=True, **late)
  trainer.init(init_params())
  with pytest.raises(ValueError, match='late_params=True'):
    trainer.elastic_step()


def _twice(body, h, layers):
  for _ in range(2):
    h = antjax.scan_layers(body, h, layers)
  return h


def _in_a_loop(body, h, layers):
  def step(h, _):
    return antjax.scan_layers(body, h, layers), None

  return jax.lax.scan(step, h, jnp.arange(2))[0]


def _in_a_transform(body, h, layers):
  return jax.checkpoint(lambda h, x: antjax.scan_layers(body, h, x))(h, layers)


def _kept(body, h, layers):
  return antjax.scan_layers(body, h, layers, remat=False)


@pytest.fixture
def without_bias():
  given = init_params()
  del given['layers']['frozen'], given['layers']['bias']
  return given


_EARLY = {'overlap': True, 'early_sums': True}


@pytest.mark.parametrize(
  ('run', 'how', 'options'),
  [
    (_twice, 'runs twice', _EARLY),
    (
      _twice,
      'runs twice',
      {'collectives': antjax.Collectives(sums_dtype='int8')},
    ),
    (_in_a_loop, 'inside a loop', _EARLY),
    (_in_a_transform, 'inside a loop', _EARLY),
    (_kept, 'without overlap', _EARLY),
  ],
)
def test_some_options_want_a_stack_that_runs_once(
  run, how, options, without_bias
):
  def loss_fn(params, batch, rng):
    del rng
    h = run(
      lambda h, x: jnp.tanh(h @ x['w']) @ x['v'],
      batch['x'] @ params['first'],
      params['layers'],
    )
    return jnp.sum(h**2, axis=-1)

  trainer = trainer_of('IIG', 4, 1, loss=loss_fn, scanned=scanned, **options)
  state = trainer.init(without_bias)
  with pytest.raises(ValueError, match=how):
    trainer.step(state, next(batches()))


def test_what_a_policy_keeps_is_not_computed_again(without_bias):
  def body(h, layer):
    return h + jnp.tanh(checkpoint_name(h @ layer['w'], 'mixed')) @ layer['v']

  keep = jax.checkpoint_policies.save_only_these_names('mixed')

  def loss_fn(params, batch, rng, policy=None):
    h = batch['x'] @ params['first']
    h = antjax.scan_layers(body, h, params['layers'], policy=policy)
    return jnp.sum(h**2, axis=-1)

  def num_products(**options):
    text = compiled_text(
      trainer_of('III', 4, 1, options, loss_fn, scanned=scanned, overlap=True),
      without_bias,
    )
    return len(re.findall(r' dot\(', text))

  # Backward passes of a layer stand before the loop, in it and behind it.
  assert num_products() - num_products(policy=keep) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
  'options', [{}, {'overlap': True, 'late_params': True}]
)
def test_elastic_counts_equal_the_plain_trainer(options):
  assert 'IIG' in ELASTIC_CODES
  counts = [2, 0]
  want = train(trainer_of('NNN', options={'remat': False}), counts)
  got = train(trainer_of('IIG', scanned=scanned, **options), counts)
  assert_same(got, want)


@pytest.mark.slow
def test_loss_scales_change_no_number(want):
  for scale in (2.0**10, 'dynamic'):
    got = train(trainer_of('IGG', scanned=scanned, loss_scale=scale))
    assert_same(got, want)


def compiled_text(trainer, params):
  state = trainer.init(params)
  inputs = trainer.step_inputs(next(batches()))
  return trainer.compiled_step().lower(state, inputs).compile().as_text()


def num_gathers(text):
  return len(re.findall(r' all-gather(?:-start)?\(', text))


def test_layers_are_gathered_one_by_one_and_again_in_backward():
  # Each leaf by itself, to be counted.
  text, kept = (
    compiled_text(
      trainer_of('IIG', scanned=scanned, collectives=XLA, regather=regather),
      init_params(),
    )
    for regather in (True, False)
  )
  # w, v and frozen of one layer, and never of all L.
  assert not re.search(rf'f32\[{L},1?,?{D},{2 * D}\]\S* all-gather', text)
  # Forward and backward; w, v, frozen. At the end: inter gathers of w, v and
  # 'first', and the loop's gather of 'first'.
  assert num_gathers(text) - num_gathers(kept) == 3
  assert num_gathers(text) == 3 + 3 + 1 + 3


def test_a_stack_taken_as_an_array_says_what_to_do():
  trainer = trainer_of(
    'III',
    loss=lambda params, batch, rng: jnp.sum(
      jnp.asarray(params['layers']['w']), axis=(1, 2)
    ),
    scanned=scanned,
  )
  state = trainer.init(init_params())
  with pytest.raises(TypeError, match='scan_layers'):
    trainer.step(state, next(batches()))


def test_stacks_of_unequal_length_are_refused():
  with pytest.raises(ValueError, match=r'\[3, 4\] layers'):
    antjax.scan_layers(
      lambda c, _: c, 0.0, {'a': jnp.ones((3, 2)), 'b': jnp.ones(4)}
    )


def test_a_stack_of_arrays_without_elements_is_one_too():
  layers = {'a': jnp.arange(4.0), 'empty': jnp.zeros((4, 0, 3))}
  total = antjax.scan_layers(
    lambda c, layer: c + layer['a'] + jnp.sum(layer['empty']), 0.0, layers
  )
  assert total == 6


def _move_through(codes, tmp_path):
  """One step under each code, each on another mesh, through checkpoints."""
  losses, all_batches = [], list(batches(len(codes)))
  for i, code in enumerate(codes):
    trainer = trainer_of(
      code, [1, 2, 4, 8][i % 4], scanned=scanned if i % 3 else None
    )
    trainer.fit(
      trainer.init(init_params()),
      iter(all_batches[i:]),  # An iterator without a position: fed by hand.
      i + 1,
      checkpoint_dir=str(tmp_path),
      on_step=lambda _, m: losses.append((m['loss'], m['grad_norm'])),
    )
  straight = trainer_of('NNN')
  state = straight.init(init_params())
  want = []
  for batch in all_batches:
    state, m = straight.step(state, batch)
    want.append((float(m['loss']), float(m['grad_norm'])))
  assert len(losses) == len(codes)
  np.testing.assert_allclose(losses, want, rtol=1e-4)


@pytest.mark.slow
def test_a_run_moves_between_codes_and_meshes(tmp_path):
  _move_through(['GGG', 'IIG'], tmp_path)


@pytest.mark.slow
def test_a_run_moves_through_all_codes(tmp_path):
  _move_through(list(VALID_CODES[::-1]) + ['IIG', 'GGG'], tmp_path)


@pytest.mark.parametrize(
  ('code', 'algorithm'),
  slow_but(
    itertools.product(
      ('NNN', 'NIG', 'GGG'), ('ring', 'hierarchical', 'ho_ring')
    ),
    ('GGG', 'ho_ring'),
  ),
)
def test_collectives_change_no_number(code, algorithm, want):
  how = antjax.Collectives(algorithm, bucket_bytes=4000)
  assert_same(train(trainer_of(code, scanned=scanned, collectives=how)), want)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('code', 'intra'),
  covering(itertools.product(VALID_CODES, (1, 2, 4, 8)), code_pairs),
)
def test_every_code_trains_by_ho_rings(code, intra, want):
  how = antjax.Collectives('ho_ring', bucket_bytes=10**6)
  if not antjax.PaRO.from_code(code).global_moves:
    with pytest.raises(ValueError, match=f'ho_ring.*{code}.*NNN NNG NIG'):
      trainer_of(code, intra, collectives=how)
    return
  assert_same(train(trainer_of(code, intra, collectives=how)), want)


def last_loss(params, batch, rng, **options):
  """The last layer is another function, of another shape."""
  del rng

  def body(h, layer):
    y = jnp.tanh(h @ layer['w']) @ layer['v'] + layer['bias'][None]
    return h + jnp.tanh(y @ layer['frozen'])

  def last(h, layer):
    narrow = body(h * params['first'].sum(), layer)[:, : D // 2]
    return narrow, jnp.sin(narrow)

  a, b = antjax.scan_layers(
    body, batch['x'] @ params['first'], params['layers'], last=last, **options
  )
  return jnp.mean(jnp.square(a + b - batch['y'][:, : D // 2]), axis=-1)


@pytest.fixture(scope='module')
def want_last():
  plain = trainer_of('NNN', options={'remat': False}, loss=last_loss)
  return train(plain)


@pytest.mark.parametrize(
  ('code', 'options'),
  first_fast(
    ('IIG', {'overlap': True, 'early_sums': True, 'late_params': True}),
    ('IIG', {}),
    ('GGG', {'overlap': True}),
  ),
)
def test_a_last_layer_of_another_function(code, options, want_last):
  trainer = trainer_of(code, 4, 4, loss=last_loss, scanned=scanned, **options)
  assert_same(train(trainer), want_last)


def test_a_last_layer_stands_in_no_group_of_layers():
  with pytest.raises(ValueError, match='layers_per_step=1'):
    antjax.scan_layers(
      jnp.add, 0.0, jnp.zeros(4), last=jnp.add, layers_per_step=2
    )
