# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two real processes of four devices train like one process of eight."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.metrics import means as metrics_lib
from antjax.metrics import ranking
from antjax.train.trainer import Trainer
from tests.multiprocess.run_workers import run_workers
from tests.train.positioned import Positioned

# The same sums over devices, in gloo's order instead of XLA's own.
SUM_ORDER_RTOL = 1e-4

pytestmark = pytest.mark.multiprocess

BATCH = 32  # Of all processes.


def batch_of(number):
  """This process's rows of a batch."""
  rng = np.random.default_rng(number)
  whole = {
    'ids': {'item': rng.integers(0, 53, (BATCH, 3))},
    'y': rng.normal(size=(BATCH, 3)).astype(np.float32),
    'group': rng.integers(0, 5, (BATCH, 3)),
  }
  size = BATCH // jax.process_count()
  start = jax.process_index() * size
  return jax.tree.map(lambda x: x[start : start + size], whole)


def work(code, intra, folder, counts):
  mesh = make_mesh(intra=intra)
  tables = EmbeddingTables(
    [TableSpec('item', 53, 4, 'global', Adagrad(0.1), init_scale=1.0)],
    {'item': 'item'},
    mesh=mesh,
  )

  def predict(params, rows, batch):
    x = tables.lookup(rows, batch['ids'])['item'].reshape(-1, 12)
    return jnp.tanh(x @ params['w1']) @ params['w2']

  def loss_fn(params, rows, batch, rng):
    del rng
    return jnp.mean(
      jnp.square(predict(params, rows, batch) - batch['y']), axis=1
    )

  def predict_fn(params, rows, batch, rng):
    del rng
    return {
      'prediction': predict(params, rows, batch),
      'label': batch['y'],
      'group': batch['group'],
    }

  trainer = Trainer(
    loss_fn,
    optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2)),
    mesh=mesh,
    paro=code,
    tables=tables,
    num_micro_batches=2,
    min_shard_size=8,
  )
  rng = np.random.default_rng(0)
  state = trainer.init(
    {
      'w1': rng.normal(size=(12, 13)).astype(np.float32),
      'w2': rng.normal(size=(13, 3)).astype(np.float32),
    }
  )
  num = counts[jax.process_index()]
  losses = {}
  state = trainer.fit(
    state,
    Positioned(batch_of, num),
    100,
    checkpoint_dir=folder,
    merge_input_states=lambda states: max(states, key=lambda s: s['next']),
    on_step=lambda step, values: losses.setdefault(step, values['loss']),
  )
  scores = trainer.evaluate(
    state,
    Positioned(batch_of, num),
    predict_fn,
    {
      'MAE': metrics_lib.MAE(),
      'AUC': ranking.AUC(0.0),
      'GAUC': ranking.GAUC(0.0),
    },
  )
  return {'losses': losses, 'scores': scores, 'step': int(state.step)}


def run(code, intra, folder, *, hosts, counts):
  """Results of every process."""
  return run_workers(
    work, code, intra, folder, counts, hosts=hosts, num_devices=8
  )


def assert_same(actual, expected):
  assert actual['losses'].keys() == expected['losses'].keys()
  for step, loss in expected['losses'].items():
    np.testing.assert_allclose(
      actual['losses'][step], loss, rtol=SUM_ORDER_RTOL
    )
  for name, value in expected['scores'].items():
    np.testing.assert_allclose(
      actual['scores'][name], value, atol=2e-3, err_msg=name
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('code', 'intra'), [('IIG', 4), ('GGG', 2), ('NNN', 8), ('NIG', 2)]
)
def test_two_processes_equal_one(tmp_path, code, intra):
  # This process has the devices of one.
  one = json.loads(json.dumps(work(code, intra, str(tmp_path / 'one'), [5])))
  assert one['step'] == 5
  both = run(code, intra, tmp_path / 'two', hosts=2, counts=[5, 5])
  for actual in both:
    assert_same(actual, one)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('code', 'intra'), [('IIG', 4), ('GGG', 2), ('NNN', 8), ('NIG', 2)]
)
def test_another_number_of_processes_takes_over(tmp_path, code, intra):
  (one,) = run(code, intra, tmp_path / 'one', hosts=1, counts=[5])
  # One process began; two resume, and the reverse.
  run(code, intra, tmp_path / 'mixed', hosts=1, counts=[2])
  for actual in run(code, intra, tmp_path / 'mixed', hosts=2, counts=[4, 4]):
    assert sorted(actual['losses']) == ['3', '4']
    for step in actual['losses']:
      np.testing.assert_allclose(
        actual['losses'][step], one['losses'][step], rtol=SUM_ORDER_RTOL
      )
  (last,) = run(code, intra, tmp_path / 'mixed', hosts=1, counts=[5])
  np.testing.assert_allclose(
    last['losses']['5'], one['losses']['5'], rtol=SUM_ORDER_RTOL
  )
  assert_same({**last, 'losses': {}}, {**one, 'losses': {}})


@pytest.mark.slow
def test_a_process_that_runs_out_of_data_keeps_in_step(tmp_path):
  """Nobody waits for ever, and what the others have still counts."""
  first, second = run('GGG', 4, tmp_path, hosts=2, counts=[5, 3])
  assert first['step'] == second['step'] == 5
  assert first['losses'] == second['losses']
  assert sorted(first['losses']) == ['1', '2', '3', '4', '5']
  assert first['scores'] == second['scores']


@pytest.mark.slow
def test_processes_without_any_data_take_part_or_all_end(tmp_path):
  first, second = run('IIG', 4, tmp_path / 'a', hosts=2, counts=[2, 0])
  assert first['step'] == second['step'] == 2
  assert first['losses'] == second['losses']
  assert first['scores'] == second['scores']
  for result in run('IIG', 4, tmp_path / 'b', hosts=2, counts=[0, 0]):
    assert result['step'] == 0
    assert result['losses'] == {}
