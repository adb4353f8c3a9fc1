# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""--paro=auto: the planner's code, with its reason in the log."""

import jax
import jax.numpy as jnp
import optax
import pytest

from antjax.collectives import cost_model
from antjax.jobs import auto_paro
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import VALID_CODES

PARAMS = {'w': jax.ShapeDtypeStruct((512, 512), jnp.float32)}


def choose(code, tmp_path=None, intra=4, **kwargs):
  if tmp_path is not None:
    kwargs['links_file'] = str(tmp_path / 'links.json')
    cost_model.save(cost_model.Links(1e9, 1e8), kwargs['links_file'])
  return auto_paro.choose_paro(
    code, PARAMS, optax.adamw(1e-3), make_mesh(intra=intra), **kwargs
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
