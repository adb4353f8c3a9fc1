# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that earlier versions of antjax have written are read as they were.

In `golden/` are states of local jobs (`local_jobs.json`) and of workers that
share a ledger, stored ledgers (`shared_jobs.json`) and a coordinator's journal
(`coordinator.db`), all in the middle of an epoch and of the version that had a
ledger for each, with the records and leases that followed.
"""

import base64
import json
import pathlib
import shutil
import zlib

import numpy as np
import pytest

from antjax.elastic import writer
from antjax.elastic.service_ledger import Consumption
from antjax.shards import ledger_state
from antjax.shards.dataset import LeasedDataset, merge_states
from antjax.shards.journal import Journal
from antjax.shards.ledger import Ledger
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec
from tests.shards.states import remaining

FOLDER = pathlib.Path(__file__).parent / 'golden'
SPEC = LedgerSpec(43, 5, seed=3, num_epochs=3)


def golden(name):
  return json.loads((FOLDER / name).read_text(encoding='utf-8'))


LOCAL, SHARED = golden('local_jobs.json'), golden('shared_jobs.json')


class Source:
  def __len__(self):
    return SPEC.num_records

  def read(self, start, stop):
    return [{'x': np.int32(i)} for i in range(start, stop)]


def pipeline(worker, num_workers, kind):
  client = LocalLedgerClient(SPEC, worker=worker, num_workers=num_workers)
  dataset = LeasedDataset(Source(), client, key_field='key')
  if kind == 'batch':
    dataset = dataset.seed(1).random_map(lambda r, rng: r).batch(4)
  return iter(dataset)


def keys(elements):
  return [int(key) for element in elements for key in np.ravel(element['key'])]


@pytest.mark.parametrize(
  'run', LOCAL['runs'], ids=lambda run: f'{run["kind"]}-{run["num_workers"]}'
)
def test_a_local_job_reads_the_same_records_in_the_same_order(run):
  kind, num_workers = run['kind'], run['num_workers']
  workers = [pipeline(p, num_workers, kind) for p in range(num_workers)]
  for worker, steps, used in zip(workers, run['steps'], run['used']):
    assert keys(next(worker) for _ in range(steps)) == used
  # Restored from what was written then, and from what is written now.
  now = [worker.get_state() for worker in workers]
  for states in (run['states'], now):
    merged = [merge_states(states)]
    for state in merged + [run['merged']] * (states is not now):
      for count, rest in run['rest'].items():
        for p in range(int(count)):
          worker = pipeline(p, int(count), kind)
          worker.set_state(state)
          assert keys(worker) == rest[p]
    for p, state in enumerate(states):
      worker = pipeline(p, num_workers, kind)
      worker.set_state(state)
      assert keys(worker) == run['own_rest'][p]


def test_workers_epochs_apart_with_many_shards():
  spec, job = LedgerSpec(3000, 2, seed=9, num_epochs=4), LOCAL['many_shards']
  assert any(
    run['done'].startswith('z') for s in job['states'] for run in s['epochs']
  )
  merged = ledger_state.merge(job['states'])
  cases = [(job['own_rest'], job['states'])]
  for rest in job['rest'].values():
    cases += [(rest, [state] * len(rest)) for state in (job['merged'], merged)]
  for rest, states in cases:
    for p, state in enumerate(states):
      client = LocalLedgerClient(spec, worker=p, num_workers=len(rest))
      client.load(state)
      order = []
      while shard := client.lease():
        order.append([shard.epoch, shard.index])
        client.ack(shard)
      assert [len(order), zlib.crc32(json.dumps(order).encode())] == rest[p]


@pytest.mark.parametrize(
  'kind, spec',
  [
    ('epochs', LedgerSpec(22, 4, seed=3, num_epochs=3)),
    ('stream', LedgerSpec(22, 4, is_stream=True)),
  ],
)
def test_positions_of_workers_that_share_a_ledger(kind, spec):
  job = SHARED[kind]
  used = {divmod(key, 22) for key in job['used']}
  size = 20 if spec.is_stream else 22  # A stream that grows: whole shards.
  everything = {(e, r) for e in range(spec.num_epochs) for r in range(size)}
  for merged in (job['merged'], ledger_state.merge(job['states'])):
    left = set(remaining(merged, spec))
    assert not used & left
    # Of a stream that grows only whole shards are given.
    assert left == {
      (e, r) for e, r in everything - used if kind != 'stream' or r < 20
    }
    worker = Consumption(spec)
    worker.load(merged)
    assert remaining(ledger_state.merge([worker.state()]), spec) == sorted(left)


def leases(ledger):
  order = []
  while got := ledger.lease('z', 1):
    [(shard, bits)] = got
    order.append([shard.epoch, shard.index, shard.start, shard.stop, bits])
    ledger.consume('z', shard)
  return order


def holders(ledger):
  return {worker: ledger.num_held(worker) for worker in ledger.holders()}


def totals(counts):
  # Of an epoch that is over only the number was known of what was committed.
  used = counts['done'] + counts['consumed']
  return {**counts, 'done': used, 'consumed': 0}


@pytest.mark.parametrize('name', list(SHARED['ledgers']))
def test_a_stored_ledger_goes_on_as_it_would_have(name):
  stored = SHARED['ledgers'][name]
  data = base64.b64decode(stored['bytes'])
  again = Ledger.from_bytes(data).to_bytes()
  for body in (data, again):
    ledger = Ledger.from_bytes(body)
    assert totals(ledger.counts()) == totals(stored['counts'])
    assert ledger.first_open_epoch == stored['first_open_epoch']
    assert ledger.outcome() == stored['outcome']
    assert holders(ledger) == stored['holders']
    assert [
      [shard.epoch, shard.index, message]
      for shard, message in ledger.set_aside()
    ] == stored['set_aside']
    assert leases(ledger) == stored['leases']
    ledger = Ledger.from_bytes(body)
    ledger.release()
    assert leases(ledger) == stored['after_release']
    ledger = Ledger.from_bytes(body)
    ledger.retry_set_aside()
    assert leases(ledger) == stored['after_retry']


def test_a_journal_of_a_coordinator(tmp_path):
  expected = golden('coordinator.json')
  path = tmp_path / 'coordinator.db'
  shutil.copy(FOLDER / 'coordinator.db', path)
  for _ in range(2):  # As it was written, then with a snapshot of today.
    with Journal(path) as journal:
      jobs = writer.load(journal)
      job = jobs.job('j')
      ledger = Ledger.from_bytes(job.data_sets['d'].to_bytes())
      assert ledger.counts() == expected['counts']
      assert ledger.first_open_epoch == expected['first_open_epoch']
      assert holders(ledger) == expected['holders']
      assert leases(ledger) == expected['leases']
      assert (job.last_step, job.members) == (
        expected['last_step'],
        expected['members'],
      )
      journal.snapshot(jobs.to_bytes())
