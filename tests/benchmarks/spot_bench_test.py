# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The replay of spot traces: simulated jobs, and what is cut out for real."""

import json

import pytest

from benchmarks import spot_bench

_TIMES = {'asked': 4, 'start_s': 30.0, 'save_s': 10.0, 'notice_s': 120.0}


def _run(way, held):
  return spot_bench.simulated(held, 300.0, spot_bench.WAYS[way], **_TIMES)


def test_a_trace_is_read(tmp_path):
  path = tmp_path / 'spot_x.json'
  path.write_text(
    json.dumps({'metadata': {'gap_seconds': 300}, 'data': [0, 4]})
  )
  assert spot_bench.load(path) == ([0, 4], 300.0)


@pytest.mark.parametrize('way', ['notice', 'kill', 'fixed'])
def test_on_hosts_that_stay_nearly_all_the_time_counts(way):
  line = _run(way, [4] * 12)
  assert line['num_generations'] == 1 and line['repeated_share'] == 0
  assert 0.9 < line['goodput'] < 1


def test_a_notice_saves_what_a_kill_repeats():
  held = [4, 4, 3, 3, 3, 4, 4, 2, 2, 2, 4, 4]
  notice, kill, fixed = (_run(w, held) for w in ('notice', 'kill', 'fixed'))
  assert notice['repeated_share'] == 0 < kill['repeated_share']
  assert notice['goodput'] > kill['goodput'] > fixed['goodput'] > 0
  assert notice['num_generations'] >= 5  # It shrinks and grows.


def test_a_job_of_fixed_size_waits():
  assert _run('fixed', [3] * 6)['goodput'] == 0
  assert 0 < _run('fixed_half', [3] * 6)['goodput'] < 2 / 3


def test_the_stretch_has_the_most_changes():
  held = [16] * 20 + [4, 16, 8, 16] + [16] * 20
  rows = spot_bench.stretch(held, 5, 16, 4)
  assert min(rows) > 0 and {1, 2, 4} <= set(rows)
