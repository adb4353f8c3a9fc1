# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains many click models on one data set, into one table.

  python -m launch.benchmark_clicks --data=data/antm2c --run_dir=runs/table \
    --models=lr,deepfm,dcnv2,mmoe,star --num_seeds=3

All settings of launch/train_clicks.py hold for each model. With --inputs the
models are also trained without texts and images and with them (the multi-modal
task). Cells that are done are not done again: a run that was stopped goes on,
and a model that is added later joins the table. The run folder gets table.md,
table.json, differences.md (AUC less that of the first model, and less its own
on the first inputs, with intervals) and a folder for each training.
"""

import dataclasses
from typing import Annotated

from antjax.jobs import job as job_lib
from antjax.jobs.clicks import data as antm2c_data
from antjax.jobs.clicks import search as antm2c_search
from antjax.jobs.clicks import table as antm2c_table
from antjax.jobs.clicks import train as train_antm2c
from antjax.jobs.clicks.job import ClickJob, SeedResult
from antjax.networks import load

# Name in the table -> kinds of vectors that the models see.
_POOLED = 'pooled'  # Ids, but not the scenario.
_INPUTS = {
  _POOLED: (),
  'id': (),
  'id+text': ('text',),
  'id+image': ('image',),
  'all': ('text', 'image'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(train_antm2c.Config):
  """Models and inputs of the table; the rest is as for one training."""

  run_dir: Annotated[str, 'Folder of the table and of all trainings.'] = (
    'runs/antm2c_table'
  )
  models: Annotated[
    tuple[str, ...], 'Rows of the table; empty: all that the data allow.'
  ] = ()
  inputs: Annotated[
    tuple[str, ...],
    f'Some of {", ".join(_INPUTS)}: what models see; pooled: ids, but not the'
    ' scenario.',
  ] = ('id',)

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in self.models:
      load.load(name, 'models')
    if unknown := sorted(set(self.inputs) - set(_INPUTS)):
      raise ValueError(
        f'inputs: {", ".join(unknown)} unknown; use some of'
        f' {", ".join(_INPUTS)}.'
      )
    if not self.inputs:
      raise ValueError('inputs: give at least one.')
    if _POOLED in self.inputs:
      self.check_pooled()


def main(config: Config) -> None:
  job = job_lib.start(config)
  train(config, job)


def train(config: Config, job: job_lib.Job) -> list[antm2c_table.Cell]:
  """Fills the table; returns its cells."""
  data = antm2c_data.ScenarioData(config, job)
  cells = []
  for inputs in config.inputs:
    for model in config.models or _possible(data):
      cell = _cell(config, job, data, model, inputs)
      cells.append(cell)
      if job.is_main:
        antm2c_table.write(config, job, data, cells)
  if job.is_main and len(cells) > 1:
    antm2c_table.write_differences(config, job, data, cells)
  return cells


def _cell(
  config: Config,
  job: job_lib.Job,
  data: antm2c_data.ScenarioData,
  model: str,
  inputs: str,
) -> antm2c_table.Cell:
  """Trains one model with all seeds."""
  ids = [name for name in config.fields.use if name not in _INPUTS['all']]
  fields = dataclasses.replace(
    config.fields,
    use=(*ids, *_INPUTS[inputs]),
    knows_scenario=config.fields.knows_scenario and inputs != _POOLED,
  )
  own: train_antm2c.Config = dataclasses.replace(
    config, model=model, fields=fields
  )
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


def _possible(data: antm2c_data.ScenarioData) -> list[str]:
  """Models that need nothing that the data lack."""
  lacking = set() if data.sizes.max_history else {'history'}
  if data.splits['train'].conversion is None:
    lacking |= {'conversion'}
  return [n for n, found in load.CLICK.items() if not found.needs & lacking]
