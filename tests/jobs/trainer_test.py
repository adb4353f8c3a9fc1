# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""--paro=auto, what a machine can do, and what the compiler says of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.collectives import cost_model
from antjax.jobs import trainer
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import VALID_CODES
from antjax.report import job_report
from antjax.train.trainer import Trainer

PARAMS = {'w': jax.ShapeDtypeStruct((512, 512), jnp.float32)}


def choose(code, tmp_path=None, intra=4, **kwargs):
  if tmp_path is not None:
    kwargs['links_file'] = str(tmp_path / 'links.json')
    cost_model.save(cost_model.Links(1e9, 1e8), kwargs['links_file'])
  return trainer.choose_paro(
    code,
    PARAMS,
    optax.adamw(1e-3),
    make_mesh(intra=intra),
    num_micro_batches=1,
    compute_s=0.0,
    **kwargs,
  )


def test_a_code_stays_what_it_is():
  assert choose('NIG').code == 'NIG'
  with pytest.raises(ValueError, match='NIN'):
    choose('NIN')


def test_auto_plans_and_says_why(tmp_path, caplog):
  caplog.set_level('INFO')
  # One micro-batch: NNG sends no less than others, and no more.
  chosen = choose('auto', tmp_path)
  assert chosen.code in VALID_CODES
  assert f'{chosen.code} has the least' in caplog.text


def test_memory_binds(tmp_path):
  whole = 512 * 512 * 4
  chosen = choose('auto', tmp_path, device_bytes=4 * whole)
  assert max(chosen.params, chosen.opt_state) > 0
  with pytest.raises(ValueError, match='No code fits'):
    choose('auto', tmp_path, device_bytes=whole // 4)


@pytest.mark.slow
def test_without_a_file_links_are_measured():
  assert choose('auto').code in VALID_CODES


@pytest.mark.parametrize('num_devices', [1, 4])
def test_bytes_of_a_batch_on_a_device(num_devices):
  mesh = make_mesh(devices=jax.devices()[:num_devices], intra=1)
  one = Trainer(
    lambda params, batch, rng: (batch['x'] @ params) ** 2 + batch['k'],
    optax.sgd(0.1),
    mesh=mesh,
  )
  state = one.init(np.ones(3, np.float32))
  # int64 is int32 on the device.
  batch = {'x': np.ones((8, 3), np.float32), 'k': np.ones(8, np.int64)}
  compiled, size = trainer.compiled_bytes(one, state, batch)
  # Three flags come with a batch.
  assert size == (8 * 3 + 8) * 4 // num_devices + 3 * 4
  assert compiled['arguments'] >= size + 3 * 4


def test_measures_speed_and_memory():
  assert 0 < trainer.matmul_flops(np.float32, size=64) < 1e15
  assert job_report.peak_bytes()['process'] > 2**20
