# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a click model for several scenarios and scores each of them.

  python -m launch.prepare_data --views=examples
  python -m launch.train_clicks --flagfile=launch/recipes/scenarios_ml1m.flags

This trains on MovieLens-1M, whose scenarios are three age groups. AntM2C's
files, and synthetic files in the same format, work the same way
(docs/antm2c.md). --model selects a model for one or several scenarios.
--num_seeds trains several times; --search.num_trials first searches for
learning rates and widths. The run folder contains checkpoints, metrics.jsonl,
TensorBoard events, predictions, results.json and report.html. The same command
resumes a stopped run.

  python -m launch.train_clicks --table --data=data/antm2c --num_seeds=3 \
    --models=lr,deepfm,dcnv2,mmoe,star --run_dir=runs/table

This compares many models on one data set in one table. With --inputs they are
trained both with and without texts and images (the multi-modal task). Finished
cells are not repeated, and later models are added to the table. The run folder
contains table.md, table.json, differences.md (AUC minus that of the first model
and of the same model on the first inputs, with intervals) and a folder per run.
"""

from antjax.jobs import job as job_lib
from antjax.jobs.clicks import data as antm2c_data
from antjax.jobs.clicks import follow, rates
from antjax.jobs.clicks import report as antm2c_report
from antjax.jobs.clicks import table as antm2c_table
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.search import best_config
from antjax.jobs.clicks.training import ClickJob, SeedResult
from antjax.report import terminal


def main(config: Config) -> None:
  job = job_lib.start(config)
  if config.table:
    antm2c_table.fill(config, job)
    return
  if not config.follow or not follow.is_trained(config, job):
    train(config, job)
  if config.follow:
    follow.run(config, job)


def train(config: Config, job: job_lib.Job) -> list[SeedResult]:
  """Searches, trains each seed, scores and reports; returns the results."""
  data = ScenarioData(config, job)
  antm2c_data.log_counts(data)
  if config.search.num_trials:
    config = best_config(config, job, data)
  jobs = [
    ClickJob(config, job, data, seed=config.seed + i, is_exported=True)
    for i in range(config.num_seeds)
  ]
  results = [one.run() for one in jobs]
  if not jobs[-1].is_started:  # All was done before.
    jobs[-1].start()
  if job.is_main and 'test' in data.splits:
    models = {
      f'{config.model}, seed {r.seed}': one.scored(r)
      for one, r in zip(jobs, results, strict=True)
    }
    if config.rates:
      models[rates.NAME] = rates.scored(data, config.score)
    antm2c_report.write(
      config,
      job,
      data.description,
      models,
      trainer=jobs[-1].trainer,
      throughput=jobs[-1].speed(),
      more_notes=[data.unseen_note('test')] * bool(data.unseen['test']),
    )
  elif job.is_main:
    terminal.show('The data have no split test: there is no table of scores.')
    for r in results:
      found = ', '.join(f'{n} {x:.4f}' for n, x in r.validation.items())
      terminal.show(f'Validation, seed {r.seed}: {found or "no split either"}')
  return results
