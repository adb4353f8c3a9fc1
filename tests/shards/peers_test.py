# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Leased data in a training loop of somebody else, and in its checkpoints."""

import collections
import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import records
from antjax.shards import position
from antjax.shards.dataset import LeasedDataset
from antjax.shards.held_back import HeldBack
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec

LENGTH, BINS = 16, 4
NUM = 1200


class Texts:
  """Records of unequal length."""

  def __init__(self, num_records, first=0):
    self._num, self._first = num_records, first

  def __len__(self):
    return self._num

  def read(self, start, stop):
    return [
      {'tokens': np.full(1 + i % 11, self._first + i, np.int32)}
      for i in range(start, stop)
    ]


def _packed(source, host, num_hosts, name=''):
  spec = LedgerSpec(len(source), 5, seed=1, num_epochs=1)
  client = LocalLedgerClient(spec, worker=host, num_workers=num_hosts)
  records = LeasedDataset(source, client, key_field='key')
  return HeldBack(
    records.filter(lambda record: len(record['tokens']) > 1),
    lambda records: grain.experimental.FirstFitPackIterDataset(
      records,
      length_struct={'tokens': LENGTH},
      num_packing_bins=BINS,
      meta_features=['key'],
    ),
    key_field='key',
  )


def _used(elements):
  """Records in packed elements, by their tokens."""
  used = collections.Counter()
  for element in elements:
    for key in np.ravel(element['key']).tolist():
      used[key] += 1
    segments = element['tokens_segment_ids']
    assert len(set(segments[segments > 0].tolist())) == len(
      np.ravel(element['key'])
    )
  return used


def _wanted(num=NUM):
  return collections.Counter(i for i in range(num) if i % 11)


def _saved(iterators, folder, monkeypatch):
  """Each process saves its iterator as Grain's own checkpoints do."""
  handler = grain.checkpoint.CheckpointHandler()
  folder.mkdir()
  for host, iterator in enumerate(iterators):
    monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
    monkeypatch.setattr(jax, 'process_count', lambda: len(iterators))
    handler.save(folder, iterator)
  assert len([*folder.iterdir()]) == len(iterators)
  monkeypatch.undo()


@pytest.mark.parametrize(
  'counts',
  [
    (8, 4, 6),
    (1, 3, 2),
    pytest.param((256, 128, 192), marks=pytest.mark.slow),
  ],
)
def test_packed_records_are_used_once_over_changes_of_hosts(
  counts, tmp_path, monkeypatch
):
  num = NUM if counts[0] < 256 else 40_000
  used, state = collections.Counter(), None
  for part, num_hosts in enumerate(counts):
    hosts = [iter(_packed(Texts(num), i, num_hosts)) for i in range(num_hosts)]
    for iterator in hosts:
      if state is not None:
        iterator.set_state(state)
    is_last = part == len(counts) - 1
    for speed, iterator in enumerate(hosts):
      # Each is somewhere else in its bins and shards.
      used += _used(
        iterator if is_last else [next(iterator) for _ in range(3 + speed % 4)]
      )
    if not is_last:
      folder = tmp_path / str(part)
      _saved(hosts, folder, monkeypatch)
      state = position.saved_state(folder)
  assert used == _wanted(num)


def test_a_plain_loop_saves_its_data_beside_its_parameters(tmp_path):
  """No Trainer: plain JAX, Orbax's manager, Grain's own arguments."""
  path = tmp_path / 'texts.parquet'
  rows = [{'tokens': np.full(1 + i % 11, i, np.int32)} for i in range(NUM)]
  pq.write_table(
    pa.table({'tokens': pa.array([row['tokens'] for row in rows])}),
    path,
    row_group_size=50,
  )
  step = jax.jit(lambda total, tokens: total + jnp.sum(tokens))
  used = collections.Counter()

  def train(num_steps):
    iterator = iter(_packed(records.open_source(path), 0, 1))
    total, first = jnp.zeros((), jnp.int32), 0
    with ocp.CheckpointManager(tmp_path / 'run') as manager:
      if (latest := manager.latest_step()) is not None:
        args = ocp.args.Composite(
          state=ocp.args.StandardRestore({'total': total}),
          data=grain.checkpoint.CheckpointRestore(iterator),
        )
        total = manager.restore(latest, args=args)['state']['total']
        first = latest
      for number, element in enumerate(iterator, first + 1):
        total = step(total, element['tokens'])
        used.update(np.ravel(element['key']).tolist())
        if number == num_steps:
          args = ocp.args.Composite(
            state=ocp.args.StandardSave({'total': total}),
            data=grain.checkpoint.CheckpointSave(iterator),
          )
          manager.save(number, args=args)
          return int(total)
    return int(total)

  train(30)
  train(55)
  total = train(None)
  assert used == _wanted()
  assert total == sum(i * (1 + i % 11) for i in _wanted())
  # The same files, on any number of processes.
  state = position.saved_state(tmp_path / 'run' / '55' / 'data')
  left = collections.Counter()
  for host in range(3):
    iterator = iter(_packed(records.open_source(path), host, 3))
    iterator.set_state(json.loads(json.dumps(state)))
    left += _used(iterator)
  assert left <= _wanted() and 0 < left.total() < _wanted().total()


def test_mixed_data_sets_change_hosts_too(tmp_path, monkeypatch):
  def mixed(host, num_hosts):
    parts = [
      _packed(Texts(num, first), host, num_hosts)
      for num, first in ((600, 0), (800, 10_000))
    ]
    return grain.IterDataset.mix(parts, [1, 1])

  def texts(element):  # All tokens of a text are its number.
    return [*set(element['tokens'][element['tokens_segment_ids'] > 0].tolist())]

  seen = list[int]()
  hosts = [iter(mixed(i, 3)) for i in range(3)]
  for speed, iterator in enumerate(hosts):
    for _ in range(4 + speed):
      seen += texts(next(iterator))
  _saved(hosts, tmp_path / 'data', monkeypatch)
  state = position.saved_state(tmp_path / 'data')
  for host in range(2):
    iterator = iter(mixed(host, 2))
    iterator.set_state(state)
    for element in iterator:
      seen += texts(element)
  assert len(seen) == len(set(seen))
  assert len(seen) > 500  # Each host ends with the first part that does.


def test_files_of_some_processes_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='0 processes of none; needed'):
    position.saved_state(tmp_path)
  (tmp_path / 'process_0-of-2.json').write_text('{}')
  with pytest.raises(FileNotFoundError, match='1 processes of 2'):
    position.saved_state(tmp_path)


def test_keys_that_are_lost_are_missed():
  source = Texts(20)
  client = LocalLedgerClient(LedgerSpec(20, 5, seed=0, num_epochs=1))
  without = LeasedDataset(source, client)
  with pytest.raises(ValueError, match='make LeasedDataset with it'):
    next(iter(HeldBack(without, lambda r: r, key_field='key')))
  keyed = LeasedDataset(source, client, key_field='key')

  def lost(records):
    return records.map(lambda record: {'tokens': record['tokens']})

  with pytest.raises(ValueError, match="lacks 'key'"):
    next(iter(HeldBack(keyed, lost, key_field='key')))
