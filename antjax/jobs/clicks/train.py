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
results.json, report.html. The same command goes on where a run was stopped.
"""

import dataclasses
from typing import Annotated, Any, Literal

import optax

from antjax.ctr.antm2c.model import FieldConfig
from antjax.ctr.models import build
from antjax.ctr.models.inputs import NetworkConfig
from antjax.jobs import job as job_lib
from antjax.jobs import training_config
from antjax.jobs.clicks import data as antm2c_data
from antjax.jobs.clicks import report as antm2c_report
from antjax.jobs.clicks import search as antm2c_search
from antjax.jobs.clicks.job import ClickJob, SeedResult
from antjax.metrics import by_slice as scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """AdamW of the network; the tables have their own (fields.optimizer)."""

  learning_rate: Annotated[float, 'Peak rate.'] = 1e-3
  warmup_steps: Annotated[int, 'Steps of linear warm-up.'] = 0
  decay: Annotated[
    Literal['none', 'cosine'], 'Of the rate, over all steps.'
  ] = 'none'
  weight_decay: Annotated[float, 'Decoupled decay.'] = 0.0
  clip_norm: Annotated[float, 'Largest norm of the gradient; 0: any.'] = 0.0

  def __post_init__(self) -> None:
    if not self.learning_rate > 0 or self.warmup_steps < 0:
      raise ValueError(
        f'optimizer.learning_rate={self.learning_rate} must be positive,'
        f' optimizer.warmup_steps={self.warmup_steps} not negative.'
      )
    if min(self.weight_decay, self.clip_norm) < 0:
      raise ValueError(
        f'optimizer.weight_decay={self.weight_decay} and optimizer.clip_norm='
        f'{self.clip_norm} must not be negative.'
      )

  def build(self, num_steps: int) -> optax.GradientTransformation:
    """The optax transform of a run of `num_steps` steps."""
    rate: Any = self.learning_rate
    if self.decay == 'cosine':
      rate = optax.cosine_decay_schedule(rate, max(num_steps, 1))
    if self.warmup_steps:
      first = optax.linear_schedule(0, self.learning_rate, self.warmup_steps)
      rest = rate if callable(rate) else optax.constant_schedule(rate)
      rate = optax.join_schedules([first, rest], [self.warmup_steps])
    steps = [optax.adamw(rate, weight_decay=self.weight_decay)]
    if self.clip_norm:
      steps.insert(0, optax.clip_by_global_norm(self.clip_norm))
    return optax.chain(*steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training_config.TrainingConfig):
  """Training of a click model of several scenarios."""

  run_dir: Annotated[
    str,
    'Folder of this run: config, logs, checkpoints, report. A second start with'
    ' the same folder goes on where the first one stopped.',
  ] = 'runs/antm2c'
  data: Annotated[str, 'Folder that launch/prepare_data.py wrote.'] = (
    'data/antm2c'
  )
  model: Annotated[str, f'One of {", ".join(build.MODELS)}.'] = 'dcnv2'
  scenario: Annotated[
    str,
    'Id column that says the scenario; empty: scene, or else all clicks are of'
    ' one.',
  ] = ''
  scenario_groups: Annotated[
    tuple[str, ...],
    'Values of that column that make a scenario each, e.g. 1+18,25,35+45.'
    ' Empty: each value is one, and the column no feature besides.',
  ] = ()
  ids: Annotated[
    Literal['train', 'global'],
    'train: users and items that training has not seen are the unknown one.'
    ' global: each has its row, which nothing has trained.',
  ] = 'train'
  history: Annotated[
    str, 'Sequence that is the history of clicks; empty: the first; or none.'
  ] = ''
  max_history: Annotated[int, 'Newest clicks taken of it.'] = 20
  conversion: Annotated[
    str,
    'Numeric column of 0 and 1 that is a second label, for esmm; no feature.',
  ] = ''
  text_vectors: Annotated[
    str,
    'Store that launch/build_behavior_store.py wrote of these texts: with all'
    ' layers below the cut it has sentence vectors.',
  ] = ''
  text_dim: Annotated[int, 'Their principal components; 0: all.'] = 64
  text_sequences: Annotated[
    tuple[str, ...], 'Sequences that are texts, each a mean of its pieces.'
  ] = ()
  max_pieces: Annotated[int, 'Newest pieces taken of such a text.'] = 16
  image_vectors: Annotated[
    str, 'Folder that launch/encode_images.py wrote.'
  ] = ''
  eval_batch_size: Annotated[int, 'Clicks scored at once.'] = 8192
  num_seeds: Annotated[int, 'Trainings, with seeds from --seed on.'] = 1
  batch_size: Annotated[int, 'Clicks of a step, all devices together.'] = 2048
  best_metric: Annotated[str, 'What better means.'] = 'validation_auc'
  paro: Annotated[
    str,
    'PaRO code: levels of parameters, gradients, optimizer state; auto takes'
    ' the one that the planner finds best.',
  ] = 'NNN'
  network: NetworkConfig = NetworkConfig()
  fields: FieldConfig = FieldConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  score: scores.ScoreConfig = scores.ScoreConfig()
  search: antm2c_search.SearchConfig = antm2c_search.SearchConfig()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.model not in build.MODELS:
      raise ValueError(
        f'model={self.model}: unknown; use one of {", ".join(build.MODELS)}.'
      )
    if not self.fields.knows_scenario:
      self.check_pooled()
    if self.model == 'esmm' and not self.conversion:
      raise ValueError('model=esmm learns two labels: name --conversion.')
    self.check_least(
      {
        **dict.fromkeys(('max_history', 'max_pieces', 'eval_batch_size'), 1),
        'num_seeds': 1,
        'text_dim': 0,
      }
    )

  def check_pooled(self) -> None:
    """Refuses fields that tell a model the scenario that is kept from it."""
    if self.scenario_groups and 'columns' in self.fields.use:
      raise ValueError(
        f'fields.use={self.fields.use}: the column {self.scenario} of the'
        ' groups is one of columns and tells the scenario; leave columns out,'
        ' or --scenario_groups.'
      )


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
