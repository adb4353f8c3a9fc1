# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The chaos benchmark: schedule, proxy, lineage, witness; and a short run."""

import asyncio
from collections import Counter
import errno
import json
import subprocess
import sys
import time

import grpc
import jax
import jax.numpy as jnp
import numpy as np
import optax
import psutil
import pytest

from antjax.elastic import view
from antjax.elastic.actions import AdjustBatch
from benchmarks import (
  chaos_bench,
  chaos_blows,
  chaos_events,
  chaos_lineage,
  chaos_proxy,
  chaos_witness,
)
from benchmarks.chaos_lineage import Run
from tests import source_tree
from tests.benchmarks import runs

# --- The schedule. ---


def test_a_seed_gives_one_schedule():
  first = chaos_events.schedule(7, 200, 3, 8)
  assert first == chaos_events.schedule(7, 200, 3, 8)
  assert first != chaos_events.schedule(8, 200, 3, 8)


@pytest.mark.parametrize('num_kills', [1, 11, 200])
def test_a_schedule_has_so_many_kills_of_all_kinds(num_kills):
  events = chaos_events.schedule(0, num_kills, 3, 8)
  kills = [event for event in events if event.kind != 'drop']
  assert len(kills) == num_kills
  kinds = Counter(event.kind for event in kills)
  if num_kills >= len(chaos_events.KILLS):
    assert set(kinds) == set(chaos_events.KILLS)
  assert all(0 <= event.host < 3 and 0 <= event.share < 1 for event in events)
  assert all(event.count >= 1 for event in events)


def test_a_run_gets_on_between_blows():
  events = chaos_events.schedule(3, 500, 3, 8)
  at_once = [event.after_steps == 0 for event in events]
  assert any(at_once) and not at_once[0]
  # After one that struck at once, the next one waits for steps.
  assert not any(a and b for a, b in zip(at_once, at_once[1:], strict=False))
  assert chaos_events.num_steps(events) > sum(e.after_steps for e in events)


def test_the_policy_gives_each_worker_work():
  workers = tuple(view.WorkerView(name, 2, step=3) for name in ('a', 'b'))
  seen = view.ClusterView('job', generation=1, workers=workers)
  (action,) = chaos_events.shuffle_work(seen)
  assert isinstance(action, AdjustBatch)
  assert action.num_micro_batches.keys() == {'a', 'b'}
  assert min(action.num_micro_batches.values()) >= 1
  assert chaos_events.shuffle_work(seen) == [action]


# --- Blows that are more than a signal. ---


@pytest.mark.parametrize(
  'share, done', [(0.1, 'cut'), (0.5, 'flipped'), (0.9, 'removed')]
)
def test_the_log_of_a_journal_is_damaged(tmp_path, share, done):
  journal, wal = tmp_path / 'journal.db', tmp_path / 'journal.db-wal'
  assert 'empty' in chaos_blows.damage_wal(journal, share)
  wal.write_bytes(bytes(1000))
  assert done in chaos_blows.damage_wal(journal, share)
  assert not wal.exists() or wal.read_bytes() != bytes(1000)


