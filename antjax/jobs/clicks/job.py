# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a click model of several scenarios, and scores each of them.

  python -m launch.prepare_data --views=examples
  python -m launch.train_clicks --flagfile=launch/recipes/scenarios_ml1m.flags

does it on MovieLens-1M, whose scenarios are three groups of ages; AntM2C's own
files, and synthetic ones of the same form, go the same way (docs/antm2c.md).
--model chooses among models of one scenario and of many. --num_seeds trains
several times; --search.num_trials looks for rates and widths first. The run
folder gets checkpoints, metrics.jsonl, TensorBoard events, predictions,
results.json, report.html. The same command resumes a stopped run.

  python -m launch.train_clicks --table --data=data/antm2c --num_seeds=3 \
    --models=lr,deepfm,dcnv2,mmoe,star --run_dir=runs/table

trains many models on one data set into one table. With --inputs they are also
trained without texts and images and with them (the multi-modal task). Cells
that are done are not done again, and a model that is added later joins the
table. The run folder gets table.md, table.json, differences.md (AUC less that
of the first model, and less its own on the first inputs, with intervals) and a
folder for each training.
"""

import dataclasses
import pathlib

import numpy as np

from antjax.jobs import job as job_lib
from antjax.jobs.clicks import data as antm2c_data
from antjax.jobs.clicks import report as antm2c_report
from antjax.jobs.clicks import search as antm2c_search
from antjax.jobs.clicks import table as antm2c_table
from antjax.jobs.clicks.config import Config, INPUTS, POOLED
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.training import ClickJob, SeedResult
from antjax.metrics import by_slice as scores
from antjax.networks import load


def main(config: Config) -> None:
  job = job_lib.start(config)
  if config.table:
    fill_table(config, job)
  else:
    train(config, job)


def train(config: Config, job: job_lib.Job) -> list[SeedResult]:
  """Searches, trains each seed, scores and reports; returns the results."""
  data = ScenarioData(config, job)
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


def fill_table(config: Config, job: job_lib.Job) -> list[antm2c_table.Cell]:
  """Trains each model on each kind of inputs; returns the cells."""
  data = ScenarioData(config, job)
  name, cells = data.description['name'], list[antm2c_table.Cell]()
  for inputs in config.inputs:
    for model in config.models or _possible(data):
      cells.append(_cell(config, job, data, model, inputs))
      if job.is_main:
        antm2c_table.write(
          job.run_dir, name, cells, config.score, config.best_metric
        )

  def sample(cell: antm2c_table.Cell) -> scores.Sampled:
    logits = [
      np.load(pathlib.Path(result.folder) / 'predictions.npz')['logit']
      for result in cell.results
    ]
    columns = data.splits['test'].scored
    return scores.sample(columns, logits, config.score, data.scenarios)

  if job.is_main and len(cells) > 1:
    antm2c_table.write_differences(job.run_dir, name, cells, sample)
  return cells


def _cell(
  config: Config,
  job: job_lib.Job,
  data: ScenarioData,
  model: str,
  inputs: str,
) -> antm2c_table.Cell:
  """Trains one model with all seeds."""
  ids = [name for name in config.fields.use if name not in INPUTS['all']]
  fields = dataclasses.replace(
    config.fields,
    use=(*ids, *INPUTS[inputs]),
    knows_scenario=config.fields.knows_scenario and inputs != POOLED,
  )
  own = dataclasses.replace(config, model=model, fields=fields)
  folder = job.run_dir / inputs / model
  folder.mkdir(parents=True, exist_ok=True)
  part = dataclasses.replace(job, run_dir=folder)
  if own.search.num_trials:
    own = antm2c_search.best_config(own, part, data)
  results: list[SeedResult] = [
    ClickJob(
      own, part, data, seed=own.seed + i, dataset=f'{inputs}/{model}/{i}'
    ).run()
    for i in range(own.num_seeds)
  ]
  return antm2c_table.Cell(model, inputs, results)


def _possible(data: ScenarioData) -> list[str]:
  """Models that need nothing that the data lack."""
  lacking = set() if data.sizes.max_history else {'history'}
  if data.splits['train'].conversion is None:
    lacking |= {'conversion'}
  return [n for n, found in load.CLICK.items() if not found.needs & lacking]
