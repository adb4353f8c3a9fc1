# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ring, two phases and HO-Ring: results, permutes, bytes on each link."""

import collections
import math
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.collectives.choose import Collectives
from antjax.mesh.mesh import INTER, INTRA
from tests.collectives import algorithms_check

ROOT = pathlib.Path(__file__).parents[2]
SHAPES = [(n, m) for n in range(1, 5) for m in range(1, 5)]


@pytest.mark.parametrize(
  ('shape', 'dtype', 'dims'),
  [
    ((2, 3), 'float32', (1,)),
    ((2, 4), 'int32', (0,)),
    ((4, 2), 'bfloat16', (2,)),
    ((1, 4), 'float32', (0,)),
    ((4, 1), 'float32', (0,)),
  ],
)
def test_results_equal_those_of_lax_bit_by_bit(shape, dtype, dims):
  assert not algorithms_check.differences(*shape, dtype, dims)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', algorithms_check.DTYPES)
@pytest.mark.parametrize('shape', [s for s in SHAPES if math.prod(s) <= 8])
def test_everything_equals_lax_bit_by_bit(shape, dtype):
  assert not algorithms_check.differences(*shape, dtype)


@pytest.mark.slow
def test_everything_equals_lax_on_up_to_16_devices():
  shapes = [shape for shape in SHAPES if math.prod(shape) > 8]
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'tests.collectives.algorithms_check'),
      *(str(size) for shape in shapes for size in shape),
    ],
    cwd=ROOT,
    env={'PATH': '', 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  lines = re.findall(r'RESULT (.*)', done.stdout)
  assert lines == [f'{n}x{m}: equal' for n, m in shapes]


def permutes(fn, n, m, x):
  """[(axis, num_bytes, pairs of device numbers)] in the program of `fn`."""
  found = []

  def walk(jaxpr):
    for eqn in jaxpr.eqns:
      if eqn.primitive.name == 'ppermute':
        axes = eqn.params['axis_name']
        axes = axes if isinstance(axes, tuple) else (axes,)
        size = math.prod(eqn.invars[0].aval.shape)
        num_bytes = size * eqn.invars[0].aval.dtype.itemsize
        found.append((axes, num_bytes, eqn.params['perm']))
      for inner in jax.tree.leaves(
        list(eqn.params.values()),
        is_leaf=lambda p: hasattr(p, 'eqns') or hasattr(p, 'jaxpr'),
      ):
        if hasattr(inner, 'jaxpr'):
          inner = inner.jaxpr
        if hasattr(inner, 'eqns'):
          walk(inner)

  stacked = jnp.zeros((n * m, *x.shape), x.dtype)
  walk(
    jax.make_jaxpr(lambda a: algorithms_check.in_shard_map(fn, n, m, a))(
      stacked
    ).jaxpr
  )
  results = []
  for axes, num_bytes, perm in found:
    if axes == (INTER,):
      pairs = [(s * m + j, d * m + j) for s, d in perm for j in range(m)]
    elif axes == (INTRA,):
      pairs = [(i * m + s, i * m + d) for s, d in perm for i in range(n)]
    else:
      assert axes == (INTER, INTRA)
      pairs = list(perm)
    results.append((axes, num_bytes, pairs))
  return results


def uplink_bytes(found, m):
  """Bytes that leave each group."""
  total = collections.Counter()
  for _, num_bytes, pairs in found:
    for source, target in pairs:
      if source // m != target // m:
        total[source // m] += num_bytes
  return total


@pytest.mark.parametrize('shape', [(2, 4), (4, 2), (3, 2), (1, 4), (4, 1)])
def test_ho_ring_takes_the_permutes_of_the_formula(shape):
  n, m = shape
  q = 12  # Elements of a block.
  inter, intra = n - 1, n * (m - 1)
  ho_ring = Collectives('ho_ring')
  for fn, x, factor in (
    (ho_ring.all_gather, jnp.zeros(q), 1),
    (ho_ring.reduce_scatter, jnp.zeros(q * n * m), 1),
    (ho_ring.all_reduce, jnp.zeros(q * n * m), 2),
  ):
    found = permutes(fn, n, m, x)
    counts = collections.Counter(axes for axes, *_ in found)
    assert counts[INTER,] == factor * inter
    assert counts[INTRA,] == factor * intra
    assert set(counts) <= {(INTER,), (INTRA,)}
    # Out of a device: (n-1) q between groups, n (m-1) q inside.
    for axis, steps in (((INTER,), inter), ((INTRA,), intra)):
      sent = sum(b for axes, b, _ in found if axes == axis)
      assert sent == factor * steps * q * 4
    size = q * n * m * 4
    for group, num_bytes in uplink_bytes(found, m).items():
      del group
      assert num_bytes == factor * size * (n - 1) // n


@pytest.mark.parametrize('shape', [(2, 4), (4, 2), (3, 2)])
def test_a_flat_ring_takes_one_permute_less_than_devices(shape):
  n, m = shape
  q = 12
  ring = Collectives('ring')
  for fn, x, factor in (
    (ring.all_gather, jnp.zeros(q), 1),
    (ring.reduce_scatter, jnp.zeros(q * n * m), 1),
    (ring.all_reduce, jnp.zeros(q * n * m), 2),
  ):
    found = permutes(fn, n, m, x)
    assert len(found) == factor * (n * m - 1)
    for axes, num_bytes, pairs in found:
      assert axes == (INTER, INTRA)
      assert num_bytes == q * 4
      crossing = [(a, b) for a, b in pairs if a // m != b // m]
      assert len(crossing) == n  # One hop of each group.
    assert set(uplink_bytes(found, m).values()) == {
      factor * (n * m - 1) * q * 4
    }


@pytest.mark.parametrize('algorithm', algorithms_check.ALGORITHMS)
def test_a_narrow_payload_halves_the_bytes_and_sums_in_fp32(algorithm):
  n, m, size = 2, 3, 6 * 50
  rng = np.random.default_rng(0)
  x = rng.normal(size=(n * m, size)).astype(np.float32)
  narrow = Collectives(algorithm, payload_dtype='bfloat16')

  def everything(addend):
    return (
      narrow.reduce_scatter(addend),
      narrow.all_reduce(addend),
      narrow.all_gather(addend),
      narrow.all_reduce(addend[:7].astype(jnp.int32)),
    )

  scattered, reduced, gathered, ints = map(
    np.asarray, algorithms_check.in_shard_map(everything, n, m, x)
  )
  exact = x.astype(np.float64).sum(0)
  # The worst chain of roundings: one a hop.
  tolerance = np.abs(x).sum(0) * 2.0**-8 * 3
  assert scattered.dtype == reduced.dtype == np.float32
  assert (np.abs(reduced - exact) <= tolerance).all()
  assert np.abs(reduced - exact).max() > 0
  for row in reduced[1:]:  # Equal on all devices, to the bit.
    np.testing.assert_array_equal(row, reduced[0])
  order = np.arange(n * m).reshape(m, n).T.ravel()  # Block of device (i, j).
  for device, block in enumerate(order):
    part = slice(block * size // 6, (block + 1) * size // 6)
    assert (np.abs(scattered[device] - exact[part]) <= tolerance[part]).all()
  want = np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(np.float32))
  by_block = np.empty_like(want)
  by_block[order] = want
  for row in gathered:
    np.testing.assert_array_equal(row, by_block.ravel())
  np.testing.assert_array_equal(
    ints[0], x[:, :7].astype(np.int32).sum(0)
  )  # Integers are never rounded.
  if algorithm != 'hierarchical':
    addend = jnp.zeros(size)
    wide = permutes(Collectives(algorithm).all_reduce, n, m, addend)
    less = permutes(narrow.all_reduce, n, m, addend)
    assert [b for _, b, _ in less] == [b // 2 for _, b, _ in wide]


@pytest.mark.parametrize('algorithm', algorithms_check.ALGORITHMS)
def test_bf16_is_summed_wider_than_it_travels(algorithm):
  # In bf16 256 + 1 is 256: a running sum of ones would stop there.
  x = jnp.full((8, 3), 96.0, jnp.bfloat16)
  got = algorithms_check.in_shard_map(
    Collectives(algorithm).all_reduce, 2, 4, x
  )
  np.testing.assert_array_equal(np.asarray(got, np.float32), 768.0)


@pytest.mark.parametrize('algorithm', algorithms_check.ALGORITHMS)
def test_what_does_not_divide_is_named(algorithm):
  how = Collectives(algorithm)
  with pytest.raises(ValueError, match=r'dim 0 .*\(7,\).*8 devices; pad.* 8,'):
    algorithms_check.in_shard_map(how.reduce_scatter, 2, 4, jnp.zeros((8, 7)))
  with pytest.raises(ValueError, match='dim=1.*needed is -1 to 0'):
    algorithms_check.in_shard_map(
      lambda x: how.reduce_scatter(x, 1), 2, 4, jnp.zeros((8, 8))
    )
