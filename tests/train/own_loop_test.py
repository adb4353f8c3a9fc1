# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models, input and outputs as users bring them, through `Trainer`."""

import json

import grain.python as grain
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from antjax.collectives.examples import all_examples
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import PaRO, VALID_CODES
from antjax.train.elastic_step import ElasticStep
from antjax.train.input_position import decode_position, encode_position
from antjax.train.trainer import Trainer
from tests.cases import first_fast, slow_but

_CODES = ('NNN', 'IIG', 'GGG')
_FEW_CODES = slow_but(_CODES, 'IIG')
_EVERY_CODE = slow_but(VALID_CODES, *_CODES)


def _batches(num, rows=16):
  rng = np.random.default_rng(0)
  for _ in range(num):
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    yield {'x': x, 'y': x.sum(1)}


def _loss(params, batch, rng):
  del rng
  return jnp.square(batch['x'] @ params['w'] + params['b'] - batch['y'])


def _params():
  return {'w': np.zeros(4, np.float32), 'b': np.zeros((), np.float32)}


def _trainer(code='NNN', loss=_loss, **kwargs):
  kwargs = {'min_shard_size': 2} | kwargs
  return Trainer(
    loss, optax.adam(1e-2), mesh=make_mesh(intra=4), paro=code, **kwargs
  )


@pytest.mark.parametrize('code', _FEW_CODES)
def test_empty_leaves_are_checkpointed(code, tmp_path):
  params = _params() | {
    'empty': np.zeros((0, 3), np.float32),
    'deep': {'none': np.zeros((2, 0), np.float32)},
  }
  trainer = _trainer(code)
  first = trainer.fit(
    trainer.init(params), _batches(9), 3, checkpoint_dir=str(tmp_path)
  )
  again = trainer.fit(
    trainer.init(params), _batches(9), 5, checkpoint_dir=str(tmp_path)
  )
  assert int(first.step) == 3 and int(again.step) == 5
  whole = trainer.params(again)
  assert whole['empty'].shape == (0, 3)
  assert whole['deep']['none'].shape == (2, 0)


def test_an_error_inside_a_save_ends_fit(tmp_path, monkeypatch):
  async def broken(*args, **kwargs):
    raise ValueError('no such luck')

  monkeypatch.setattr(ocp.PyTreeCheckpointHandler, 'async_save', broken)
  trainer = _trainer()
  with pytest.raises(Exception, match='no such luck'):
    trainer.fit(
      trainer.init(_params()), _batches(9), 3, checkpoint_dir=str(tmp_path)
    )


class _Records:
  """Random access to records."""

  def __repr__(self):  # Grain compares it.
    return 'records'

  def __len__(self):
    return 160

  def __getitem__(self, index):
    x = np.random.default_rng(int(index)).normal(size=4).astype(np.float32)
    return {'x': x, 'y': x.sum()}


def _data_loader(source=None):
  return grain.DataLoader(
    data_source=source or _Records(),
    sampler=grain.IndexSampler(
      num_records=160,
      shuffle=True,
      seed=3,
      num_epochs=1,
      shard_options=grain.NoSharding(),
    ),
    operations=[grain.Batch(16)],
  )


def _iter_dataset():
  return (
    grain.MapDataset.source(_Records()).shuffle(3).to_iter_dataset().batch(16)
  )


def test_positions_survive_as_they_are():
  position = {'a': [(-1, 2), b'x', {'b': None}], 'n': np.int64(3), 't': ()}
  there = json.loads(json.dumps(encode_position(position)))
  found = decode_position(there)
  assert repr(found) == repr(position | {'n': 3})
  with pytest.raises(TypeError, match='dict {1: 2} cannot be saved'):
    encode_position({'a': {1: 2}})


def test_a_position_that_becomes_unsavable_is_named_with_its_iterator(tmp_path):
  class Buffered:
    def __init__(self):
      self.batches, self.last = iter(_batches(9)), None

    def __iter__(self):
      return self

    def __next__(self):
      self.last = next(self.batches)
      return self.last

    def get_state(self):
      return {'last': self.last}

  trainer = _trainer()
  with pytest.raises(ValueError, match=r'\(Buffered\) gives .*: ndarray'):
    trainer.fit(
      trainer.init(_params()), Buffered(), 3, checkpoint_dir=str(tmp_path)
    )


