# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The staggered all-reduce: its schedule, results, order of permutes."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.collectives import staggered
from antjax.collectives.choose import Collectives
from antjax.mesh.mesh import BATCH_AXES, make_mesh
from tests.cases import covering, pairs
from tests.collectives import algorithms_check


@pytest.mark.parametrize('m', [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize('num_rounds', [1, 3])
def test_every_chunk_visits_every_lane_once_in_each_direction(m, num_rounds):
  visits = {'partial': {}, 'result': {}, 'outside': {}}
  for phase in staggered.schedule(m, num_rounds):
    for kind in ('partial', 'result'):
      for hops, rows in enumerate(getattr(phase, kind)):
        for lane, row in enumerate(rows):
          if row >= 0:
            visits[kind].setdefault(row, []).append((hops, lane))
            assert (lane - 1) % m in phase.senders
    for lane, row in enumerate(phase.outside):
      if row >= 0:
        assert row % m == lane and lane in phase.senders
        visits['outside'].setdefault(row, []).append(lane)
  chunks = range(m * num_rounds)
  for row in chunks:
    owner = row % m
    assert visits['outside'][row] == [owner]
    # From the owner's right neighbour round to the owner, and once more.
    assert visits['partial'][row] == [
      (hops, (owner + 2 + hops) % m) for hops in range(m - 1)
    ]
    assert visits['result'][row] == [
      (hops, (owner + 1 + hops) % m) for hops in range(m - 1)
    ]
  assert all(len(found) == len(chunks) for found in visits.values())


def check(n, m, dtype, num_rounds, size=97):
  x = algorithms_check.small_integers((n * m, size), 0)
  got = algorithms_check.in_shard_map(
    lambda a: staggered.all_reduce(a, num_rounds=num_rounds),
    n,
    m,
    jnp.asarray(x, dtype),
  )
  assert got.dtype == dtype
  for row in np.asarray(got, np.float32):
    np.testing.assert_array_equal(row, x.sum(0))


def test_nothing_is_summed_to_nothing():
  check(2, 4, 'float32', None, size=0)


def test_it_equals_the_sum():
  check(2, 4, jnp.float32, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('shape', 'dtype', 'num_rounds'),
  covering(
    itertools.product(
      ((1, 4), (2, 2), (2, 3), (2, 4), (4, 2)),
      algorithms_check.DTYPES,
      (1, 2, 5),
    ),
    pairs,
  ),
)
def test_it_equals_the_sum_everywhere(shape, dtype, num_rounds):
  check(*shape, jnp.dtype(dtype), num_rounds)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(2, 4), (4, 2)])
def test_a_narrow_payload_is_equal_on_all_devices_and_near(shape):
  n, m = shape
  x = np.random.default_rng(0).normal(size=(8, 200)).astype(np.float32)
  got = algorithms_check.in_shard_map(
    lambda a: staggered.all_reduce(a, num_rounds=2, payload_dtype=jnp.bfloat16),
    n,
    m,
    x,
  )
  got = np.asarray(got)
  assert (np.abs(got[0] - x.sum(0)) <= np.abs(x).sum(0) * 2.0**-7).all()
  assert np.abs(got[0] - x.sum(0)).max() > 0
  for row in got[1:]:
    np.testing.assert_array_equal(row, got[0])


def compiled(fn, size):
  mapped = jax.shard_map(
    fn,
    mesh=make_mesh(intra=4),
    in_specs=jax.P(BATCH_AXES),
    out_specs=jax.P(BATCH_AXES),
    check_vma=False,
  )
  x = jax.ShapeDtypeStruct((8 * size,), jnp.float32)
  return jax.jit(mapped).lower(x).compile().as_text()


def test_exchanges_between_groups_stand_among_the_hops():
  """Data dependencies keep XLA from putting all hops first."""
  text = compiled(lambda x: staggered.all_reduce(x, num_rounds=3), 960)
  order = ''.join(
    'o' if {abs(int(a) - int(b)) for a, b in pairs} == {4} else 'h'
    for pairs in (
      re.findall(r'(\d+),(\d+)', line.split('source_target_pairs=')[1])
      for line in re.findall(r'collective-permute\(.*', text)
    )
  )
  assert order.count('o') == 3 * 2  # Rounds x classes of lanes.
  between = re.findall('h+', order.strip('h'))
  assert len(between) == 5 and max(map(len, between)) <= 2


@pytest.mark.slow
def test_large_messages_of_large_groups_take_it_on_cpu():
  how = Collectives('ho_ring')
  permutes = [
    compiled(how.all_reduce, size).count('collective-permute(')
    for size in (1 << 10, 1 << 21)
  ]
  assert permutes[0] == 2 * (1 + 2 * 3)  # As the paper has it.
  assert permutes[1] > permutes[0]
  with pytest.raises(ValueError, match='groups of 1 .*Use ho_ring'):
    algorithms_check.in_shard_map(staggered.all_reduce, 4, 1, jnp.zeros((4, 8)))
