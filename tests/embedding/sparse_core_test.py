# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The SparseCore kernel, run line by line on arrays of NumPy.

Pallas does not interpret kernels of SparseCores; `tests/plan/pods_test.py`
compiles this one.
"""

import types

from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.embedding import pooled, pooled_sparse_core

plsc = pytest.importorskip('jax.experimental.pallas.tpu_sc')
LANES, NUM_SUBCORES = 8, 2


class Ref:
  """A view of an array; indices may be views of indices."""

  def __init__(self, array):
    self.array = array

  @property
  def at(self):
    return _At(self.array)

  def __getitem__(self, index):
    return self.array[_plain(index)].copy()

  def __setitem__(self, index, value):
    self.array[_plain(index)] = value


class _At:
  def __init__(self, array):
    self.array = array

  def __getitem__(self, index):
    if isinstance(index, Ref):  # A gather.
      return Ref(self.array[index.array])
    return Ref(self.array[_plain(index)])


def _plain(index):
  if isinstance(index, tuple):
    return tuple(_plain(i) for i in index)
  if isinstance(index, pl.Slice):
    return slice(int(index.start), int(index.start) + index.size)
  return int(index)


class Copy:
  """A copy that happens when it is waited for, from what is there then."""

  def __init__(self, source, target, *_, **kwargs):
    self.source, self.target = source, target

  def start(self):
    self.target.array[...] = np.nan

  def wait(self):
    self.target.array[...] = self.source.array


@pytest.fixture
def on_cpu(monkeypatch):
  """Makes `pooled_sparse_core.sums` run on a CPU."""
  where = {}

  def kernel(body, *, out_type, scratch_types, **kwargs):
    def call(*args):
      refs = [Ref(np.array(x)) for x in args]
      out = Ref(np.full(out_type.shape, np.nan, out_type.dtype))
      for where['core'] in range(2):
        for where['subcore'] in range(NUM_SUBCORES):
          scratch = [
            Ref(
              np.zeros(x.shape, np.float32 if 'float' in str(x.dtype) else int)
            )
            for x in scratch_types[:-1]
          ]
          semaphores = Ref(np.zeros(2))
          body(*refs, out, *scratch, semaphores)
      return jnp.asarray(out.array)

    return call

  def loop(start, stop, step=1):
    def run(body):
      for i in range(int(start), int(stop), step):
        body(i)

    return run

  def add(ref, x):
    ref.array[...] += x

  info = types.SimpleNamespace(
    num_cores=2, num_subcores=NUM_SUBCORES, num_lanes=LANES
  )
  monkeypatch.setattr(plsc, 'get_sparse_core_info', lambda: info)
  monkeypatch.setattr(plsc, 'VectorSubcoreMesh', lambda **kwargs: None)
  monkeypatch.setattr(plsc, 'addupdate', add)
  monkeypatch.setattr(pl, 'kernel', kernel)
  monkeypatch.setattr(pl, 'loop', loop)
  monkeypatch.setattr(pl, 'when', lambda is_so: lambda body: is_so and body())
  monkeypatch.setattr(pl, 'multiple_of', _multiple_of)
  monkeypatch.setattr(pltpu, 'make_async_copy', Copy)
  monkeypatch.setattr(pltpu, 'async_copy', Copy)
  monkeypatch.setattr(pltpu, 'sync_copy', lambda a, b: Copy(a, b).wait())
  monkeypatch.setattr(lax, 'axis_index', lambda name: where[name])


def _multiple_of(x, of):
  assert int(x) % of == 0
  return x


@pytest.mark.parametrize('is_weighted', [False, True])
@pytest.mark.parametrize(
  'shapes', [((3, 2),), ((70, 1), (9, 3)), ((2, 100), (130, 1), (3, 5))]
)
def test_sums_are_those_of_xla(on_cpu, shapes, is_weighted):
  rng = np.random.default_rng(0)
  rows = jnp.asarray(rng.normal(size=(20, 16)), jnp.float32)
  indices = [rng.integers(-2, 22, s).astype(np.int32) for s in shapes]
  weights = None
  if is_weighted:
    weights = [rng.normal(size=s).astype(np.float32) for s in shapes]
  of = [
    pooled.pool_rows(rows, indices, weights, engine=engine)
    for engine in (pooled_sparse_core.sums, 'xla')
  ]
  for found, expected in zip(*of, strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_ragged_bags_and_those_without_entries(on_cpu):
  starts = np.asarray([0, 0, 5, 5, 130, 131, 131, 200, 200], np.int32)
  rng = np.random.default_rng(1)
  rows = jnp.asarray(rng.normal(size=(6, 8)), jnp.float32)
  index = rng.integers(0, 6, 200).astype(np.int32)
  found = pooled_sparse_core.sums(rows, index, None, jnp.asarray(starts))
  expected = [
    rows[index[a:b]].sum(0)
    for a, b in zip(starts[:-1], starts[1:], strict=True)
  ]
  np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-4)