@pytest.mark.parametrize('make', [_data_loader, _iter_dataset])
def test_input_of_grain_resumes_where_it_was(make, tmp_path):
  trainer = _trainer()
  whole = trainer.fit(trainer.init(_params()), make(), 10)
  folder = str(tmp_path)
  trainer.fit(trainer.init(_params()), make(), 4, checkpoint_dir=folder)
  resumed = trainer.fit(
    trainer.init(_params()), make(), 10, checkpoint_dir=folder
  )
  np.testing.assert_array_equal(whole.params['w'], resumed.params['w'])


def test_a_source_known_by_its_address_is_told_at_the_start(tmp_path, caplog):
  trainer = _trainer()
  kind = type('Bare', (_Records,), {'__repr__': object.__repr__})
  data = _data_loader(kind())
  trainer.fit(trainer.init(_params()), data, 1, checkpoint_dir=str(tmp_path))
  assert 'Bare object at 0x' in caplog.text
  assert 'Give the class a __repr__' in caplog.text


class _Unsaveable:
  """An iterator whose position cannot be written."""

  def __init__(self):
    self._batches = _batches(9)
    self.taken = 0

  def __iter__(self):
    return self

  def __next__(self):
    self.taken += 1
    return next(self._batches)

  def get_state(self):
    return object()

  def set_state(self, state):
    del state


def test_data_without_a_position_start_over_and_it_is_said(tmp_path, caplog):
  trainer, folder = _trainer(), str(tmp_path)
  trainer.fit(trainer.init(_params()), _batches(9), 3, checkpoint_dir=folder)
  assert 'start over' not in caplog.text
  trainer.fit(trainer.init(_params()), _batches(9), 5, checkpoint_dir=folder)
  assert 'generator has no position to resume from' in caplog.text


@pytest.mark.parametrize('num', [0, 2])
def test_data_that_end_too_early_are_told(num, caplog):
  trainer = _trainer()
  state = trainer.fit(trainer.init(_params()), _batches(num), 2)
  assert int(state.step) == num and bool(caplog.text) == (num < 2)
  trainer.fit(trainer.init(_params()), _batches(num), 5)
  assert f'the data ended after step {num} of 5' in caplog.text


def test_a_position_that_cannot_be_saved_is_refused_at_the_start(tmp_path):
  trainer, batches = _trainer(), _Unsaveable()
  with pytest.raises(ValueError, match=r'get_state.*_Unsaveable.*object'):
    trainer.fit(
      trainer.init(_params()), batches, 3, checkpoint_dir=str(tmp_path)
    )
  assert not batches.taken
  trainer.fit(trainer.init(_params()), batches, 3)  # Nothing to save here.


def test_predictions_keep_their_shapes():
  trainer = _trainer()
  state = trainer.init(_params())

  def predict_fn(params, batch, rng):
    del rng
    x = batch['x'] * 2 + params['w'][None]
    return {
      'vector': x,
      'matrix': x[:, :, None] * x[:, None],
      'sum': x.sum(1),
      'narrow': x.astype(jnp.bfloat16),
    }

  batches = [b for rows in (16, 8, 3) for b in _batches(1, rows=rows)]
  found = trainer.predict(state, iter(batches), predict_fn)
  x = np.concatenate([b['x'] for b in batches]) * 2
  assert found['vector'].shape == (27, 4) and found['sum'].shape == (27,)
  np.testing.assert_allclose(found['vector'], x, rtol=1e-6)
  np.testing.assert_allclose(
    found['matrix'], x[:, :, None] * x[:, None], rtol=1e-6
  )
  np.testing.assert_array_equal(found['narrow'], x.astype(jnp.bfloat16))


def test_predictions_that_are_no_rows_are_explained():
  trainer = _trainer()
  state, batches = trainer.init(_params()), list(_batches(1))
  nested = lambda x: {'a': {'q': x}}, lambda x: {'a': [x, x]}
  for outputs in (lambda x: x, lambda x: {'mean': x.mean()}, *nested):
    with pytest.raises(ValueError, match='needed is a dict of arrays'):
      trainer.predict(state, batches, lambda p, b, rng, o=outputs: o(b['x']))


