# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints restore under any code and mesh, and training resumes."""

import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from antjax.embedding import stream
from antjax.embedding import table as table_lib
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.checkpoint import Checkpointer
from antjax.train.feed import set_position
from antjax.train.trainer import Trainer
from antjax.train.warm_start import warm_start
from tests.cases import first_fast
from tests.train.positioned import Positioned

# Another code sums in another order; through 3 Adam steps.
SUM_ORDER_ATOL = 2e-5


@functools.cache
def make_trainer(
  code, intra, level='global', width=13, num_devices=8, **kwargs
):
  """(trainer, its first state); the programs of each are compiled once."""
  mesh = make_mesh(intra=intra, devices=jax.devices()[:num_devices])
  tables = EmbeddingTables(
    [TableSpec('item', 53, 4, level, Adam(0.01), init_scale=1.0)],
    {'item': 'item'},
    mesh=mesh,
  )

  def loss_fn(params, rows, batch, rng):
    del rng
    x = tables.lookup(rows, batch['ids'])['item'].reshape(-1, 12)
    h = jnp.tanh(x @ params['odd'])
    y = h @ params['frozen'] + params['bias'][None]
    return jnp.mean(jnp.square(y - batch['y']), axis=1)

  trainer = Trainer(
    loss_fn,
    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
    mesh=mesh,
    paro=code,
    tables=tables,
    trainable=lambda name: name != 'frozen',
    min_shard_size=8,
    **kwargs,
  )
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  params = {
    'odd': normal(12, width),
    'frozen': normal(width, 3),
    'bias': normal(3),
  }
  return trainer, trainer.init(params, seed=2)


def batch_of(number):
  rng = np.random.default_rng(number)
  return {
    'ids': {'item': rng.integers(0, 53, (16, 3))},
    'y': rng.normal(size=(16, 3)).astype(np.float32),
  }


def copied(state):
  return jax.tree.map(jnp.copy, state)


def train(path, code, intra, num_steps, losses, **kwargs):
  trainer, state = make_trainer(code, intra, **kwargs)

  def on_step(step, metrics):
    losses[step] = metrics['loss']

  return trainer, trainer.fit(
    copied(state),
    Positioned(batch_of),
    num_steps,
    checkpoint_dir=str(path),
    checkpoint_every=2,
    on_step=on_step,
  )


