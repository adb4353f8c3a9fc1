# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table planner: what it counts, and what it chooses."""

import math

import jax
import numpy as np
import pytest

from antjax.collectives.cost_model import Cluster, Links
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam, RowWiseAdagrad
from antjax.embedding.planner import count_distinct, placement, plan_tables
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import Level

LINKS = Links(intra_bytes_per_s=1e11, uplink_bytes_per_s=1e9)


def plan(specs, counts, links=LINKS, **options):
  options = {'num_groups': 4, 'group_size': 8} | options
  return plan_tables(specs, counts, links, **options)


@pytest.mark.parametrize('optimizer', [RowWiseAdagrad(), Adam()])
@pytest.mark.parametrize('level', ['none', 'intra', 'global'])
def test_state_bytes_are_those_of_the_tables(level, optimizer):
  spec = TableSpec('item', 1001, 12, level, optimizer)
  tables = EmbeddingTables([spec], {'item': 'item'}, mesh=make_mesh(intra=4))
  found = placement(spec, Level[level.upper()], 10, Cluster(LINKS, 2, 4))
  (size,) = tables.bytes_per_device().values()
  assert found.state_bytes == size


def test_small_busy_tables_are_copied_and_large_ones_split():
  small, large = plan(
    [TableSpec('day', 7, 16), TableSpec('item', 50_000_000, 16)],
    {'day': 7, 'item': 20_000},
  )
  assert small.spec.level == 'none'
  assert small.chosen.step_s < min(p.step_s for p in small.others)
  assert large.spec.level in ('intra', 'global')
  assert 'least time' in small.reason


def test_a_copy_a_group_saves_latency_between_few_groups():
  """Gathered gradients grow with the groups; an all-to-all does not."""
  spec = TableSpec('item', 10**7, 16)
  links = Links(1e11, 1e9, inter_latency_s=1e-3)
  for groups, better in ((2, 'intra'), (8, 'global')):
    (found,) = plan([spec], {'item': 1e4}, links, num_groups=groups)
    assert found.spec.level == better


def test_memory_pushes_the_cheapest_bytes_to_a_finer_level():
  specs = [TableSpec('a', 10_000, 16), TableSpec('b', 12_000, 16)]
  counts = {'a': 9_000, 'b': 5_000}
  free = plan(specs, counts, num_groups=1)
  assert [p.spec.level for p in free] == ['none', 'none']
  whole = sum(p.chosen.state_bytes for p in free)
  tight = plan(specs, counts, num_groups=1, device_bytes=0.9 * whole)
  assert [p.spec.level for p in tight] == ['none', 'intra']
  assert sum(p.chosen.state_bytes for p in tight) <= 0.9 * whole
  assert 'do not fit' in tight[1].reason
  with pytest.raises(ValueError, match='bytes a device more than'):
    plan(specs, counts, num_groups=1, device_bytes=0.01 * whole)


def test_a_level_that_was_asked_for_stays():
  (found,) = plan([TableSpec('item', 10**7, 16, 'none')], {'item': 10.0})
  assert found.spec.level == 'none'
  assert found.others == ()
  with pytest.raises(ValueError, match='more than'):
    plan([TableSpec('item', 10**7, 16, 'none')], {'item': 10}, device_bytes=1e6)


def test_a_table_without_a_count_is_refused():
  with pytest.raises(ValueError, match="no count for \\['item'\\]"):
    plan([TableSpec('item', 10, 4)], {})


def test_one_device_sends_nothing():
  for level in Level:
    found = placement(
      TableSpec('item', 1000, 4), level, 10, Cluster(LINKS, 1, 1)
    )
    assert found.inter_bytes == found.intra_bytes == 0
    assert 0 < found.step_s < math.inf


def test_distinct_rows_are_counted_by_table_and_device():
  features = {'item': 'item', 'seen': 'item', 'city': 'city'}
  ids = {
    'support': {
      'item': np.array([1, 1, 2, 3]),
      'city': np.array([0, 0, 0, -1]),
    },
    'query': {'seen': np.array([[1, 4], [1, -1], [3, 3], [-1, 2]])},
  }
  counts = count_distinct([ids], features, num_devices=2)
  # Device 0: items 1, 4, city 0; device 1: items 2, 3, city 0.
  assert counts == {'item': 2.0, 'city': 1.0}
  tables = EmbeddingTables(
    [TableSpec('item', 9, 2, 'global'), TableSpec('city', 9, 3, 'global')],
    features,
    mesh=make_mesh(intra=8),
  )
  _, routing = tables.prepare(ids, 2)
  used = {
    name: np.sum(r['positions'] < tables._stacks[name].num_positions) / 2
    for name, r in routing.items()
  }
  assert sorted(used.values()) == sorted(counts.values())
  assert jax.device_count() == 8