# Metrics and new values from the loss.


def _rich_loss(params, batch, rng):
  """A linear model behind a batch norm, with statistics to carry on."""
  del rng
  x, w = batch['x'], batch['weight']
  stats = params['stats']
  mean = jnp.sum(x * w[:, None], 0) / jnp.maximum(jnp.sum(w), 1)
  x = x - stats['mean'][None]
  error = x @ params['w'] + params['b'] - batch['y']
  updates = {
    'stats': {
      'mean': 0.9 * stats['mean'] + 0.1 * mean,
      'count': stats['count'] + 1,
      'is_seen': jnp.any(w > 0),
    }
  }
  metrics = {'mae': jnp.abs(error), 'largest': jnp.max(params['w'])}
  return jnp.square(error), w, metrics, updates


def _rich_batches(num):
  rng = np.random.default_rng(1)
  for batch in _batches(num, rows=32):
    yield batch | {'weight': rng.integers(0, 3, 32).astype(np.float32)}


def _rich_trainer(code, **kwargs):
  kwargs = {'num_micro_batches': 2} | kwargs
  return _trainer(
    code, _rich_loss, mutable=lambda name: name.startswith('stats'), **kwargs
  )


def _rich_params():
  stats = {
    'mean': np.zeros(4, np.float32),
    'count': np.int32(-5),
    'is_seen': np.False_,
  }
  return _params() | {'stats': stats}


_SEEN = ('loss', 'mae', 'largest')


@pytest.fixture(scope='module')
def reference():
  """Three steps of `_rich_loss` by hand, on whole batches."""
  optimizer = optax.adam(1e-2)
  trained, stats, seen = _params(), _rich_params()['stats'], []
  state = optimizer.init(trained)

  def loss(trained, stats, batch):
    losses, w, metrics, _ = _rich_loss(trained | {'stats': stats}, batch, None)
    mae = jnp.sum(metrics['mae'] * w) / jnp.sum(w)
    return jnp.sum(losses * w) / jnp.sum(w), (mae, metrics['largest'])

  for batch in _rich_batches(3):
    (value, more), grads = jax.value_and_grad(loss, has_aux=True)(
      trained, stats, batch
    )
    seen.append([float(x) for x in (value, *more)])
    # The weighted mean of the means of parts is that of the whole.
    w = batch['weight'][:, None]
    mean = np.sum(batch['x'] * w, 0) / np.sum(w)
    stats = {
      'mean': 0.9 * stats['mean'] + 0.1 * mean,
      'count': stats['count'] + 1,
      'is_seen': np.True_,
    }
    updates, state = optimizer.update(grads, state, trained)
    trained = optax.apply_updates(trained, updates)
  return np.array(seen), trained | {'stats': stats}


def _assert_is_reference(seen, params, reference):
  np.testing.assert_allclose(seen, reference[0], rtol=1e-4, atol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    params,
    reference[1],
  )
  assert params['stats']['count'] == -2
  assert params['stats']['count'].dtype == np.int32


@pytest.mark.parametrize('code', _EVERY_CODE)
def test_metrics_and_new_values_are_those_of_one_device(code, reference):
  trainer = _rich_trainer(code)
  state, seen = trainer.init(_rich_params()), []
  for batch in _rich_batches(3):
    state, metrics = trainer.step(state, batch)
    seen.append([float(metrics[name]) for name in _SEEN])
  _assert_is_reference(seen, trainer.params(state), reference)


@pytest.mark.parametrize('code', first_fast('IIG', 'NNN'))
def test_metrics_and_new_values_of_an_elastic_step(code, reference):
  trainer = _rich_trainer(code)
  state, seen = trainer.init(_rich_params()), []
  step = trainer.elastic_step()
  for batch in _rich_batches(3):
    step.begin(state)
    for half in (slice(0, 16), slice(16, 32)):
      micro = jax.tree.map(lambda x: x[half], batch)
      step.local.add(step.local.place(micro))
    state, metrics = step.finish(state, {'num_valid': 8})
    seen.append([float(metrics[name]) for name in _SEEN])
  _assert_is_reference(seen, trainer.params(state), reference)


