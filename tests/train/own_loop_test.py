# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models, input and outputs as users bring them, through `Trainer`."""

import faulthandler

import grain.python as grain
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer

_CODES = ('NNN', 'IIG', 'GGG')


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


@pytest.mark.parametrize('code', _CODES)
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
  faulthandler.dump_traceback_later(120, exit=True)  # It used to hang.
  trainer = _trainer()
  with pytest.raises(Exception, match='no such luck'):
    trainer.fit(
      trainer.init(_params()), _batches(9), 3, checkpoint_dir=str(tmp_path)
    )
  faulthandler.cancel_dump_traceback_later()


class _Records:
  """Random access to records."""

  def __len__(self):
    return 160

  def __getitem__(self, index):
    x = np.random.default_rng(int(index)).normal(size=4).astype(np.float32)
    return {'x': x, 'y': x.sum()}


def _data_loader():
  return grain.DataLoader(
    data_source=_Records(),
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
    return {'vector': x, 'matrix': x[:, :, None] * x[:, None], 'sum': x.sum(1)}

  batches = list(_batches(2)) + list(_batches(1, rows=8))
  found = trainer.predict(state, iter(batches), predict_fn)
  x = np.concatenate([b['x'] for b in batches]) * 2
  assert found['vector'].shape == (40, 4) and found['sum'].shape == (40,)
  np.testing.assert_allclose(found['vector'], x, rtol=1e-6)
  np.testing.assert_allclose(
    found['matrix'], x[:, :, None] * x[:, None], rtol=1e-6
  )
