# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Buckets: what is packed comes back, and messages stay within bounds."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.collectives import transition
from antjax.mesh.mesh import BATCH_AXES, make_mesh


def _leaves(dtype=jnp.float32):
  shapes = [(3, 5), (), (7,), (2, 0, 3), (1, 4, 2)]
  sizes = np.cumsum([0] + [int(np.prod(s)) for s in shapes])
  return [
    jnp.arange(a, a + int(np.prod(s)), dtype=dtype).reshape(s)
    for a, s in zip(sizes, shapes)
  ]


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.int32])
def test_unpack_undoes_pack(dtype):
  leaves = _leaves(dtype)
  flat = transition.pack(leaves)
  assert flat.dtype == dtype
  np.testing.assert_array_equal(flat, np.arange(flat.size).astype(dtype))
  for x, y in zip(leaves, transition.unpack(flat, [x.shape for x in leaves])):
    np.testing.assert_array_equal(x, y, strict=True)


def test_one_message_sums_what_one_sum_a_leaf_does():
  mesh = make_mesh(intra=2)
  x = jnp.arange(mesh.size * 6.0).reshape(mesh.size, 6)

  def local(x):
    leaves = [x[0, :2], x[0, 2:].reshape(2, 2)]
    flat = jax.lax.psum(transition.pack(leaves), mesh.axis_names)
    shapes = [y.shape for y in leaves]
    return transition.unpack(flat, shapes), jax.lax.psum(
      leaves, mesh.axis_names
    )

  got, want = jax.shard_map(
    local, mesh=mesh, in_specs=P(BATCH_AXES), out_specs=P()
  )(x)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_array_equal(a, b)


def test_plan_fills_messages_in_order_and_splits_no_leaf():
  leaves = [
    jax.ShapeDtypeStruct((n,), dtype)
    for n, dtype in [(4, 'f4'), (2, 'i4'), (4, 'f4'), (9, 'f4'), (1, 'f4')]
  ]
  assert transition.deal(leaves, 32) == [[0, 2], [1], [3], [4]]
  assert transition.deal(leaves, 10**9) == [[0, 2, 3, 4], [1]]
  assert transition.deal(leaves, 0) == [[i] for i in (0, 1, 2, 3, 4)]
  assert transition.deal([], 32) == []


@pytest.mark.parametrize('max_bytes', [0, 8, 1000])
def test_plan_loses_no_leaf_without_elements(max_bytes):
  leaves = [jax.ShapeDtypeStruct((n,), 'f4') for n in (0, 0, 4, 0, 2)]
  messages = transition.deal(leaves, max_bytes)
  assert sorted(i for message in messages for i in message) == [0, 1, 2, 3, 4]