def test_a_process_without_data_in_the_first_step_learns_the_metrics():
  trainer = _rich_trainer('IIG')
  state = trainer.init(_rich_params())
  step = ElasticStep(trainer.step_spec(), [[0], [1]])
  for counts in ((2, 0), (1, 1)):
    step.begin(state)
    for part, count in zip(step.parts, counts, strict=True):
      for batch in _rich_batches(count):
        micro = jax.tree.map(lambda x: x[:16], batch)
        part.add(part.place(micro))
    state, metrics = step.finish(state, {'num_valid': 4}, {'num_valid': 4})
    assert float(metrics['mae']) > 0
  assert trainer.params(state)['stats']['count'] == -3


def test_metrics_reach_the_user_and_statistics_the_checkpoint(tmp_path):
  trainer, seen = _rich_trainer('IIG'), []
  state = trainer.fit(
    trainer.init(_rich_params()),
    _rich_batches(2),
    2,
    checkpoint_dir=str(tmp_path),
    on_step=lambda number, values: seen.append(values['mae']),
  )
  again = _rich_trainer('GGG', compute_dtype=jnp.bfloat16)
  restored = again.fit(
    again.init(_rich_params()), [], 2, checkpoint_dir=str(tmp_path)
  )
  assert len(seen) == 2 and seen[0] > 0
  for one, other in zip(
    jax.tree.leaves(trainer.params(state)['stats']),
    jax.tree.leaves(again.params(restored)['stats']),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)  # fp32 beside bfloat16.


@pytest.mark.parametrize(
  'result, message',
  [
    (lambda x: (x, None, {}, {}), r'new values of \[\].*mutable.*stats.mean'),
    (lambda x: (x, x, {'a': x[:1]}), r'the metric a of shape \(1,\)'),
    (lambda x: (x, {'a': {'b': x}}), r"the metric a of shape {'b': \(2,\)}"),
    (lambda x: (x, x, x), r'needed is losses, \(losses, metrics\)'),
    (
      lambda x: (x, None, {}, {'stats': _rich_params()['stats'] | {'mean': x}}),
      r'a new stats.mean of shape',
    ),
    (
      lambda x: (x, None, {'loss': x}, {'stats': _rich_params()['stats']}),
      r"metrics \['loss'\].*other names",
    ),
  ],
)
def test_a_loss_that_returns_something_else_is_told(result, message):
  trainer = _trainer(
    loss=lambda params, batch, rng: result(_loss(params, batch, rng)),
    mutable=lambda name: name.startswith('stats'),
  )
  with pytest.raises(ValueError, match=message):
    trainer.step(trainer.init(_rich_params()), next(_batches(1)))


def test_negative_weights_count():
  def loss(params, batch, rng):
    return _loss(params, batch, rng), batch['w']

  batch = next(_batches(1)) | {'w': np.resize(np.float32([3, -1]), 16)}

  def whole(params):
    return jnp.sum(_loss(params, batch, None) * batch['w']) / batch['w'].sum()

  trainer = Trainer(
    loss, optax.sgd(0.1), mesh=make_mesh(intra=4), min_shard_size=2
  )
  start = {'w': np.ones(4, np.float32), 'b': np.ones((), np.float32)}
  value, grads = jax.value_and_grad(whole)(start)
  for sign in (1, -1):  # Their sum may be negative too.
    state, metrics = trainer.step(
      trainer.init(start), batch | {'w': sign * batch['w']}
    )
    np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
    for name, x in start.items():
      np.testing.assert_allclose(
        state.params[name], x - 0.1 * grads[name], rtol=1e-5
      )


@pytest.mark.parametrize('remat_policy', [False, True])
def test_weights_that_depend_on_parameters_are_refused(remat_policy):
  def loss(params, batch, rng):
    return _loss(params, batch, rng), jnp.abs(batch['x'] @ params['w'])

  trainer = _trainer(loss=loss, remat_policy=remat_policy)
  with pytest.raises(ValueError, match='weights that depend.*stop_gradient'):
    trainer.step(trainer.init(_params()), next(_batches(1)))

  def constant(params, batch, rng):
    weights = lax.stop_gradient(batch['x'] @ params['w'])
    return _loss(params, batch, rng), jnp.exp(weights)

  trainer = _trainer(loss=constant, remat_policy=remat_policy)
  trainer.step(trainer.init(_params()), next(_batches(1)))


