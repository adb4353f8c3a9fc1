# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Loops of plain JAX whose steps are watched."""

import functools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import grpc
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import watch
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.worker import Agent
from tests import source_tree
from tests.cases import first_fast
from tests.elastic.coordinator_server import CoordinatorProcess
from tests.elastic.jobs_server import eventually

# A loop without antjax's Trainer, and the lines that report it.
LOOP = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
rank, address, is_slow = int(sys.argv[1]), sys.argv[2], sys.argv[3] == 'slow'
jax.config.update('jax_platforms', 'cpu')
if address:
  jax.distributed.initialize(address, 2, rank)
mesh = jax.make_mesh((jax.device_count(),), ('data',))

@jax.jit
@jax.shard_map(mesh=mesh, in_specs=(P(), P('data')), out_specs=P())
def step(w, x):
  return w - 0.1 * jax.lax.pmean(jnp.mean(x), 'data')

from antjax.elastic import watch
step = watch(step)

w = jnp.zeros(())
rows = jax.sharding.NamedSharding(mesh, P('data'))
for _ in range(10_000):
  time.sleep(0.1 if is_slow else 0.03)  # What loads the data.
  x = jax.make_array_from_process_local_data(rows, np.ones(4, np.float32))
  w = step(w, x)
  float(w)  # As loops do that print their loss.