def test_writes_fail_as_on_a_full_disk(tmp_path):
  code = (
    'import sys\nsys.stdin.readline()\n'
    'try: open(sys.argv[1], "wb", buffering=0).write(bytes(10_000)); print(1)\n'
    'except OSError as error: print(error.errno)\n'
    'try: open(sys.argv[1], "ab", buffering=0).write(bytes(10_000)); print(1)\n'
    'except OSError as error: print(error.errno)\n'
  )
  with subprocess.Popen(
    [sys.executable, '-I', '-S', '-c', code, str(tmp_path / 'file')],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as worker:
    chaos_blows.fill_disk(psutil.Process(worker.pid))
    out, _ = worker.communicate('go\n')
  assert f'{errno.EFBIG}' in out.split()


def test_a_module_runs_with_another_clock(tmp_path, monkeypatch):
  (tmp_path / 'what_time.py').write_text(
    'import sys, time\nprint(time.time(), *sys.argv[1:])\n'
  )
  done = subprocess.run(
    [sys.executable, chaos_blows.__file__, '-86400', 'what_time', '--x'],
    env={'PYTHONPATH': f'{tmp_path}:{source_tree.ROOT}'},
    capture_output=True,
    text=True,
    check=True,
  )
  now, flag = done.stdout.split()
  assert 0 < time.time() - 86_400 - float(now) < 60 and flag == '--x'
  assert chaos_blows.clock_offset_s(0.0) == -86_400


# --- The proxy. ---


def test_the_server_gets_the_request_and_the_client_no_reply():
  async def run():
    requests, cuts = [], []

    async def answer(request, context):
      assert ('token', 'a') in [tuple(x) for x in context.invocation_metadata()]
      requests.append(request)
      if request == b'bad':
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, 'no')
      return request + b'!'

    handler = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
      (grpc.method_handlers_generic_handler('a.S', {'Do': handler}),)
    )
    port = server.add_insecure_port('127.0.0.1:0')
    await server.start()
    proxy = chaos_proxy.Proxy(
      f'127.0.0.1:{port}', b'train', lambda: cuts.append(1)
    )
    passing, port = await chaos_proxy.serve('127.0.0.1:0', proxy)
    async with grpc.aio.insecure_channel(f'127.0.0.1:{port}') as channel:

      async def call(request):
        try:
          do = channel.unary_unary('/a.S/Do')
          return await do(request, metadata=[('token', 'a')], timeout=30)
        except grpc.aio.AioRpcError as error:
          return error.code()

      lost = grpc.StatusCode.UNAVAILABLE
      assert await call(b'1 train') == b'1 train!'  # Not armed.
      proxy.arm(is_any=False)
      assert await call(b'beat') == b'beat!'
      assert await call(b'2 train') == lost
      assert await call(b'3 train') == b'3 train!'
      proxy.arm(is_any=True)
      assert await call(b'bad') == grpc.StatusCode.INVALID_ARGUMENT
      assert await call(b'beat') == lost
      assert requests[-1] == b'beat' and len(requests) == 6
      assert len(cuts) == 2
      await server.stop(None)
      assert await call(b'beat') == lost  # As without a proxy.
    await passing.stop(None)

  asyncio.run(run())


# --- The lineage. ---


def run_of(generation, rank, steps, num_workers=2):
  return Run(
    generation,
    rank,
    num_workers,
    {step: [[100 * generation + 10 * rank + step]] for step in steps},
  )


def runs_of(generation, steps):
  return [run_of(generation, rank, steps) for rank in range(2)]


def test_notes_say_what_went_into_which_step():
  lines = [
    {'generation': 3, 'rank': 1, 'num_workers': 2},
    {'ends': 1},  # Before the first step.
    {'keys': [4, 5]},
    {'keys': [6]},
    {'ends': 1},
    {'keys': [7, 8]},  # Taken ahead.
    {'step': 21},
    {'ends': 1},
    {'step': 22},
    {'ends': 1},
    {'step': 23},
    {'keys': [9]},
  ]
  text = [json.dumps(line) for line in lines]
  run = chaos_lineage.read_run([*text, '{"ste'])
  assert run == Run(3, 1, 2, {21: [[4, 5], [6]], 22: [[7, 8]], 23: []})
  assert chaos_lineage.read_run([]) is None
  assert chaos_lineage.read_run(['{"gen']) is None


def test_a_step_is_of_the_generation_that_the_model_names():
  runs = [
    *runs_of(1, range(1, 8)),  # Its checkpoint of step 5 is the last one.
    *runs_of(2, range(6, 10)),  # Killed before it saved any.
    *runs_of(3, range(6, 13)),
  ]
  steps = chaos_lineage.steps_of(runs, [1] * 5 + [3] * 5)
  assert steps[4:6] == [[[[105]], [[115]]], [[[306]], [[316]]]]
  with pytest.raises(ValueError, match='step 6 of generation 4 .*'):
    chaos_lineage.steps_of(runs, [1] * 5 + [4])
  with pytest.raises(ValueError, match='steps are of generations'):
    chaos_lineage.steps_of(runs, [3, 1])
  del runs[1].steps[3]
  with pytest.raises(ValueError, match=r'step 3 .* had 2 workers.*\[0\]'):
    chaos_lineage.steps_of(runs, [1] * 5)


def test_losses_and_repeats_are_counted():
  counts, last = chaos_lineage.used([[[[0, 1]], [[2]]], [[], [[1, 1, 4]]]], 6)
  assert counts.tolist() == [1, 3, 1, 0, 1, 0]
  assert last.tolist() == [1, 2, 1, 0, 2, 0]
  with pytest.raises(ValueError, match='1 keys of no record'):
    chaos_lineage.used([[[[4]]]], 4)


def test_model_and_notes_must_agree():
  noted = {'counts': np.array([2, 1, 1]), 'steps': np.array([2, 1, 2])}
  assert chaos_lineage.disagreement(noted, noted) == ''
  for name in noted:
    model = noted | {name: np.array([1, 1, 1 + (name == 'steps')])}
    text = chaos_lineage.disagreement(noted, model)
    assert text.startswith(f'{name}: 1 differ')


