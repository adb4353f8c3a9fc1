# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The harness of benchmarks: turns, processes, problems, lines."""

import json
import time

import numpy as np
import pytest

from benchmarks import harness, machine


def test_sides_take_turns_back_and_forth():
  made = []
  sides = {name: lambda name=name: made.append(name) for name in 'ab'}
  found = harness.alternate(sides, 2)
  assert made == ['b', 'a', 'a', 'b']
  assert {name: len(turns) for name, turns in found.items()} == {'a': 2, 'b': 2}


def test_a_dead_process_is_named():
  side = harness.Side(argv=('json.tool', '/nowhere'))
  with harness.workers({'peer': side}, 'json') as workers:
    with pytest.raises(RuntimeError, match=r"json peer died.*'time'"):
      workers['peer'].order('time')


def test_a_problem_is_read_as_it_was_written(tmp_path):
  made = {'x': np.arange(3, dtype=np.int32), 'y': np.float32(0.5)}
  harness.save(made, tmp_path / 'problem.npz')
  found = harness.load(tmp_path / 'problem.npz')
  assert found.keys() == made.keys() and found['x'].dtype == np.int32
  np.testing.assert_array_equal(found['x'], made['x'])


def test_lines_are_printed_at_once_and_errors_end_in_status_1(capsys):
  harness.emit({'ratio': 2})
  assert not harness._failures
  harness.emit({'error': 'they disagree'})
  lines = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
  assert lines == [{'ratio': 2}, {'error': 'they disagree'}]
  assert harness._failures == ['they disagree']
  harness._failures.clear()


def test_unknown_cases_are_named():
  assert harness.choose('cases', [], {'a': 1, 'b': 2}) == [1, 2]
  assert harness.choose('cases', ['b'], {'a': 1, 'b': 2}) == [2]
  with pytest.raises(SystemExit, match='--cases=c: use some of a, b'):
    harness.choose('cases', ['c'], {'a': 1, 'b': 2})


class _AfterWaiting:
  """Its first two calls after waiting take much more processor time."""

  def __init__(self):
    self.num_cold = 0

  def order(self, do, **fields):
    assert do == 'time'
    self.num_cold = 2
    return harness._timed(self, **fields)

  def step(self):
    end = time.process_time() + (0.1 if self.num_cold > 0 else 0.01)
    self.num_cold -= 1
    while time.process_time() < end:
      pass


def test_both_clocks_leave_out_the_call_after_waiting():
  found = harness.take_turns(
    {'a': _AfterWaiting()}, (2, 0.0), {'step': 3}, warm_up='step'
  )['a']
  assert len(found['step']) == len(found['cpu_step']) == 6
  assert max(found['cpu_step']) < 0.08


def test_a_block_has_its_least_number_of_calls():
  calls = []
  seconds, processor_s = harness.timed_block(
    lambda: calls.append(1), 0.0, least=3
  )
  assert len(seconds) == len(processor_s) == len(calls) == 3
  assert machine.peak_bytes() > 0