"""


class Noted:
  """An agent that keeps what it is told."""

  def __init__(self):
    self.times = []

  def on_batch_time(self, *args, device_s):
    self.times.append((*args, device_s))


def noted(step_fn, **options):
  agent = Noted()
  return watch(step_fn, agent=agent, **options), agent.times


def test_times_are_those_of_the_loop():
  step, times = noted(jax.jit(lambda x: x + 1), num_samples=32)
  x = jnp.zeros(4)
  for i in range(6):
    time.sleep(0.2 if i % 2 else 0)
    x = step(x)
    x.block_until_ready()
  step.close()
  np.testing.assert_array_equal(x, np.full(4, 6.0))
  assert [t[0] for t in times] == [2, 3, 4, 5, 6]  # The first one compiles.
  for (
    number,
    whole_s,
    wait_s,
    num_micro_batches,
    num_samples,
    device_s,
  ) in times:
    assert (wait_s, num_micro_batches, num_samples) == (0, 1, 32)
    assert 0 <= device_s <= whole_s
    assert number % 2 or whole_s - device_s > 0.1


def test_a_step_is_dispatched_before_the_one_before_is_done():
  @jax.jit
  def step(x):
    return jax.lax.fori_loop(0, 40, lambda _, y: jnp.tanh(y @ y), x)

  step, times = noted(step)
  x = jax.block_until_ready(step(jnp.ones((400, 400))))
  began = time.perf_counter()
  for _ in range(3):
    x = step(x)
  dispatched_s = time.perf_counter() - began
  step.close()
  assert sum(t[-1] for t in times) > 3 * dispatched_s


@pytest.mark.parametrize('is_alone', [True, False])
def test_results_may_be_donated(is_alone):
  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, x):
    state = jax.tree.map(lambda s: s + x, state)
    return state if is_alone else (state, state['a'].sum())

  step, times = noted(step)
  state = {'a': jnp.zeros(3), 'b': jnp.zeros((2, 2))}
  for _ in range(4):
    results = step(state, 1.0)
    state = results if is_alone else results[0]
  step.close()
  assert len(times) == 3
  np.testing.assert_array_equal(state['b'], np.full((2, 2), 4.0))


def test_any_function_is_a_step():
  step, times = noted(lambda text, *, end: text + end)
  assert [step('a', end='b') for _ in range(3)] == ['ab'] * 3
  step.close()
  assert len(times) == 2
  jitted, _ = noted(jax.jit(jnp.sin))
  assert 'sine' in jitted.lower(1.0).as_text()
  assert jitted.__wrapped__ is not jitted


def test_errors_of_a_step_are_the_loops():
  step, times = noted(lambda x: 1 // x)
  with pytest.raises(ZeroDivisionError):
    step(0)
  assert [step(1), step(1)] == [1, 1]
  step.close()
  assert [t[0] for t in times] == [2]


def test_without_a_coordinator_one_warning_says_so(caplog):
  step = watch(jax.jit(jnp.sin))
  for _ in range(3):
    step(1.0)
  step.close()
  (record,) = [r for r in caplog.records if 'watch: ' in r.getMessage()]
  assert 'ANTJAX_COORDINATOR is not set' in record.getMessage()


def test_a_port_serves_the_times_to_prometheus(caplog):
  step = watch(jax.jit(jnp.sin), prometheus_port=0)
  for _ in range(5):
    step(1.0)
  step.close()
  url = f'http://127.0.0.1:{step.prometheus_port}/metrics'
  text = urllib.request.urlopen(url).read().decode()
  assert 'antjax_watch_step_seconds_count 4.0' in text
  assert 'antjax_watch_host_seconds_sum ' in text
  assert not caplog.records


def test_a_coordinator_that_refuses_does_not_stop_the_loop(
  server, monkeypatch, caplog
):
  monkeypatch.setenv('ANTJAX_COORDINATOR', server.address)
  monkeypatch.setenv('ANTJAX_WORKER', 'w')
  step = watch(jax.jit(jnp.sin))
  step(1.0)
  step(1.0)
  eventually(lambda: any(m.batch_times for _, m in list(server.requests)))
  server.break_call = lambda *_: grpc.StatusCode.FAILED_PRECONDITION
  eventually(lambda: 'This process ends' in caplog.text)
  for _ in range(3):
    step(1.0)
  step.close()
  assert 'watch: steps are no longer reported' in caplog.text


def _free_port():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]


@pytest.mark.parametrize('is_lockstep', first_fast(False, True))
def test_the_coordinator_names_the_slow_one(is_lockstep, tmp_path):
  """Also where all steps take equally long, as in one SPMD program."""
  script = tmp_path / 'loop.py'
  script.write_text(LOOP)
  meeting = f'127.0.0.1:{_free_port()}' if is_lockstep else ''
  flags = ('--short_window_s=4', '--long_window_s=20')
  workers = []
  with CoordinatorProcess(tmp_path, *flags) as coordinator:
    for rank, speed in enumerate(('well', 'slow')):
      env = os.environ | {
        'ANTJAX_COORDINATOR': coordinator.address,
        'ANTJAX_WORKER': f'host{rank}',
        'PYTHONPATH': str(source_tree.ROOT),
        'XLA_FLAGS': '',
      }
      command = [sys.executable, script, str(rank), meeting, speed]
      workers.append(subprocess.Popen(command, env=env))
    try:
      with CoordinatorClient(
        coordinator.address, job='', client='test'
      ) as client:

        def jobs():
          status = client.call('Status', pb.StatusRequest())
          return {job['name']: job for job in json.loads(status.json)['jobs']}

        before = Agent(
          coordinator.address, job='before', worker='w', heartbeat_s=60.0
        )
        with before:
          eventually(lambda: 'before' in jobs())
          assert jobs()['before']['phase'] == 'running'
        assert 'before' not in jobs()  # It has left.
        slow = {'transient', 'persistent'}
        deadline, seen = time.monotonic() + 60, {}
        while seen.keys() < {'host0', 'host1'} or not (
          seen['host0']['state'] == 'normal' and seen['host1']['state'] in slow
        ):
          assert time.monotonic() < deadline, seen
          time.sleep(0.2)
          workers_seen = jobs().get('job', {}).get('workers', ())
          seen = {w['name']: w for w in workers_seen}
    finally:
      for worker in workers:
        worker.kill()
        worker.wait()
  assert 2 < seen['host1']['slowdown'] < 4
