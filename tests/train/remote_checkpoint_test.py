# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in a bucket, which a server on loopback plays."""

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax import paths
from antjax.mesh.mesh import make_mesh
from antjax.train import checkpoint, warm_start
from antjax.train.trainer import Trainer
from tests import bucket


@pytest.fixture(scope='module', params=bucket.SCHEMES)
def url(request):
  with bucket.used(request.param) as url:
    yield url


def _batches(num):
  rng = np.random.default_rng(0)
  for _ in range(num):
    x = rng.normal(size=(16, 4)).astype(np.float32)
    yield {'x': x, 'y': x.sum(1)}


def test_training_resumes_from_a_bucket(url):
  folder = f'{url}/run/checkpoints'
  trainer = Trainer(
    lambda params, batch, rng: jnp.square(
      batch['x'] @ params['w'] - batch['y']
    ),
    optax.adam(1e-2),
    mesh=make_mesh(intra=4),
    paro='IIG',
    min_shard_size=2,
  )
  batches = list(_batches(8))

  def start():
    return trainer.init({'w': np.zeros(4, np.float32)})

  def check(state):
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)

  expected = trainer.fit(start(), batches, 6)
  options = {'checkpoint_dir': folder, 'checkpoint_every': 2, 'keep': 2}
  trainer.fit(start(), batches, 4, **options)
  # As a killed run leaves it.
  torn = epath.Path(folder) / '5' / 'meta'
  torn.mkdir(parents=True)
  (torn / 'metadata').write_text('{}')
  assert checkpoint.latest_step(folder) == 4
  check(trainer.fit(start(), batches[4:], 6, **options))
  assert checkpoint.steps(folder) == [4, 6]
  check(warm_start.warm_start(trainer, start(), folder))


@pytest.mark.slow
def test_a_copy_knows_the_folder_of_its_checkpoints(url):
  with paths.written(f'{url}/a') as folder:
    folder.mkdir()
    (folder / 'text').write_text('1')
    assert paths.origin(folder / 'b') == f'{url}/a/b'
  (epath.Path(url) / 'a' / 'checkpoints' / '3' / 'x').parent.mkdir(parents=True)
  (epath.Path(url) / 'a' / 'checkpoints' / '3' / 'x').write_text('x')
  copy = paths.fetched(f'{url}/a')
  assert [path.name for path in copy.iterdir()] == ['text']
  assert paths.origin(copy / 'checkpoints') == f'{url}/a/checkpoints'
