# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""States of whole pipelines: united, fitted, taken apart."""

import pytest

from antjax.elastic.service_ledger import Consumption
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.position import fitted_state, ledger_states, merge_states


def ledger(share=(0, 1)):
  return Consumption(LedgerSpec(20, 5), share).state()


def leaf(share=(0, 1), name='train'):
  return {'ledger': ledger(share), 'data_set': name}


def prefetch(states, **options):
  return {
    'next_index_in_cycle': 1,
    'next_index_in_datasets': len(states),
    'iterators_in_use_indices': list(range(len(states))),
    'iterators_in_use_states': states,
    'exhausted': [0] * len(states),
    'future_states': {},
    **options,
  }


def test_mix_of_workers_at_different_speeds():
  states = [
    {'parents': [leaf((p, 2), 'a'), leaf((p, 2), 'b')], 'index': i, 'stop': s}
    for p, (i, s) in enumerate([(7, True), (12, False)])
  ]
  merged = merge_states(states)
  assert merged['index'] == 12 and merged['stop'] is False
  assert set(ledger_states(merged)) == {'a', 'b'}
  assert ledger_states(merged)['a']['share'] is None


def test_prefetch_processes_of_all_workers_are_united():
  states = [
    prefetch([{'parent': leaf((p, 2)), 'index_for_rng': 3 + p}] * 3)
    for p in range(2)
  ]
  states[1]['exhausted'] = [0, 1, 0]
  # A process that has yielded nothing since a restore has what it was given.
  whole = {**ledger(), 'share': None, 'dynamic': False}
  states[0]['iterators_in_use_states'][1] = {
    'parent': {'ledger': whole, 'data_set': 'train'},
    'index_for_rng': 0,
  }
  merged = merge_states(states)
  parts = merged['iterators_in_use_states']
  assert len(parts) == 3 and all(part == parts[0] for part in parts)
  assert parts[0]['index_for_rng'] == 4
  assert merged['exhausted'] == [0, 0, 0]
  assert list(ledger_states(merged)) == ['train']


def test_a_worker_with_prefetch_processes_is_missing():
  with pytest.raises(ValueError, match='worker 0 of 2, and the states of 1'):
    merge_states([prefetch([leaf((0, 2))] * 2)])


@pytest.mark.parametrize('before', [None, 1, 3])
@pytest.mark.parametrize('after', [None, 1, 2])
def test_another_number_of_prefetch_processes(before, after):
  def pipeline(count, index):
    inner = {'parent': leaf(), 'index_for_rng': index}
    return inner if count is None else prefetch([inner] * count)

  merged = merge_states([pipeline(before, 9)])
  fitted = fitted_state(merged, pipeline(after, 0))
  parts = [fitted] if after is None else fitted['iterators_in_use_states']
  assert len(parts) == (after or 1)
  assert all(part['index_for_rng'] == 9 for part in parts)
  if after is not None:
    assert fitted['iterators_in_use_indices'] == list(range(after))
    assert fitted['next_index_in_datasets'] == after


def test_a_ledger_without_a_name():
  assert list(ledger_states({'parent': {'ledger': ledger()}})) == ['']
  assert ledger_states({'next_index': 3}) == {}
