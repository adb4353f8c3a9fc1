# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Decisions on recorded batch times, word for word.

`golden/trace_*.json` are batch times of synthetic jobs that nobody steered;
`golden/decisions.json` is what each policy decides on them, and in simulation
where its decisions have effects. A change there is a change of behavior: look
at the difference, then

  python -m tests.elastic.policy_golden_test --write
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import pytest

from antjax.elastic import policy
from antjax.elastic.controller import ControllerConfig
from antjax.elastic.windows import MonitorConfig
from benchmarks import straggler_sim as simulate
from benchmarks.straggler_scenarios import SCENARIOS

_GOLDEN = pathlib.Path(__file__).parent / 'golden'
_DECISIONS = _GOLDEN / 'decisions.json'
# Short windows, so that all states come up in a short trace.
_MONITOR = MonitorConfig(short_s=8.0, long_s=30.0)
_CONTROLLER = ControllerConfig(period_s=4.0, cooldown_s=30.0)
_SCENARIOS = {scenario.name: scenario for scenario in SCENARIOS}


def _brief_transient(worker: int, now: float) -> float:
  return 4.0 if worker == 3 and 20 <= now < 40 else 1.0


_TRACED = {
  'x4_one_of_4': dataclasses.replace(_SCENARIOS['x4_one_of_4'], num_steps=15),
  'classes_1_2': dataclasses.replace(_SCENARIOS['classes_1_2'], num_steps=15),
  'transient_x4': dataclasses.replace(
    _SCENARIOS['transient_x4'], slowness=_brief_transient, num_steps=50
  ),
}


def _words(decision: simulate.Decision) -> dict[str, Any]:
  values = dataclasses.asdict(decision.action)
  reason = values.pop('reason')
  return {
    'now': round(decision.now, 3),
    'step': decision.step,
    'action': type(decision.action).__name__,
    **{
      name: round(value, 6) if isinstance(value, float) else value
      for name, value in values.items()
    },
    'reason': reason,
  }


def _replayed(trace: str, name: str) -> list[dict[str, Any]]:
  rows = json.loads((_GOLDEN / f'trace_{trace}.json').read_text())
  decisions = simulate.replay(
    rows, policy.BUILT_IN[name], monitor=_MONITOR, controller=_CONTROLLER
  )
  return [_words(decision) for decision in decisions]


def _simulated(scenario: str, name: str) -> list[dict[str, Any]]:
  run = simulate.played(_SCENARIOS[scenario], policy.BUILT_IN[name])
  return [_words(decision) for decision in run.decisions]


def _cases() -> dict[str, Any]:
  """Key of the golden file -> what gives its value."""
  cases = {
    f'replay {trace} {name}': (_replayed, trace, name)
    for trace in _TRACED
    for name in policy.BUILT_IN
  }
  cases |= {
    f'simulate {scenario} {name}': (_simulated, scenario, name)
    for scenario in _SCENARIOS
    if scenario != 'many_32'  # It takes long.
    for name in ('antdt_nd', 'antdt_dd')
  }
  return cases


@pytest.mark.parametrize('key', _cases())
def test_decisions_are_as_recorded(key):
  function, scenario, name = _cases()[key]
  expected = json.loads(_DECISIONS.read_text())
  hint = 'run: python -m tests.elastic.policy_golden_test --write'
  assert function(scenario, name) == expected[key], hint


@pytest.mark.parametrize('trace', _TRACED)
def test_the_simulator_still_gives_the_traces(trace):
  rows = json.loads((_GOLDEN / f'trace_{trace}.json').read_text())
  assert simulate.record(_TRACED[trace]) == rows


def test_there_is_no_other_golden_decision():
  assert json.loads(_DECISIONS.read_text()).keys() == _cases().keys()


def _lines(rows: list[dict[str, Any]]) -> str:
  """JSON with a row on each line: differences can be read."""
  return '[\n' + ',\n'.join(f'  {json.dumps(row)}' for row in rows) + '\n]'


def main() -> None:
  if sys.argv[1:] != ['--write']:
    sys.exit('usage: python -m tests.elastic.policy_golden_test --write')
  _GOLDEN.mkdir(exist_ok=True)
  for trace, scenario in _TRACED.items():
    rows = simulate.record(scenario)
    (_GOLDEN / f'trace_{trace}.json').write_text(_lines(rows) + '\n')
  decided = [
    f'{json.dumps(key)}: {_lines(function(scenario, name))}'
    for key, (function, scenario, name) in _cases().items()
  ]
  _DECISIONS.write_text('{\n' + ',\n'.join(decided) + '\n}\n')


if __name__ == '__main__':
  main()
