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


def compare(*in_loop):
  layout = Layout.of(
    {'w': jax.ShapeDtypeStruct((512, 512), jnp.float32)},
    AbstractMesh((3, 4), ('inter', 'intra')),
    PaRO.from_code('NIG'),
    optax.adamw(1e-3),
  )
  found = [
    census.Collective(kind, axis, loops, 4 * num, num, 'f32', num, 0)
    for found, loops in ((in_loop, (2,)), (AT_END, ()))
    for kind, axis, num in found
  ]
  return plan_check.compare(layout, found, num_micro_batches=2)


def test_what_is_planned_is_equal():
  lines = compare((census.REDUCE_SCATTER, 'intra', SIZE))
  assert len(lines) == 4
  assert all(line.is_equal and line.planned == line.found for line in lines)


def test_an_all_reduce_may_stand_for_a_scatter_and_hand_on_edges():
  reduce = (census.ALL_REDUCE, 'intra', SIZE)
  assert all(line.is_equal for line in compare(reduce))
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
