# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax/mesh/compiler: what XLA is told."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.jobs import pod_models
from antjax.mesh import compiler
from antjax.mesh import mesh as mesh_lib
from antjax.plan import pod_target


def _product(options: dict[str, str]):
  """A compiled product, large enough for a library's kernel."""

  def product(x):
    return jax.nn.relu(x @ x + 1) @ x

  x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)), 'float32')
  compiled = jax.jit(product, compiler_options=options).lower(x).compile()
  return compiled.as_text(), np.asarray(compiled(x))


def test_products_of_a_cpu_are_eigens():
  """Fails also where YNNPACK is no longer XLA's choice: then delete it."""
  text, product = _product(compiler.options(mesh_lib.make_mesh(intra=1)))
  default_text, default_product = _product({})
  assert 'ynn' in default_text and 'ynn' not in text
  np.testing.assert_allclose(product, default_product, rtol=1e-4, atol=1e-3)


def _mesh_of(platform, kind=''):
  device = types.SimpleNamespace(
    platform=platform, device_kind=kind, process_index=0
  )
  return types.SimpleNamespace(devices=np.asarray([device]))


def test_other_devices_are_left_to_xla():
  assert compiler.options(_mesh_of('tpu', 'TPU v5 lite')) == {}


def test_gpus_keep_several_collectives_in_flight():
  """Fails also where XLA knows an option no longer: then find the new one."""
  found = compiler.options(_mesh_of('gpu', 'NVIDIA H100 80GB HBM3'))
  assert found == compiler._GPU


@pytest.mark.skipif(
  not pod_target.is_installed('libtpu'),
  reason='needs the TPU compiler: pip install libtpu',
)
@pytest.mark.slow
def test_libtpu_knows_the_options_of_sparse_cores():
  target = pod_target.Target.of('v6e:2x2', 1)
  pod_models.prepare(target)
  mesh = mesh_lib.make_mesh(intra=4, devices=target.devices())
  assert compiler.options(mesh) == compiler._SPARSE_CORE


def test_an_option_that_is_unknown_is_left_out(monkeypatch):
  monkeypatch.setattr(compiler, '_KERNELS', 'xla_cpu_no_such_option')
  assert compiler.options(mesh_lib.make_mesh(intra=1)) == {}
