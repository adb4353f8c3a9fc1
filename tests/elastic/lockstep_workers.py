# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Workers of one generation in one thread, and records that count."""

import json
import threading
import time

import numpy as np

from antjax.elastic.worker import Agent
from antjax.shards.dataset import merge_states

NUM_RECORDS = 103


class Source:
  """Records that hold their own number; some cannot be read."""

  def __init__(self, num_records=NUM_RECORDS, bad=()):
    self.num_records, self.bad = num_records, set(bad)

  def __len__(self):
    return self.num_records

  def read(self, start, stop):
    if self.bad & set(range(start, stop)):
      raise OSError(f'damaged at {start}')
    return [{'x': np.int32(i)} for i in range(start, stop)]


class Stream(Source):
  is_closed = False

  def poll(self):
    return self.num_records, self.is_closed


class Workers:
  """The workers of one generation, in this thread, taking turns."""

  def __init__(self, server, num_workers, generation, **options):
    options = {'shard_size': 10, 'num_epochs': 2, **options}
    transform = options.pop('transform', lambda dataset: dataset.batch(7))
    source = options.pop('source', None) or Source()
    lockstep = options.pop('lockstep', True)
    self.agents = [
      Agent(
        server.address,
        job='job',
        worker=f'w{p}',
        generation=generation,
        rank=p,
        num_workers=num_workers,
        lockstep=lockstep,
        give_up_s=30.0,
        exit_process=lambda code: None,
      )
      for p in range(num_workers)
    ]
    self.iterators = [
      iter(transform(agent.dataset(source, **options))) for agent in self.agents
    ]

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    for one in (*self.iterators, *self.agents):
      one.close()

  def restore(self, state):
    for iterator in self.iterators:
      iterator.set_state(json.loads(json.dumps(state)))

  def step(self):
    """One step of all; returns the numbers of the records used."""
    return [
      int(x)
      for iterator in self.iterators
      for batch in [next(iterator, None)]
      if batch is not None
      for x in np.ravel(batch['x'])
    ]

  def finish(self):
    """Steps until nobody gets anything any more."""
    seen = []
    for _ in range(10_000):
      more = self.step()
      seen += more
      if not more:
        if not any(a.may_get_more() for a in self.agents):
          return seen
        time.sleep(0.01)
    raise AssertionError('no end')

  def state(self):
    return merge_states([i.get_state() for i in self.iterators])


class Reading(threading.Thread):
  """Reads batches, or records, in a thread; `seen` are their numbers so far."""

  def __init__(self, batches):
    super().__init__(daemon=True)
    self._batches, self.seen = batches, []
    self.start()

  def run(self):
    for batch in self._batches:
      self.seen.extend(int(x) for x in np.ravel(batch['x']))

  def end(self):
    self.join(30)
    assert not self.is_alive()
    return self.seen


def assert_each(seen, count, num_records=NUM_RECORDS):
  assert sorted(seen) == sorted(count * list(range(num_records)))


def consumed(server):
  data_sets = server.jobs.job('job').data_sets
  return data_sets['train'].counts()['consumed'] if data_sets else 0