def test_complex_leaves_are_refused_unless_frozen():
  params = _params() | {'c': np.ones(2, np.complex64)}
  with pytest.raises(ValueError, match='leaf c is complex64'):
    _trainer().init(params)
  _trainer(trainable=lambda name: name != 'c').init(params)


def test_integers_among_the_parameters_are_named(caplog):
  params = _params() | {'n': np.ones(2, np.int32)}
  _trainer().init(params)
  assert 'Leaf n is int32: it is not trained.' in caplog.text
  caplog.clear()
  _trainer(trainable=lambda name: name != 'n').init(params)
  assert 'Leaf n' not in caplog.text


def _towers(params, batch):
  return batch['x'] @ params['user'], batch['z'] @ params['item']


def _in_batch_loss(params, batch, rng):
  del rng
  user, item = _towers(params, batch)
  items, first = all_examples(item)
  logits = user @ items.T
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, first + jnp.arange(len(user))
  )


@pytest.mark.parametrize('code', _CODES)
@pytest.mark.parametrize('intra', first_fast(4, 2))
def test_negatives_of_the_whole_batch_are_those_of_one_device(code, intra):
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  params = {'user': normal(4, 3), 'item': normal(5, 3)}
  batch = {'x': normal(16, 4), 'z': normal(16, 5)}

  def whole(params):
    user, item = _towers(params, batch)
    return optax.softmax_cross_entropy_with_integer_labels(
      user @ item.T, jnp.arange(16)
    ).mean()

  trainer = Trainer(
    _in_batch_loss,
    optax.sgd(0.1),
    mesh=make_mesh(intra=intra),
    paro=code,
    min_shard_size=2,
  )
  state, metrics = trainer.step(trainer.init(params), batch)
  value, grads = jax.value_and_grad(whole)(params)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  jax.tree.map(
    lambda new, old, grad: np.testing.assert_allclose(
      new, old - 0.1 * grad, rtol=1e-4, atol=1e-6
    ),
    trainer.params(state),
    params,
    grads,
  )


@pytest.mark.parametrize('code', _EVERY_CODE)
def test_an_algorithm_that_moves_nothing_is_refused(code):
  """`global_moves` says what the compiled step shows."""
  if not PaRO.from_code(code).global_moves:
    with pytest.raises(ValueError, match=f'ring.*{code}.*codes NNN NNG NIG'):
      _trainer(code, collectives='ring')
    return
  params = {'w': np.zeros(8, np.float32), 'b': np.zeros((), np.float32)}
  batch = {'x': np.zeros((16, 8), np.float32), 'y': np.zeros(16, np.float32)}
  counts = []
  for algorithm in ('ring', 'xla'):
    trainer = _trainer(code, collectives=algorithm)
    state = trainer.init(params)
    step = trainer.compiled_step()
    lowered = step.lower(state, trainer.step_inputs(batch))
    counts.append(lowered.as_text().count('collective_permute'))
  assert counts[0] > counts[1]


def test_a_code_that_takes_half_of_it_is_told(caplog):
  with caplog.at_level('WARNING'):
    _trainer('NIG', collectives='ring')
  assert 'Under NIG only parameters move by ring' in caplog.text


@pytest.mark.parametrize(
  'extra', [np.array(['a'] * 16), np.array([object()] * 16), [b'x'] * 16]
)
def test_what_is_no_number_in_a_batch_is_named(extra):
  trainer = _trainer()
  state = trainer.init(_params())
  batch = next(_batches(1)) | {'title': np.asarray(extra)}
  with pytest.raises(ValueError, match=r"batch\['title'\].*needed are numbers"):
    trainer.step(state, batch)


def test_lists_in_a_batch_are_told_from_arrays():
  trainer = _trainer()
  batch = {name: x.tolist() for name, x in next(_batches(1)).items()}
  with pytest.raises(ValueError, match='Lists are trees .* make arrays'):
    trainer.step(trainer.init(_params()), batch)