@pytest.mark.parametrize(
  ('first', 'second'),
  first_fast(
    (('IIG', 4), ('GGG', 2)), (('GGG', 8), ('NNN', 1)), (('NNG', 2), ('III', 4))
  ),
)
def test_training_goes_on_under_another_code_and_mesh(tmp_path, first, second):
  expected, actual = {}, {}
  first_trainer, whole = train(tmp_path / 'whole', *first, 6, expected)
  train(tmp_path / 'parts', *first, 3, actual)
  level = 'intra' if second[1] > 1 else 'none'
  trainer, state = train(tmp_path / 'parts', *second, 6, actual, level=level)
  assert sorted(actual) == [1, 2, 3, 4, 5, 6]
  np.testing.assert_allclose(
    [actual[i] for i in range(1, 7)],
    [expected[i] for i in range(1, 7)],
    rtol=1e-4,
  )
  for a, b in zip(
    jax.tree.leaves(trainer.params(state)),
    jax.tree.leaves(first_trainer.params(whole)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=SUM_ORDER_ATOL)
  moved = np.asarray(trainer.params(state)['odd'])
  assert np.abs(moved - make_trainer(*first)[1].params['odd'][:, :13]).max() > 0


@pytest.mark.slow
def test_mixed_precision_restores_from_and_to_fp32(tmp_path):
  losses = {}
  train(tmp_path, 'IIG', 4, 2, losses)
  trainer, state = train(
    tmp_path, 'NIG', 4, 4, losses, compute_dtype=jnp.bfloat16
  )
  assert state.params['odd'].dtype == jnp.bfloat16
  copy = state.params['odd']
  np.testing.assert_array_equal(
    copy, trainer.params(state)['odd'].astype(jnp.bfloat16)
  )
  _, state = train(tmp_path, 'GGG', 4, 6, losses)
  assert state.params['odd'].dtype == jnp.float32
  assert int(state.step) == 6


def test_an_async_save_is_not_disturbed_by_donation(tmp_path):
  trainer, state = make_trainer('IIG', 4)
  state = copied(state)
  with Checkpointer(str(tmp_path), trainer.layout, keep=10) as saver:
    batches, kept = Positioned(batch_of), {}
    for step in range(4):
      kept[step] = jax.tree.map(np.array, trainer.params(state))
      saver.save(step, state)
      state, _ = trainer.step(state, next(batches))  # Donates `state`.
    saver.wait()
    for step, expected in kept.items():
      restored, _ = saver.restore(step)
      jax.tree.map(
        np.testing.assert_array_equal, trainer.params(restored), expected
      )


def test_newest_and_best_are_kept(tmp_path):
  trainer, state = make_trainer('IIG', 4)
  scores = iter([0.5, 0.1, 0.3, 0.4, 0.2])
  for stop in (3, 5):  # A run that goes on knows what was best before.
    trainer.fit(
      copied(state),
      Positioned(batch_of),
      stop,
      checkpoint_dir=str(tmp_path),
      keep=2,
      best_metric='mae',
      evaluate_fn=lambda _: {'mae': next(scores)},
      evaluate_every=1,
    )
  kept = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
  assert kept == [2, 4, 5]  # Step 2 had the lowest error.


def test_a_checkpoint_of_another_model_is_refused_and_kept(tmp_path):
  train(tmp_path, 'IIG', 4, 2, {})
  before = sorted(p.name for p in tmp_path.iterdir())
  with pytest.raises(
    ValueError, match=r'another model: params frozen is \[\[13, 3\].* \[\[14'
  ):
    train(tmp_path, 'IIG', 4, 4, {}, width=14)
  assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_input_position_of_several_processes_needs_merging(tmp_path):
  trainer, state = make_trainer('IIG', 4)
  with Checkpointer(str(tmp_path), trainer.layout) as saver:
    saver.save(0, state, input_state={'next': 0})
    _, positions = saver.restore()
  assert positions == [{'next': 0}]

  batches = Positioned(batch_of)
  with pytest.raises(ValueError, match='pass merge_input_states'):
    set_position(batches, [{'next': 1}, {'next': 2}], None)
  set_position(batches, [{'next': 1}, {'next': 2}], lambda states: states[1])
  assert batches.get_state() == {'next': 2}


def test_should_stop_saves_and_raises_and_resumes(tmp_path):
  trainer, state = make_trainer('IIG', 4)
  seen = []
  with pytest.raises(KeyboardInterrupt):
    trainer.fit(
      copied(state),
      Positioned(batch_of),
      100,
      checkpoint_dir=str(tmp_path),
      on_step=lambda step, _: seen.append(step),
      should_stop=lambda: len(seen) >= 3,
    )
  assert seen[:3] == [1, 2, 3]
  assert len(seen) < 8
  again = []
  trainer.fit(
    copied(state),
    Positioned(batch_of),
    10,
    checkpoint_dir=str(tmp_path),
    on_step=lambda step, _: again.append(step),
  )
  assert seen + again == list(range(1, 11))


@pytest.mark.parametrize(
  ('code', 'intra', 'level', 'num_devices'),
  [
    ('NNN', 3, 'intra', 6),
    *first_fast(
      ('IIG', 8, 'global', 8),
      ('GGG', 2, 'intra', 8),
      ('NNN', 1, 'none', 8),
      ('IIG', 2, 'global', 6),
      ('NNN', 1, 'global', 1),
    ),
  ],
)
def test_tables_restore_on_another_mesh_and_level_bit_for_bit(
  tmp_path, code, intra, level, num_devices
):
  """Rows and their slots, in the order of ids."""

  def canonical(trainer, state):
    whole = trainer.tables.to_canonical(state.tables)
    return jax.tree.map(lambda x: np.array(x)[:53], whole)

  first, state = train(tmp_path, 'IIG', 4, 3, {}, level='global')
  other, new = make_trainer(code, intra, level, num_devices=num_devices)
  with Checkpointer(str(tmp_path), other.layout) as saver:
    restored, _ = saver.restore(3)
  want = canonical(first, state)
  jax.tree.map(np.testing.assert_array_equal, canonical(other, restored), want)
  untrained = canonical(other, new)
  assert np.any(untrained['item']['table'] != want['item']['table'])


@pytest.mark.parametrize('level', first_fast('global', 'intra', 'none'))
def test_large_tables_are_saved_and_restored_block_by_block(
  tmp_path, monkeypatch, level
):
  """The rows of any mesh, in little memory beside those of the state."""
  monkeypatch.setattr(stream, '_BLOCK_BYTES', 64)
  monkeypatch.setattr(table_lib, '_LARGE_BYTES', 0)
  first, state = train(tmp_path, 'IIG', 4, 3, {}, level='global')
  other, new = make_trainer('GGG', 2, level)
  with (
    monkeypatch.context() as patch,
    Checkpointer(str(tmp_path), other.layout) as saver,
  ):
    patch.setattr(other.tables, '_by_stack', None)  # No program of whole ones.
    restored, _ = saver.restore(3)
  want = jax.tree.map(np.asarray, first.tables.streams(state.tables))
  found = jax.tree.map(np.asarray, other.tables.streams(restored.tables))
  jax.tree.map(np.testing.assert_array_equal, found, want)
  monkeypatch.setattr(table_lib, '_LARGE_BYTES', 1 << 30)  # Read whole.
  with Checkpointer(str(tmp_path), other.layout) as saver:
    whole, _ = saver.restore(3)
  jax.tree.map(np.testing.assert_array_equal, whole.tables, restored.tables)
  assert np.any(
    np.asarray(other.tables.streams(new.tables)['item']['table'])
    != found['item']['table']
  )


# Files that others read, and that older versions wrote.


def _line_trainer(code='IIG'):
  def loss_fn(params, batch, rng):
    del rng
    y = batch['x'] @ params['mlp']['w'] + params['b']
    return jnp.square(y - batch['y'])

  trainer = Trainer(
    loss_fn,
    optax.adam(1e-2),
    mesh=make_mesh(intra=4),
    paro=code,
    min_shard_size=2,
  )
  params = {
    'mlp': {'w': np.zeros(5, np.float32)},
    'b': np.zeros((), np.float32),
  }
  return trainer, trainer.init(params)


def _line_batches():
  for i in range(5):
    x = np.random.default_rng(i).normal(size=(16, 5)).astype(np.float32)
    yield {'x': x, 'y': x.sum(1)}


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg'])
def test_keys_in_an_optimizer_s_state_are_saved(tmp_path, impl):
  optimizer = optax.noisy_sgd(0.1, key=jax.random.key(3, impl=impl))
  trainer = Trainer(
    lambda params, batch, rng: jnp.square(batch['x'] @ params - batch['y']),
    optimizer,
    mesh=make_mesh(intra=4),
    paro='IIG',
  )
  state = trainer.init(np.ones(5, np.float32))
  data = list(_line_batches())
  whole = trainer.fit(copied(state), data, 5)
  options = {'checkpoint_dir': str(tmp_path)}
  trainer.fit(copied(state), data[:2], 2, **options)
  resumed = trainer.fit(copied(state), data[2:], 5, **options)
  for read in trainer.params, trainer.opt_state:
    found, want = (jax.tree.leaves(read(s)) for s in (resumed, whole))
    for x, y in zip(found, want, strict=True):
      assert x.dtype == y.dtype
      keyed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
      pair = map(jax.random.key_data, (x, y)) if keyed else (x, y)
      np.testing.assert_array_equal(*pair)


@pytest.mark.filterwarnings('ignore:Sharding info not provided')
def test_orbax_alone_reads_the_users_own_tree(tmp_path):
  trainer, state = _line_trainer()
  state = trainer.fit(state, _line_batches(), 3, checkpoint_dir=str(tmp_path))
  params = trainer.params(state)
  with ocp.CheckpointManager(tmp_path) as manager:
    found = manager.restore(manager.latest_step())
  jax.tree.map(np.testing.assert_array_equal, found['params'], params)
  mu = found['state']['opt_state'][0]['mu']
  wanted = trainer.opt_state(state)[0].mu
  jax.tree.map(np.testing.assert_array_equal, mu, wanted)
  with ocp.StandardCheckpointer() as reader:
    found = reader.restore(
      tmp_path / '3' / 'params',
      jax.tree.map(ocp.utils.to_shape_dtype_struct, params),
    )
  jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_checkpoint_of_the_first_format_is_read(tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(pathlib.Path(__file__).parent / 'golden/format_1', folder)
  trainer, state = _line_trainer()
  wanted = trainer.fit(state, _line_batches(), 3)
  for code in ('IIG', 'NNN', 'GGG'):
    other, state = _line_trainer(code)
    with Checkpointer(str(folder), other.layout) as saver:
      found, _ = saver.restore()
    for read in (Trainer.params, Trainer.opt_state):
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        read(other, found),
        read(trainer, wanted),
      )
    warm = warm_start(other, state, folder)
    np.testing.assert_allclose(
      other.params(warm)['mlp']['w'],
      trainer.params(wanted)['mlp']['w'],
      rtol=1e-5,
    )