# --- The witness. ---


@pytest.mark.slow
def test_the_model_counts_what_goes_into_it():
  tx = chaos_witness.transform(max_steps=8)
  params = {'witness': chaos_witness.init(5)}
  state = tx.init(params)

  def loss(params, keys, weights, generation):
    losses = chaos_witness.marked(
      params['witness'],
      jnp.ones(len(keys)),
      jnp.array(keys),
      jnp.full((len(keys),), generation, jnp.float32),
    )
    weights = jnp.array(weights)
    return jnp.sum(losses * weights) / jnp.sum(weights)

  # The last row of the first step is padding; record 2 comes twice in a step.
  for keys, weights, generation in (
    ([0, 1, 1], [1.0, 1.0, 0.0], 1),
    ([2, 3, 2], [1.0, 1.0, 1.0], 1),
    ([0], [1.0], 4),
  ):
    value, grads = jax.value_and_grad(loss)(params, keys, weights, generation)
    assert value == 1
    updates, state = tx.update(grads, state)
    params = optax.apply_updates(params, updates)
  assert params['witness']['keys'].tolist() == [2, 1, 2, 1, 0]
  assert state.steps['witness']['keys'].tolist() == [3, 1, 2, 2, 0]
  assert state.generations.tolist() == [1, 1, 4, 0, 0, 0, 0, 0]


# --- The result. ---


def result(**changes):
  line = {
    'kills': 6,
    'records_lost': 0,
    'committed_twice': 0,
    'lost_in_model': 0,
    'twice_in_model': 0,
    'notes_and_model_differ': '',
    'workers_equal': True,
    'is_success': True,
    'shards_not_done': 0,
    'bit_equal': True,
    'final_difference': 0.0,
    'workers_in_steps': [3],
    'hosts': 3,
  }
  return chaos_bench.failures(line | changes, 6)


def test_each_check_can_fail():
  assert result() == []
  for changes in (
    {'kills': 5},
    {'records_lost': 1},
    {'committed_twice': 1},
    {'twice_in_model': 1},
    {'notes_and_model_differ': 'steps'},
    {'workers_equal': False},
    {'shards_not_done': 2},
    {'bit_equal': False},
    {'final_difference': 0.1},
    {'final_difference': float('nan')},
  ):
    (wrong,) = result(**changes)
    assert wrong.startswith(next(iter(changes)))
  # Fewer workers round sums in another way.
  changed = {'workers_in_steps': [2, 3], 'bit_equal': False}
  assert result(**changed, final_difference=1e-6) == []


def test_recovery_is_up_to_the_first_step_of_a_later_generation():
  struck = [
    {'kind': 'worker', 'generation': 1, 'now': 10.0},
    {'kind': 'coordinator', 'generation': 1, 'now': 11.0},
    {'kind': 'hang', 'generation': 2, 'now': 20.0},
    {'kind': 'agent', 'generation': 2, 'now': 21.0},  # Before it was over.
  ]
  progress = [
    {'generation': 1, 'now': 10.1},
    {'generation': 2, 'now': 13.0},
    {'generation': 2, 'now': 20.1},
    {'generation': 4, 'now': 25.0},
  ]
  found = chaos_events.recoveries(struck, progress)
  assert found == {'worker': [3.0], 'agent': [4.0]}


# --- All of it. ---


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_blow_of_each_kind_loses_nothing(tmp_path):
  """One of each kind, and lost replies; on loopback, with a text of ours."""
  text = tmp_path / 'text.txt'
  pages = sorted((source_tree.ROOT / 'docs').rglob('*.md'))
  text.write_text('\n\n'.join(page.read_text() for page in pages))
  prepared = runs.call(
    *('launch.prepare_text', f'--out={tmp_path}/data', f'--source={text}'),
    *('--documents=paragraph', '--vocab_size=512'),
  )
  assert prepared.returncode == 0, prepared.stdout + prepared.stderr
  (line,) = runs.lines(
    *('chaos_bench', '--kills=11', '--seed=2', '--virtual_hosts=false'),
    *(f'--text={tmp_path}/data', f'--out={tmp_path}/run'),
    XLA_FLAGS='',
  )
  assert line['kills'] == 11
  assert line['records_lost'] == line['committed_twice'] == 0
  assert line['recovery_s_median'] > 0
  assert set(line['kills_by_kind']) == set(chaos_events.KILLS)
