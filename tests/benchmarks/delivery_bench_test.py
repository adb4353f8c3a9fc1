# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The delivery benchmark runs and prints what its page says."""

import pytest

from tests.benchmarks import runs


def test_deltas_of_a_small_table():
  words = '--rows=500', '--changed=9', '--gone=3', '--added=4', '--text'
  (line,) = runs.lines('delta_bench', *words)
  assert line['rows'] == 13 and line['of_rows'] == 501 and line['write_s'] > 0


@pytest.mark.slow
def test_prints_one_line(tmp_path):
  words = (
    *(f'--work={tmp_path}', '--rows=2000', '--ids=100', '--spare_ids=50'),
    *('--num_steps=4', '--file_rows=20', '--every_s=.5'),
    *('--seconds=1', '--connections=4', '--port=18183'),
  )
  (line,) = runs.lines('delivery_bench', *words, '--files=2')
  assert line['num_events'] == 40 and line['table_rows'] == 300
  assert 0 < line['event_s']['p50'] <= line['event_s']['p99']
  assert line['requests_per_s'] > 0 and line['p99_ms'] >= line['p50_ms']
  assert line['in_process_cpu_ms'] > 0 and line['server_cpu_ms'] > 0
  assert line['call_cpu_ms'] > 0 and line['grpc']['requests_per_s'] > 0

  (line,) = runs.lines('delivery_bench', *words, '--files=0', '--processes=2')
  assert line['requests_per_s'] > 0 and line['processes'] == 2
  assert 'event_s' not in line
