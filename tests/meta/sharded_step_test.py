# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The meta step on 8 devices equals dense tables, or itself, on one."""

import dataclasses
import itertools
import re

import jax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.meta import algorithms, maml, meta_loss
from antjax.train.trainer import Trainer
from tests.cases import covering, pairs, slow_but
from tests.meta import oracle, small_tasks

# Devices of a group, and a code to go with: meshes 1x8, 2x4 and 4x2.
MESHES = {8: 'NNN', 4: 'IIG', 2: 'GGG'}
FAST = (4, 'global', 'head', 2, 1)
LEVELS, PARTS = ('none', 'intra', 'global'), ('all', 'mlp', 'head')
CASES = covering(
  itertools.product(MESHES, LEVELS, PARTS, (1, 2), (1, 3)), pairs, keep=[FAST]
)


@pytest.mark.parametrize(
  ('intra', 'level', 'adapt', 'order', 'num_steps'), slow_but(CASES, FAST)
)
def test_sharded_step_equals_dense(intra, level, adapt, order, num_steps):
  inner = oracle.inner_loop(adapt, order, num_steps)
  sharded = oracle.Sharded(inner, make_mesh(intra=intra), MESHES[intra], level)
  losses = [sharded.step(batch) for batch in oracle.batches_for(inner)]
  oracle.assert_as_expected(
    adapt,
    order,
    num_steps,
    sharded.trainer.params(sharded.state),
    sharded.rows(),
    losses,
  )


@pytest.mark.slow
def test_compiled_meta_step_exchanges_rows_once_and_in_place():
  """Three all-to-alls for support and query; no table is ever gathered."""
  mesh = make_mesh(intra=4)
  num_rows = 30_000
  tables = EmbeddingTables(
    [TableSpec('item', num_rows, oracle.DIM, 'global', Adagrad(0.1))],
    dict.fromkeys(oracle.FEATURES, 'item'),
    mesh=mesh,
  )
  model, params = oracle.make_model(tables)
  trainer = Trainer(
    meta_loss.meta_loss_fn(
      model, maml.InnerLoop(adapt='decision', num_steps=2)
    ),
    oracle.optimizer(),
    mesh=mesh,
    paro='IIG',
    tables=tables,
    min_shard_size=8,
  )
  state = trainer.init(params)
  inputs = trainer.step_inputs(oracle.make_batches()[0])
  text = trainer.compiled_step().lower(state, inputs).compile().as_text()
  assert len(re.findall(r' all-to-all(?:-start)?\(', text)) == 3
  local = num_rows // 8
  for line in text.splitlines():
    if re.search(r' all-gather(?:-start)?\(', line):
      assert f'[{num_rows},{oracle.DIM}]' not in line
      assert f'[{local},{oracle.DIM}]' not in line
  # Whole, on any device: never.
  assert f'f32[{num_rows},{oracle.DIM}]' not in text
  # The table and its accumulator, each given back in its own buffer.
  flat = jax.tree.leaves_with_path(state)
  places = [i for i, (path, _) in enumerate(flat) if 'tables' in str(path[0])]
  assert len(places) == 2
  header = text.split('\n', 1)[0]
  for i in places:
    assert re.search(rf'\{{{i}\}}: \({i}, \{{\}}', header), header[:500]


INNER_LOOPS = {
  'mixed': maml.InnerLoop(derivative='mixed', learning_rate=0.05),
  'reptile': algorithms.ALGORITHMS['reptile'].inner,
  'maml++': dataclasses.replace(
    algorithms.ALGORITHMS['maml++'].inner, step_weights=(0.2, 0.3, 0.5)
  ),
  'meta_sgd': algorithms.ALGORITHMS['meta_sgd'].inner,
  'loop': maml.InnerLoop(num_steps=20, order=1, learning_rate=0.01),
}


def step(name, mesh, code, level):
  make_loss_fn = (
    meta_loss.reptile_loss_fn if name == 'reptile' else meta_loss.meta_loss_fn
  )
  inner = INNER_LOOPS[name]
  job = oracle.Sharded(inner, mesh, code, level, make_loss_fn)
  loss = job.step(oracle.batches_for(inner)[0])
  return loss, job.trainer.params(job.state), job.rows()


@pytest.mark.slow
@pytest.mark.parametrize('name', INNER_LOOPS)
def test_eight_devices_take_the_step_of_one(name):
  one = make_mesh(intra=1, devices=jax.devices()[:1])
  expected = step(name, one, 'NNN', 'none')
  got = step(name, make_mesh(intra=4), 'IIG', 'global')
  small_tasks.assert_close(got, expected, rtol=1e-5, atol=oracle.SUM_ORDER_ATOL)
