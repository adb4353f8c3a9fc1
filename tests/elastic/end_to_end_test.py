# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data through a real coordinator process and grain's real processes."""

import json
import subprocess
import sys
import time

from absl import flags
import grain
import numpy as np
import pyarrow as pa
import pytest

from antjax.data import record_schema, record_writer, records
from antjax.data.stream import END, FileStream
from antjax.elastic.worker import Agent
from antjax.shards.dataset import fitted_state, merge_states
from tests import source_tree
from tests.elastic.coordinator_server import CoordinatorProcess

NUM_RECORDS = 203
SCHEMA = {'x': record_schema.Field('int32')}


@pytest.fixture
def coordinator(tmp_path):
  with CoordinatorProcess(tmp_path) as coordinator:
    yield coordinator


def write(path, start, stop):
  batch = pa.RecordBatch.from_pydict(
    {'x': np.arange(start, stop, dtype=np.int32)}
  )
  record_writer.write(path, [batch], SCHEMA)
  return path


@pytest.fixture
def source(tmp_path):
  path = write(tmp_path / 'data.array_record', 0, NUM_RECORDS)
  return records.open_source(path)


def agent_of(coordinator, rank=0, num_workers=1, generation=0, **options):
  return Agent(
    coordinator.address,
    job='job',
    worker=f'w{rank}',
    rank=rank,
    num_workers=num_workers,
    generation=generation,
    give_up_s=120.0,
    **options,
  )


def numbers(batches):
  return [int(x) for batch in batches for x in np.ravel(batch['x'])]


@pytest.mark.slow
def test_a_coordinator_killed_again_and_again(coordinator, source):
  with agent_of(coordinator) as agent:
    iterator = iter(agent.dataset(source, shard_size=10, num_epochs=3))
    seen = []
    for record in iterator:
      seen.append(int(record['x']))
      if len(seen) % 150 == 0:
        coordinator.end()
        coordinator.start()
    agent.on_commit(1, merge_states([iterator.get_state()]))
  assert sorted(seen) == sorted(3 * list(range(NUM_RECORDS)))


def _steps(coordinator, source, stage, generation, state):
  """Runs one generation; returns (records used, merged state)."""
  num_workers, num_processes, num_steps = stage
  agents = [
    agent_of(coordinator, p, num_workers, generation)
    for p in range(num_workers)
  ]
  iterators = []
  for agent in agents:
    agent.__enter__()
    dataset = agent.dataset(source, shard_size=10, num_epochs=2)
    dataset = dataset.seed(1).random_map(lambda r, rng: r).batch(7)
    if num_processes:
      dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=num_processes, per_worker_buffer_size=3
        )
      )
    iterators.append(iter(dataset))
    if state is not None:
      own = iterators[-1].get_state()
      iterators[-1].set_state(fitted_state(json.loads(state), own))
  seen = []
  for _ in range(num_steps):
    more = [
      batch
      for iterator in iterators
      if (batch := next(iterator, None)) is not None
    ]
    seen += numbers(more)
    if not more and not any(agent.may_get_more() for agent in agents):
      break
  state = json.dumps(merge_states([i.get_state() for i in iterators]))
  for iterator in iterators:
    iterator.close()
  for agent in agents:
    agent.close()
  return seen, state


@pytest.mark.slow
@pytest.mark.parametrize(
  'stages',
  [
    [(1, 2, 3), (1, 2, 4), (1, 2, 999)],
    [(2, 2, 3), (1, 3, 5), (2, 1, 4), (2, 0, 3), (1, 2, 999)],
  ],
)
def test_mp_prefetch_is_exact(coordinator, source, stages):
  """Whatever the number of workers and of prefetch processes of each.

  What was only prefetched is in no state: it comes again.
  """
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  seen, state = [], None
  for generation, stage in enumerate(stages, 1):
    part, state = _steps(coordinator, source, stage, generation, state)
    seen += part
  assert sorted(seen) == sorted(2 * list(range(NUM_RECORDS)))


@pytest.mark.slow
def test_mp_prefetch_again_and_again(coordinator, source):
  """As for an evaluation: some passes in part, some whole."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with agent_of(coordinator) as agent:
    dataset = agent.dataset(source, shard_size=10).batch(7)
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=2))
    for num_batches in (1, 999, 3, 999):
      iterator = iter(dataset)
      seen = numbers(
        batch
        for _ in range(num_batches)
        if (batch := next(iterator, None)) is not None
      )
      iterator.close()
      assert len(seen) == len(set(seen)) == min(7 * num_batches, NUM_RECORDS)


@pytest.mark.slow
def test_a_stream_of_files(coordinator, tmp_path):
  folder = tmp_path / 'stream'
  folder.mkdir()
  write(folder / '00.array_record', 0, 25)
  stream = FileStream(folder)
  with agent_of(coordinator, heartbeat_s=0.05) as agent:
    seen = []
    for record in agent.dataset(stream, shard_size=10):
      seen.append(int(record['x']))
      if len(seen) == 20:
        write(folder / '01.array_record', 25, 48)
      elif len(seen) == 40:
        (folder / END).touch()
  assert seen == list(range(48))


@pytest.mark.slow
def test_a_worker_process_is_killed(coordinator, source, tmp_path):
  """Another one, that is not of its generation, reads what it has not used."""
  script = (
    'import sys, json, time\n'
    'from antjax.elastic.worker import Agent\n'
    'from antjax.data import records\n'
    f'source = records.open_source({str(tmp_path / "data.array_record")!r})\n'
    f'agent = Agent({coordinator.address!r}, job="job", worker="victim",'
    ' generation=1)\n'
    'with agent:\n'
    '  iterator = iter(agent.dataset(source, shard_size=10).batch(7))\n'
    '  for i in range(4):\n'
    '    print(json.dumps(next(iterator)["x"].tolist()), flush=True)\n'
    '  print(json.dumps(iterator.get_state()), flush=True)\n'
    '  next(iterator)\n'
    '  time.sleep(600)\n'
  )
  victim = subprocess.Popen(
    [sys.executable, '-c', script],
    cwd=source_tree.ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert victim.stdout is not None
  lines = [json.loads(victim.stdout.readline()) for _ in range(5)]
  time.sleep(0.1)
  victim.kill()
  victim.communicate()
  seen = [x for line in lines[:4] for x in line]
  with agent_of(coordinator, generation=2) as agent:
    iterator = iter(agent.dataset(source, shard_size=10).batch(7))
    iterator.set_state(merge_states([lines[4]]))
    seen += numbers(iterator)
  assert sorted(seen) == list(range(NUM_RECORDS))
