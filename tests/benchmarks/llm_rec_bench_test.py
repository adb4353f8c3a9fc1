# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of LLM-Rec, tiny: its problem, its figures, and a run."""

import numpy as np
import pytest

from benchmarks import llm_rec_bench
from tests.benchmarks import runs

_QUICK = '--quick', '--cases=minilm-float32'
_CASE = llm_rec_bench.Case()


def test_problem_is_consistent():
  problem = llm_rec_bench.make(_CASE, 101, is_quick=False)
  again = llm_rec_bench.make(_CASE, 101, is_quick=False)
  for name, array in problem.items():
    np.testing.assert_array_equal(array, again[name])
  lengths = np.diff(problem['offsets'])
  assert lengths[0] == 0 and lengths[1:].min() >= 4 and lengths.max() == 40
  domains, target = problem['domains'], problem['target']
  for negatives, item, history in zip(
    problem['negatives'], target, problem['history'], strict=True
  ):
    assert (domains[negatives] == domains[item]).all()
    assert len(set(negatives)) == 10
    assert not set(negatives) & {item, *history}
    assert history[0] > 0 and (np.diff((history != 0).astype(int)) <= 0).all()
  assert problem['tokens'].min() > llm_rec_bench.CLS


def _measured(step_s, loss=2.0):
  return {
    'step': [9.0, step_s, step_s],
    'cpu_step': [step_s**2],
    'users': [2.0],
    'items': [4.0],
    'loss': loss,
    'facts': {},
  }


def test_ratios_are_of_the_same_negatives():
  found = {
    'antjax_own': _measured(1.0),
    'antjax_shared': _measured(0.5, 1.0),
    'peer_published': _measured(4.0),
    'peer_deduplicated': _measured(2.0),
    'peer_shared': _measured(1.5, 1.1),
  }
  lines = [
    llm_rec_bench.line_of(_CASE, pair, found)
    for pair in llm_rec_bench.pairs_of(found)
  ]
  assert [line['peer'] for line in lines] == [
    'published',
    'deduplicated',
    'shared',
  ]
  assert [line['ratio'] for line in lines] == [4, 2, 3]
  assert [line['cpu_ratio'] for line in lines] == [16, 4, 9]
  assert [line['examples_per_s'] for line in lines] == [24, 24, 48]
  assert 'losses 1.0, 1.1' in lines[2]['error']
  # A store is another model: its loss may differ, its steps have more examples.
  of_store = _measured(1.0, 5.0) | {'batch': 96, 'examples': 400}
  pair = 'antjax_store', 'peer_published'
  both = {pair[0]: of_store, pair[1]: found[pair[1]]}
  assert llm_rec_bench.pairs_of(both) == [pair]
  line = llm_rec_bench.line_of(_CASE, pair, both)
  assert 'error' not in line and line['batch'] == 96
  assert line['ratio'] == pytest.approx(400 / 6)
  assert not any('error' in line for line in lines[:2])


@pytest.mark.slow
def test_quick_run_without_the_peers_prints_lines():
  skip = ','.join(f'peer_{name}' for name in llm_rec_bench.PEERS)
  lines = runs.lines('llm_rec_bench', *_QUICK, f'--skip={skip}', XLA_FLAGS='')
  assert [line['negatives'] for line in lines] == list(llm_rec_bench.OURS)
  for line in lines:
    assert line['examples_per_s'] > 0 and line['eval_users_per_s'] > 0
  for line in lines[:2]:
    assert line['tokens_per_batch'] <= line['slots_per_batch']


@pytest.mark.slow
@runs.needs_peers
def test_quick_run_agrees_with_the_peers():
  lines = runs.lines('llm_rec_bench', *_QUICK, XLA_FLAGS='')
  peers = [peer for _, peer in llm_rec_bench.PAIRS]
  assert [line['peer'] for line in lines] == peers
  assert all(line['ratio'] > 0 for line in lines)
