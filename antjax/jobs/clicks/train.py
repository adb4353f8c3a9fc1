# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a click model of several scenarios, and scores each of them.

  python -m launch.prepare_behaviors --out=data/ml-1m-text
  python -m launch.train_clicks --flagfile=launch/recipes/scenarios_ml1m.flags

does it on MovieLens-1M, whose scenarios are three groups of ages; AntM2C's own
files, and synthetic ones of the same form, go the same way (docs/antm2c.md).
--model chooses among models of one scenario and of many. --num_seeds trains
several times; --search.num_trials looks for rates and widths first. The run
folder gets checkpoints, metrics.jsonl, TensorBoard events, predictions,
results.json, report.html. The same command goes on where a run was stopped.
"""

from antjax.jobs import job as job_lib
from antjax.jobs.clicks import data as antm2c_data
from antjax.jobs.clicks import report as antm2c_report
from antjax.jobs.clicks import search as antm2c_search
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.job import ClickJob, SeedResult


def main(config: Config) -> None:
  job = job_lib.start(config)
  train(config, job)


def train(config: Config, job: job_lib.Job) -> list[SeedResult]:
  """Searches, trains each seed, scores and reports; returns the results."""
  data = antm2c_data.ScenarioData(config, job)
  antm2c_data.log_counts(data)
  if config.search.num_trials:
    config = antm2c_search.best_config(config, job, data)
  jobs = [
    ClickJob(config, job, data, seed=config.seed + i)
    for i in range(config.num_seeds)
  ]
  results = [one.run() for one in jobs]
  trainer = jobs[-1].initialized_trainer()
  if job.is_main and 'test' in data.splits:
    antm2c_report.write(
      config,
      job,
      data.description,
      {
        f'{config.model}, seed {r.seed}': one.scored(r)
        for one, r in zip(jobs, results, strict=True)
      },
      trainer=trainer,
      throughput=jobs[-1].speed(),
    )
  return results
