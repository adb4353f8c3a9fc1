# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The report of click models of several scenarios."""

import dataclasses
import json

import jax
import numpy as np

from antjax.jobs import job as job_lib
from antjax.jobs import script
from antjax.jobs.clicks import report as antm2c_report
from antjax.jobs.clicks.config import SearchConfig
from antjax.metrics import by_slice as scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(job_lib.JobConfig):
  run_dir: str = 'runs/antm2c'
  search: SearchConfig = SearchConfig()


def columns(num_rows=400):
  rng = np.random.default_rng(0)
  logit = rng.normal(size=num_rows)
  return {
    'prediction': logit,
    'label': (rng.uniform(size=num_rows) < 1 / (1 + np.exp(-logit))) * 1,
    'user': rng.integers(0, 40, size=num_rows),
    'scenario': rng.integers(0, 2, size=num_rows),
    'user_count': np.ones(num_rows, int),
    'item_count': rng.integers(0, 30, size=num_rows),
  }


def test_the_report_shows_scenarios_buckets_and_calibration(tmp_path, capsys):
  c, config = columns(), scores.ScoreConfig(num_resamples=10)
  other = np.random.default_rng(1).normal(size=400)
  names = ['ads', 'videos']
  models = {
    name: antm2c_report.Scored(
      scores.score({**c, 'prediction': logit}, config, names),
      scores.calibration({**c, 'prediction': logit}, config),
    )
    for name, logit in (('star', c['prediction']), ('mlp', other))
  }
  mesh = jax.make_mesh((1, 1), ('inter', 'intra'))
  job = job_lib.Job(mesh, tmp_path, script.stop_request, Config())
  antm2c_report.write(
    Config(run_dir=str(tmp_path)),
    job,
    {'name': 'AntM2C', 'is_synthetic': True},
    models,
    throughput={'rows/s': 12345.0},
  )
  page = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert 'is the mean of the scenarios' in page
  assert 'Clicks of several scenarios on AntM2C (synthetic)' in page
  assert 'scenario/videos/item/zero' in page
  # Scenarios; buckets of items and users, overall and in each of the two;
  # calibration.
  assert page.count('<figure>') == 1 + 6 + 1
  assert 'The data are synthetic' in page
  results = json.loads((tmp_path / 'results.json').read_text(encoding='utf-8'))
  parts = results['models']['star']['parts']
  assert parts == scores.as_json(models['star'].table)
  shown = capsys.readouterr().out
  assert 'ads' in shown and '0.7277 ± ' in shown
  assert 'item/zero' in shown and 'ads/item/zero' not in shown


def test_the_report_of_one_scenario_says_nothing_of_a_mean(tmp_path):
  c, config = columns(), scores.ScoreConfig(num_resamples=10)
  c['scenario'][:] = 0
  models = {'mlp': antm2c_report.Scored(scores.score(c, config), ())}
  mesh = jax.make_mesh((1, 1), ('inter', 'intra'))
  job = job_lib.Job(mesh, tmp_path, script.stop_request, Config())
  antm2c_report.write(
    Config(run_dir=str(tmp_path)),
    job,
    {'name': 'one'},
    models,
    throughput={},
  )
  page = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert 'mean of the scenarios' not in page
