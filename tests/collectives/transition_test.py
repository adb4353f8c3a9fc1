# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Transitions by each algorithm and in messages equal the plain ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.collectives import cost_model, transition
from antjax.collectives.choose import Collectives
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import Level
from antjax.mesh.sharding import leaf_spec
from tests.cases import slow_but

N, I, G = Level  # noqa: E741
# Two split dims, one of them padded; two whole leaves; two dtypes.
SHAPES = [(16, 3), (5, 7), (3, 24), (4,), ()]
DTYPES = [np.float32, np.float32, np.int32, np.float32, np.int32]
SPECS = [
  leaf_spec(shape, dtype, num_devices=8, min_size=10)
  for shape, dtype in zip(SHAPES, DTYPES)
]
LINKS = cost_model.Links(1e9, 1e8, 1e-5, 1e-4)
HOWS = {
  'plain': Collectives(),
  'plain in messages': Collectives(bucket_bytes=1 << 20),
  'ho_ring': Collectives('ho_ring', bucket_bytes=500),
  'ring': Collectives('ring'),
  'hierarchical': Collectives('hierarchical', bucket_bytes=1 << 20),
  'auto': Collectives('auto', LINKS, bucket_bytes=1 << 20),
}
STEPS = [(a, b) for a, b in itertools.product(Level, repeat=2)]


def arrays(seed):
  rng = np.random.default_rng(seed)
  return [rng.integers(-9, 9, s).astype(d) for s, d in zip(SHAPES, DTYPES)]


def run(how, steps):
  """Whole arrays after going to a level and back, for each transition."""
  mesh = make_mesh(intra=4)

  def local(xs):
    shift = jax.lax.axis_index(('inter', 'intra')).astype(jnp.int32)
    addends = [x + shift.astype(x.dtype) for x in xs]
    results = {}
    for level, target in steps:
      if target >= level:
        pieces = [
          transition.reduce_addend(x, spec, level, how)
          for x, spec in zip(addends, SPECS)
        ]
        synced = transition.sync_all(pieces, SPECS, level, target, how)
        results[f'sync {level.name} {target.name}'] = back(synced, target)
      if target <= level:
        pieces = [cut(x, spec, level) for x, spec in zip(xs, SPECS)]
        moved = transition.coarsen_all(pieces, SPECS, level, target, how)
        results[f'coarsen {level.name} {target.name}'] = back(moved, target)
        gathered = [
          transition.gather(x, spec, level, how)
          for x, spec in zip(pieces, SPECS)
        ]
        results[f'gather {level.name}'] = back(gathered, N)
    return jax.tree.map(lambda x: transition.to_varying(x)[None], results)

  def cut(x, spec, level):
    """This device's piece of a whole array."""
    if spec.dim is None or level is N:
      return x
    i, j = jax.lax.axis_index('inter'), jax.lax.axis_index('intra')
    pieces = level.num_pieces(2, 4)
    size = spec.padded_size // pieces
    piece = j if level is I else j * 2 + i
    return jax.lax.dynamic_slice_in_dim(
      spec.pad(x), piece * size, size, spec.dim
    )

  def back(xs, level):
    return [transition.gather(x, s, level) for x, s in zip(xs, SPECS)]

  mapped = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=jax.P(),
    out_specs=jax.P(('inter', 'intra')),
    check_vma=how.is_typed,
  )
  return jax.jit(mapped)(arrays(0))


@pytest.mark.parametrize(
  'name',
  slow_but(HOWS, 'plain', 'ho_ring'),
)
def test_every_transition_gives_the_sum_or_the_array(name):
  whole = arrays(0)
  summed = [8 * x + sum(range(8)) for x in whole]
  results = run(HOWS[name], STEPS)
  assert len(results) == 6 + 6 + 3
  for what, got in results.items():
    want = summed if what.startswith('sync') else whole
    for x, expected in zip(got, want, strict=True):
      assert x.dtype == expected.dtype, what
      for row in np.asarray(x):
        np.testing.assert_array_equal(row, expected, err_msg=what)


def count(how, level, target):
  """Collectives in the program of `sync_all`."""
  pieces = level.num_pieces(2, 4)
  leaves = []
  for spec in SPECS:
    shape = list(spec.stored_shape(level))
    if spec.dim is not None:
      shape[spec.dim] //= pieces
    leaves.append(jnp.zeros(shape, spec.dtype))
  mapped = jax.shard_map(
    lambda xs: transition.sync_all(
      [transition.to_varying(x) for x in xs], SPECS, level, target, how
    ),
    mesh=make_mesh(intra=4),
    in_specs=jax.P(),
    out_specs=[s.partition_spec(target) for s in SPECS],
    check_vma=how.is_typed,
  )
  text = jax.jit(mapped).lower(leaves).as_text()
  return sum(
    text.count(f'stablehlo.{kind}"')
    for kind in ('reduce_scatter', 'all_reduce', 'all_gather')
  )


def test_messages_are_as_many_as_asked_for():
  # Split leaves: two of f32, one of int32. Whole ones: one of each dtype.
  apart, together = Collectives(), Collectives(bucket_bytes=1 << 20)
  assert count(apart, I, G) == 3 + 2
  assert count(together, I, G) == 2 + 2
  assert count(apart, N, G) == 2 * 3 + 2
  assert count(together, N, G) == 2 * 2 + 2
