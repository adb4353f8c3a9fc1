# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Traces as `trace_bench` reads and replays them."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import straggler_sim, trace_bench


def _write(folder, name='pai_job_1', rows=12, slow=4):
  """Three workers, the last of them slow; one row lacks a worker."""
  lines = [',worker,gpu,time,batch_time_norm']
  for row in range(rows):
    for worker, value in enumerate((100, 100, 100 * slow)):
      if (row, worker) != (5, 1):
        lines.append(f'{len(lines)},{worker},25,{1 + 10 * row},{value}')
  (folder / f'{name}.csv').write_text('\n'.join(lines) + '\n')


def test_a_trace_is_the_slowness_of_each_worker_row_by_row(tmp_path):
  _write(tmp_path)
  slowness, left_out = trace_bench.load(tmp_path / 'pai_job_1.csv')
  assert left_out == 1
  np.testing.assert_array_equal(slowness, [[1, 1, 4]] * 11)


def test_a_file_of_another_kind_is_refused(tmp_path):
  (tmp_path / 'x.csv').write_text('worker,seconds\n0,1\n')
  with pytest.raises(ValueError, match='no column batch_time_norm, time'):
    trace_bench.load(tmp_path / 'x.csv')


def test_copies_of_workers_start_elsewhere_in_the_trace():
  slowness = np.arange(1.0, 81.0).reshape(40, 2)
  scenario = trace_bench.scenario_of('t', slowness, 4, 8)
  assert scenario.num_steps == 40
  assert [scenario.slowness(w, 0.0) for w in range(4)] == [1, 2, 75, 76]
  assert scenario.slowness(1, 1.0) == 80
  # The lower one of two is the low median.
  assert scenario.new_host(0.5) == slowness[20, 0]


def test_the_trace_follows_the_work_done_and_the_ideal_is_its_own():
  slowness = np.array([[1.0, 1.0]] * 10 + [[1.0, 3.0]] * 10)
  scenario = trace_bench.scenario_of('t', slowness, 2, 8)
  run = straggler_sim.simulate(scenario, lambda view: [])
  assert run.job_s == pytest.approx(10 + 10 * 3 + 20 * 0.01)
  # In the second half 4/3 of a worker's speed is left of two.
  assert run.ideal_s == pytest.approx(10 + 10 * 2 / (4 / 3))


def test_times_of_equal_hosts_tell_what_a_slow_one_takes():
  each_s, rest_s, save_s, background, share = 0.05, 0.1, 1.2, 0.01, 0.25
  many_s = 16 * each_s + rest_s
  many = [many_s] * 25
  many[trace_bench._saves_after(25)[0]] += save_s
  by_quota = np.array([1.0, trace_bench._SLOW])
  slowness = (share - background) / (share / by_quota - background)
  measured = trace_bench.Measured.of(
    [4 * each_s + rest_s] * 25, many, [many_s * slowness[1]] * 6, (4, 16), share
  )
  found = [measured.each_s, measured.rest_s, measured.save_s]
  np.testing.assert_allclose(found, [each_s, rest_s, save_s])
  assert measured.background == pytest.approx(background)
  np.testing.assert_allclose(measured.slowness(by_quota, share), slowness)


def test_a_checkpoint_holds_up_the_first_worker_alone():
  slowness = np.array([[2.0, 3.0]] * 10)
  whole = trace_bench.scenario_of('t', slowness, 2, 8)
  saving = dataclasses.replace(whole, saves_after=(3, 7), save_s=0.8)
  runs = [
    straggler_sim.simulate(one, lambda view: []) for one in (whole, saving)
  ]
  # Twice 1.6 s more, of which it has waited one for the other.
  assert runs[1].job_s - runs[0].job_s == pytest.approx(2 * (1.6 - 1))


def test_hosts_get_the_middle_rows_of_workers_that_are_spread():
  slowness = np.arange(400.0).reshape(40, 10) + 100
  part = trace_bench.hosts_part(slowness, 6)
  np.testing.assert_allclose(part[0] * 270, [270, 273, 276, 279])
  assert part.shape == (6, 4)


def test_lines_of_the_simulator(tmp_path, capsys):
  _write(tmp_path, rows=61)
  config = trace_bench.Config(
    traces=str(tmp_path),
    policy=('static', 'lb_bsp', 'antdt_nd_in_place'),
    simulated_workers=(3,),
    real_rows=0,
  )
  assert trace_bench.main(config) == 0
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [line['policy'] for line in lines] == list(config.policy)
  bsp, lb_bsp, nd = lines
  assert bsp['job_s'] == pytest.approx(60 * 4.01, rel=1e-3)
  assert bsp['share_of_ideal'] == pytest.approx(3 / 2.25 / 4.01, rel=1e-3)
  for line in (lb_bsp, nd):
    assert line['speedup_vs_static'] > 2
    assert line['num_restarts'] == 0
  assert nd['speedup_vs_lb_bsp'] > 0.95


def test_a_folder_without_traces_is_told(tmp_path, capsys):
  assert trace_bench.main(trace_bench.Config(traces=str(tmp_path))) == 1
  assert 'no pai_job_*.csv in' in capsys.readouterr().err
