# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax/mesh/compiler: what XLA is told."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from antjax.mesh import compiler
from antjax.mesh import mesh as mesh_lib


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


def test_other_devices_are_left_to_xla():
  device = types.SimpleNamespace(platform='tpu')
  mesh = types.SimpleNamespace(devices=np.asarray([device]))
  assert compiler.options(mesh) == {}


def test_an_option_that_is_unknown_is_left_out(monkeypatch):
  monkeypatch.setattr(compiler, '_KERNELS', 'xla_cpu_no_such_option')
  assert compiler.options(mesh_lib.make_mesh(intra=1)) == {}
