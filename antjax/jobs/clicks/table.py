# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of launch/train_clicks.py --table: models, inputs, scenarios."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import pathlib
import statistics
from typing import Any, NamedTuple

import numpy as np

from antjax.jobs import job as job_lib
from antjax.jobs.clicks.config import Config, INPUTS, POOLED
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.search import best_config
from antjax.jobs.clicks.training import ClickJob, SeedResult
from antjax.metrics import by_slice as scores
from antjax.networks import load
from antjax.report import job_report, terminal

_PARTS = (scores.ALL, scores.WEIGHTED)
_BUCKETS = tuple(
  f'{kind}/{bucket}' for kind in ('item', 'user') for bucket in scores.BUCKETS
)


class Cell(NamedTuple):
  """Trainings of one model on one kind of inputs, a seed each."""

  model: str
  inputs: str
  results: Sequence[SeedResult]


def fill(config: Config, job: job_lib.Job) -> list[Cell]:
  """Trains each model on each kind of inputs; returns the cells.

  Raises:
    ValueError: A model of --models needs what the data lack.
  """
  data = ScenarioData(config, job)
  lacking = {}
  if not (data.sizes.histories and 'history' in config.fields.use):
    lacking['history'] = 'there is none here'
  if len(data.sizes.labels) < 2:
    lacking['labels'] = f'the data have one, {data.sizes.labels[0]}'
  for model in config.models:  # Before the first of them is trained.
    load.refuse(load.load(model, 'models'), lacking, f'models={model}')
  models = config.models or [
    name for name, found in load.CLICK.items() if not found.needs & set(lacking)
  ]
  name, cells = data.description['name'], list[Cell]()
  for inputs in config.inputs:
    for model in models:
      cells.append(_trained(config, job, data, model, inputs))
      if job.is_main:
        write(job.run_dir, name, cells, config.score, config.best_metric)

  def sample(cell: Cell) -> scores.Sampled:
    logits = [
      np.load(pathlib.Path(result.folder) / 'predictions.npz')['logit']
      for result in cell.results
    ]
    columns = data.splits['test'].scored
    return scores.sample(columns, logits, config.score, data.scenarios)

  if job.is_main and len(cells) > 1:
    write_differences(job.run_dir, name, cells, sample)
  return cells


def _trained(
  config: Config, job: job_lib.Job, data: ScenarioData, model: str, inputs: str
) -> Cell:
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
    own = best_config(own, part, data)
  results = [
    ClickJob(
      own, part, data, seed=own.seed + i, dataset=f'{inputs}/{model}/{i}'
    ).run()
    for i in range(own.num_seeds)
  ]
  return Cell(model, inputs, results)


def write(
  folder: pathlib.Path,
  name: str,
  cells: Sequence[Cell],
  score: scores.ScoreConfig,
  best_metric: str,
) -> None:
  """Prints the table; writes table.md and table.json."""
  parts = _parts(cells)
  metrics = ('GAUC', 'log-loss', 'ECE')
  rows = [
    [
      cell.model,
      cell.inputs,
      *(_mean(cell, part, 'AUC') for part in parts),
      *(_mean(cell, scores.ALL, metric) for metric in metrics),
    ]
    for cell in cells
  ]
  head = ['model', 'inputs', *map(_short, parts), *metrics]
  text = (
    f'# Click models on {name}\n\nTest AUC (mean of {len(cells[0].results)}'
    ' seeds, with its standard error if there are several); GAUC, log-loss and'
    ' ECE of all test clicks. item/zero are clicks on items without a training'
    f' click, few up to {score.few_items}; likewise users (up to'
    f' {score.few_users}). Best steps were chosen by {best_metric}.\n\n'
  )
  table = job_report.markdown(head, rows)
  (folder / 'table.md').write_text(text + table, encoding='utf-8')
  job_report.write_json(folder / 'table.json', [_plain(c) for c in cells])
  terminal.show_table(
    f'Click models on {name}: test AUC', head, rows, num_left=len(head)
  )


def write_differences(
  folder: pathlib.Path,
  name: str,
  cells: Sequence[Cell],
  sample: Callable[[Cell], scores.Sampled],
) -> None:
  """Writes differences.md: AUC less that of a like cell, with intervals.

  A cell is told from the first model on the same inputs, and from the same
  model on the first inputs (`scores.difference`).
  """
  sampled = {(c.model, c.inputs): sample(c) for c in cells}
  parts = [p for p in _parts(cells) if not p.startswith(scores.TASK)]
  rows = []
  for (model, inputs), other in sampled.items():
    for base in ((cells[0].model, inputs), (model, cells[0].inputs)):
      if base == (model, inputs):
        continue
      table = scores.difference(sampled[base], other)
      found = [table[part].metrics['AUC'] for part in parts]
      texts = [f'{x.value:+.4f} ({x.low:+.4f}, {x.high:+.4f})' for x in found]
      rows.append([model, inputs, ' on '.join(base), *texts])
  num_seeds = len(cells[0].results)
  seeds = '' if num_seeds == 1 else ", and for each one's seeds"
  text = (
    f'# Differences: {name}\n\nTest AUC (mean of {num_seeds} seeds) less that'
    ' of another cell, with 95 % intervals over draws of users, the same for'
    f' both{seeds}.\n\n'
  )
  head = ['model', 'inputs', 'against', *map(_short, parts)]
  (folder / 'differences.md').write_text(
    text + job_report.markdown(head, rows), encoding='utf-8'
  )


def _parts(cells: Sequence[Cell]) -> list[str]:
  """Those that some cell has: all, scenarios, buckets."""
  found = {part for cell in cells for r in cell.results for part in r.test}
  first = [part for part in _PARTS if part in found]
  scenarios = sorted(part for part in found if scores.is_scenario(part))
  tasks = sorted(part for part in found if part.startswith(scores.TASK))
  return first + scenarios + tasks + [p for p in _BUCKETS if p in found]


def _short(part: str) -> str:
  return part.removeprefix(scores.SCENARIO)


def _mean(cell: Cell, part: str, metric: str) -> str:
  """Mean over the seeds, with its standard error if there are several."""
  values = [
    r.test[part].metrics[metric].value for r in cell.results if part in r.test
  ]
  values = [x for x in values if math.isfinite(x)]
  if not values:
    return '-'
  error = None
  if len(values) > 1:
    error = statistics.stdev(values) / math.sqrt(len(values))
  return terminal.number(statistics.mean(values), error)


def _plain(cell: Cell) -> Mapping[str, Any]:
  return {
    'model': cell.model,
    'inputs': cell.inputs,
    'seeds': [
      {
        'seed': r.seed,
        'validation': r.validation,
        'test': scores.as_json(r.test),
        'folder': r.folder,
      }
      for r in cell.results
    ],
  }
