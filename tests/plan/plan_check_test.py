# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What counts as planned among the forms that compilers give collectives."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
import optax
import pytest

from antjax.mesh.paro import PaRO
from antjax.plan import census, plan_check
from antjax.train.state import Layout

SIZE = 512 * 516  # 512 x 512 for 3 groups of 4: padded to 516.
# NIG: a scatter in the loop; a scatter and two gathers at the end.
AT_END = [
  (census.REDUCE_SCATTER, 'inter', SIZE // 4),
  (census.ALL_GATHER, 'inter', SIZE // 4),
  (census.ALL_GATHER, 'intra', SIZE),
]


def compare(*in_loop, code='NIG'):
  layout = Layout.of(
    {'w': jax.ShapeDtypeStruct((512, 512), jnp.float32)},
    AbstractMesh((3, 4), ('inter', 'intra')),
    PaRO.from_code(code),
    optax.adamw(1e-3),
  )
  found = [
    census.Collective(kind, axis, loops, 4 * num, num, 'f32', num, 0)
    for found, loops in ((in_loop, (2,)), (AT_END, ()))
    for kind, axis, num in found
  ]
  return plan_check.compare(layout, found, num_micro_batches=2)


@pytest.mark.parametrize(('num', 'is_equal'), [(1024, True), (2048, False)])
def test_small_leaves_are_padded_to_tiles_between_slices(num, is_equal):
  # NGG with four leaves of 16 x 32, of which a chip sends a quarter.
  layout = Layout.of(
    {name: jax.ShapeDtypeStruct((16, 32), jnp.float32) for name in 'abcd'},
    AbstractMesh((2, 4), ('inter', 'intra')),
    PaRO.from_code('NGG'),
    optax.adamw(1e-3),
    min_shard_size=8,
  )
  kind = census.REDUCE_SCATTER, 'inter'
  (found,) = (
    census.Collective(*kind, (2,), 0, num, 'f32', 0, 4 * num, is_dcn=True),
  )
  lines = plan_check.compare(layout, [found] * 4, num_micro_batches=2)
  (line,) = (x for x in lines if x.in_loop and (x.kind, x.axis) == kind)
  assert line.planned == 4 * 128 and line.is_equal == is_equal
  assert line.note == ('padded to tiles' if is_equal else 'another amount')


@pytest.mark.parametrize(('num', 'is_equal'), [(256, True), (512, False)])
def test_a_dim_that_is_no_whole_tiles_is_padded_between_slices(num, is_equal):
  # Clicks' cross layers as GGG on v6e: pieces of 18 x 144, sent as 18 x 256.
  shape = jax.ShapeDtypeStruct((144, 144), jnp.float32)
  layout = Layout.of(
    {f'w{i}': shape for i in range(8)},
    AbstractMesh((2, 4), ('inter', 'intra')),
    PaRO.from_code('GGG'),
    optax.adamw(1e-3),
  )
  kind = census.REDUCE_SCATTER, 'inter'
  sent = 2 * 18 * num
  found = census.Collective(
    *kind, (2,), 0, sent, 'f32', 0, 4 * sent, is_dcn=True
  )
  lines = plan_check.compare(layout, [found] * 8, num_micro_batches=2)
  (line,) = (x for x in lines if x.in_loop and (x.kind, x.axis) == kind)
  assert line.planned == 8 * 36 * 144 and line.is_equal == is_equal


def test_what_is_planned_is_equal():
  lines = compare((census.REDUCE_SCATTER, 'intra', SIZE))
  assert len(lines) == 4
  assert all(line.is_equal and line.planned == line.found for line in lines)


def test_an_all_reduce_may_stand_for_a_scatter_and_hand_on_edges():
  reduce = (census.ALL_REDUCE, 'intra', SIZE)
  assert all(line.is_equal for line in compare(reduce))
  # Of a small leaf alone, whose share of all is less than a hundredth.
  part = (census.ALL_REDUCE, 'intra', 2000)
  lines = compare((census.REDUCE_SCATTER, 'intra', SIZE - 1000), part)
  assert all(line.is_equal for line in lines)
  edges = (census.PERMUTE, 'intra', SIZE // 50)
  lines = compare(reduce, edges)
  assert all(line.is_equal for line in lines)
  assert 'no whole tiles' in {line.kind: line.note for line in lines}[edges[0]]


@pytest.mark.parametrize(
  'extra',
  [
    (census.PERMUTE, 'intra', SIZE // 10),
    (census.PERMUTE, 'inter', SIZE // 50),
    (census.ALL_REDUCE, 'inter', SIZE),
    (census.ALL_GATHER, 'intra', SIZE),
  ],
)
def test_what_does_not_belong_is_not_equal(extra):
  lines = compare((census.ALL_REDUCE, 'intra', SIZE), extra)
  wrong = [line for line in lines if not line.is_equal]
  assert [(line.kind, line.axis) for line in wrong] == [extra[:2]]
  assert wrong[0].note == 'not planned'


def test_edges_belong_to_an_all_reduce_only():
  lines = compare(
    (census.REDUCE_SCATTER, 'intra', SIZE), (census.PERMUTE, 'intra', 100)
  )
  assert [line.kind for line in lines if not line.is_equal] == [census.PERMUTE]
