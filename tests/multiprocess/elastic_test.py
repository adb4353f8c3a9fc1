# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`Trainer.fit(elastic=...)` in real processes: each does its own number."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.multiprocess import elastic_worker
from tests.multiprocess.run_workers import run_workers

# The same sums in gloo's order instead of XLA's own, through AdamW.
SUM_ORDER_ATOL = 2e-5

pytestmark = pytest.mark.multiprocess


def run(hosts, **settings):
  """Results by process; two devices each."""
  results = run_workers(
    elastic_worker.work, settings, hosts=hosts, num_devices=2 * hosts
  )
  results.sort(key=lambda r: r['process'])
  for result in results:
    assert result['losses'] == results[0]['losses']
    assert result['counts'] == results[0]['counts']
    # Bit by bit: every process has the same parameters.
    assert result['params'] == results[0]['params']
  return results


def reference(steps):
  """Trains on one device; `steps` holds the ids of each step."""
  params = elastic_worker.init_params()
  tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2))

  def loss_fn(params, batch):
    y = jnp.tanh(batch['x'] @ params['w1']) @ params['w2']
    return jnp.mean(jnp.square(y - batch['y']))

  opt_state, losses = tx.init(params), []
  for ids in steps:
    rows = [elastic_worker.record(i) for i in ids]
    batch = jax.tree.map(lambda *xs: np.stack(xs), *rows)
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))
  return params, losses


def assert_equals_reference(results, steps):
  params, losses = reference(steps)
  np.testing.assert_allclose(results[0]['losses'], losses, rtol=1e-5)
  for name, value in params.items():
    np.testing.assert_allclose(
      results[0]['params'][name], value, atol=SUM_ORDER_ATOL
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('code', 'intra'), [('IIG', 2), ('NNN', 1), ('NIG', 2), ('INI', 1)]
)
def test_five_two_and_no_micro_batches_equal_one_device(code, intra):
  """Process 2 has data, but is only asked when the others have none left."""
  plan = {'version': 4, 'num_micro_batches': {'0': 5, '1': 2, '2': 0}}
  results = run(
    3,
    code=code,
    intra=intra,
    totals=[10, 3, 3],
    plans={'0': {'0': plan}},  # The others hear of it from process 0.
  )
  assert results[0]['counts'] == [7, 6, 1, 1, 1]
  assert results[1]['mine'] == {'2': 1, '3': 0, '4': 0, '5': 0}
  used = [result['used'] for result in results]
  steps = [used[0][:5] + used[1][:2], used[0][5:] + used[1][2:]]
  steps += [[ids] for ids in used[2]]
  assert_equals_reference(results, [sum(step, []) for step in steps])


@pytest.mark.slow
def test_a_plan_that_comes_at_different_times_takes_effect_at_one_step():
  old = {'version': 1, 'num_micro_batches': {'1': 1}}
  new = {'version': 2, 'num_micro_batches': {'0': 1, '1': 4}, 'lr_scale': 0.5}
  results = run(
    3,
    totals=[100, 100, 100],
    num_steps=12,
    plans={
      '0': {'0': old, '3': new},
      '1': {'0': old, '6': new},
      '2': {'0': old, '4': new},
    },
  )
  # All say so in step 7, which is fetched in step 8.
  assert results[0]['counts'] == [2 + 1 + 2] * 8 + [1 + 4 + 2] * 4


@pytest.mark.slow
def test_tables_with_a_process_that_never_has_data():
  results = run(
    3,
    has_tables=True,
    totals=[7, 3, 0],
    plans={'1': {'0': {'version': 1, 'num_micro_batches': {'0': 3}}}},
  )
  assert results[0]['counts'] == [5, 4, 1]
  assert results[2]['used'] == []
  losses = results[0]['losses']
  # Where the rows are does not matter.
  (one, _) = run(
    2,
    has_tables=True,
    totals=[7, 3],
    plans={'1': {'0': {'version': 1, 'num_micro_batches': {'0': 3}}}},
  )
  np.testing.assert_allclose(losses, one['losses'], rtol=1e-4)


@pytest.mark.slow
def test_keys_are_spread_over_processes_of_which_one_has_no_data(tmp_path):
  settings = {
    'has_tables': True,
    'has_keys': True,
    'plans': {'1': {'0': {'version': 1, 'num_micro_batches': {'0': 3}}}},
  }
  results = run(3, totals=[7, 3, 0], folder=str(tmp_path), **settings)
  (one, _) = run(2, totals=[7, 3], **settings)
  assert one['counts'] == results[0]['counts'] == [5, 4, 1]
  np.testing.assert_allclose(results[0]['losses'], one['losses'], rtol=1e-4)
  # Others go on with the keys: they know all of these records.
  again, _ = run(2, totals=[7, 3], folder=str(tmp_path), **settings)
  assert again['step'] == 6
  assert again['losses'][0] < one['losses'][0]


@pytest.mark.slow
def test_each_record_is_used_exactly_once_by_three_and_then_by_two(tmp_path):
  plan = {'version': 1, 'num_micro_batches': {'0': 2, '1': 1, '2': 0}}
  first = run(3, folder=str(tmp_path), num_steps=3, plans={'0': {'0': plan}})
  assert first[0]['counts'] == [3, 3, 3]
  # Process 0 alone is told, of whole checkpoints.
  assert first[0]['commits'] == [[2, True], [3, True]]
  assert first[1]['commits'] == first[2]['commits'] == []
  second = run(2, folder=str(tmp_path))
  steps = [
    sum(first[0]['used'][2 * i : 2 * i + 2], first[1]['used'][i])
    for i in range(3)
  ]
  used = sum((ids for result in first + second for ids in result['used']), [])
  assert sorted(used) == list(range(elastic_worker.NUM_RECORDS))
  # And the model is that of one device that saw the same in that order.
  at = [0, 0]
  for count in second[0]['counts']:
    step = []
    for i, result in enumerate(second):
      take = min(2, len(result['used']) - at[i])
      step += sum(result['used'][at[i] : at[i] + take], [])
      at[i] += take
    assert len(step) <= count * elastic_worker.ROWS
    steps.append(step)
  assert at == [len(result['used']) for result in second]
  params, _ = reference(steps)
  for name, value in params.items():
    np.testing.assert_allclose(
      second[0]['params'][name], value, atol=SUM_ORDER_ATOL
    )


def test_two_processes_with_unequal_data_end_together():
  """The fast one of these; the others are slow tests."""
  results = run(2, totals=[5, 1])
  assert results[0]['counts'] == [3, 2, 1]
  used = [result['used'] for result in results]
  assert_equals_reference(
    results,
    [
      sum(used[0][:2] + used[1], []),
      sum(used[0][2:4], []),
      used[0][4],
    ],
  )


@pytest.mark.slow
def test_a_group_over_two_processes_is_refused():
  with pytest.raises(
    AssertionError, match='make_mesh.intra=....* divisor of 2'
  ):
    run(2, intra=4, totals=[5, 1])


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_the_job_soon(tmp_path):
  """The others wait for it in the commit, and it for them in the next step."""
  began = time.monotonic()
  with pytest.raises(AssertionError, match='could not be written'):
    # Of tables both processes write their rows.
    run(
      2,
      folder=str(tmp_path),
      totals=[500, 500],
      full_after=5,
      has_tables=True,
    )
  assert time.monotonic() - began < 120
  assert (tmp_path / '2').exists()
