# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's own mesh over two real processes: `data` crosses them."""

import jax
from jax.sharding import AxisType, Mesh
import numpy as np
import pytest

from tests.multiprocess.run_workers import run_workers
from tests.train import own_mesh_test as case
from tests.train import plain as plain_lib
from tests.train.elastic_control import Control

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def _mine(batches):
  """This process's rows."""
  size = case.BATCH // jax.process_count()
  start = jax.process_index() * size
  for batch in batches:
    yield jax.tree.map(lambda x: x[start : start + size], batch)


def work(folder):
  devices = np.array(jax.devices()).reshape(2, 2, 2)
  mesh = Mesh(
    devices, ('data', 'model', 'fsdp'), axis_types=(AxisType.Auto,) * 3
  )
  trainer = case.make_trainer('NIG', mesh=mesh, auto_specs=case.AUTO.get)
  weights = []
  for options in ({}, {'checkpoint_dir': folder}, {'elastic': Control()}):
    state = trainer.init(case.init_params())
    state = trainer.fit(state, _mine(case.batches()), 3, **options)
    weights.append(
      jax.tree.map(lambda x: np.asarray(x).tolist(), trainer.params(state))
    )

  def predict_fn(params, batch, rng):
    losses, _ = case.split_loss_fn(params, batch, rng)
    return {'prediction': losses}

  state = trainer.init(case.init_params())
  state = trainer.fit(state, iter(()), 3, checkpoint_dir=folder)
  said = trainer.predict(state, _mine(case.batches(1)), predict_fn)
  crossing = Mesh(
    devices.swapaxes(0, 1), mesh.axis_names, axis_types=mesh.axis_types
  )
  with pytest.raises(ValueError, match=r'cross processes \[0, 1\]'):
    case.make_trainer('NIG', mesh=crossing)
  return {'weights': weights, 'losses': said['prediction'].tolist()}


def test_two_processes_equal_one_device(tmp_path):
  params, _, _ = plain_lib.train(
    case.init_params(), case.loss_fn, case.optimizer(), case.batches()
  )
  losses, _ = case.loss_fn(params, next(case.batches()), None)
  for said in run_workers(work, tmp_path / 'run', hosts=2, num_devices=8):
    for found in said['weights']:
      for name, value in params.items():
        np.testing.assert_allclose(
          found[name], value, atol=case.SUM_ORDER_ATOL, err_msg=name
        )
    np.testing.assert_allclose(said['losses'], losses, rtol=1e-3)
