# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of launch/train_clicks.py --table: models, inputs, scenarios."""

from collections.abc import Mapping, Sequence
import json
import math
import pathlib
import statistics
from typing import Any, NamedTuple

import numpy as np
import rich
import rich.table

from antjax.jobs import job as job_lib
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.training import SeedResult
from antjax.metrics import by_slice as scores

_PARTS = (scores.ALL, scores.WEIGHTED)
_BUCKETS = tuple(
  f'{kind}/{bucket}' for kind in ('item', 'user') for bucket in scores.BUCKETS
)


class Cell(NamedTuple):
  """Trainings of one model on one kind of inputs, a seed each."""

  model: str
  inputs: str
  results: Sequence[SeedResult]


def write(
  config: Config, job: job_lib.Job, data: ScenarioData, cells: Sequence[Cell]
) -> None:
  """Prints the table; writes table.md and table.json. On process 0."""
  parts = _parts(cells)
  lines = [[cell.model, cell.inputs, *_texts(cell, parts)] for cell in cells]
  heading = ['model', 'inputs', *map(_short, parts), 'GAUC', 'log-loss', 'ECE']
  name = data.description['name']
  text = [
    f'# Click models on {name}',
    '',
    f'Test AUC (mean of {config.num_seeds} seeds, with its standard error if'
    ' there are several); GAUC, log-loss and ECE of all test clicks. item/zero'
    ' are clicks on items without a training click, few up to'
    f' {config.score.few_items}; likewise users'
    f' (up to {config.score.few_users}). Best steps were chosen by'
    f' {config.best_metric}.',
    '',
    _row(heading),
    _row(['---'] * len(heading)),
    *map(_row, lines),
    '',
  ]
  (job.run_dir / 'table.md').write_text('\n'.join(text), encoding='utf-8')
  (job.run_dir / 'table.json').write_text(
    json.dumps([_plain(cell) for cell in cells], indent=2), encoding='utf-8'
  )
  table = rich.table.Table(title=f'Click models on {name}: test AUC')
  for column in heading:
    table.add_column(column, no_wrap=True)
  for line in lines:
    table.add_row(*line)
  rich.print(table)


def write_differences(
  config: Config, job: job_lib.Job, data: ScenarioData, cells: Sequence[Cell]
) -> None:
  """Writes differences.md: AUC less that of a like cell, with intervals.

  A cell is told from the first model on the same inputs, and from the same
  model on the first inputs (`scores.difference`).
  """
  sampled = {(c.model, c.inputs): _sampled(config, data, c) for c in cells}
  parts = [p for p in _parts(cells) if p not in scores.OF_TWO_LABELS]
  heading = ['model', 'inputs', 'against', *map(_short, parts)]
  lines = []
  for (model, inputs), other in sampled.items():
    for base in ((cells[0].model, inputs), (model, cells[0].inputs)):
      if base == (model, inputs):
        continue
      table = scores.difference(sampled[base], other)
      found = [table[part].metrics['AUC'] for part in parts]
      texts = [f'{x.value:+.4f} ({x.low:+.4f}, {x.high:+.4f})' for x in found]
      lines.append([model, inputs, ' on '.join(base), *texts])
  seeds = '' if config.num_seeds == 1 else ", and for each one's seeds"
  text = [
    f'# Differences: {data.description["name"]}',
    '',
    f'Test AUC (mean of {config.num_seeds} seeds) less that of another cell,'
    f' with 95 % intervals over draws of users, the same for both{seeds}.',
    '',
    _row(heading),
    _row(['---'] * len(heading)),
    *map(_row, lines),
    '',
  ]
  (job.run_dir / 'differences.md').write_text('\n'.join(text), encoding='utf-8')


def _sampled(config: Config, data: ScenarioData, cell: Cell) -> scores.Sampled:
  """Scores of all seeds over draws of users."""
  logits = []
  for result in cell.results:
    with np.load(pathlib.Path(result.folder) / 'predictions.npz') as archive:
      logits.append(archive['logit'])
  columns = data.splits['test'].scored
  return scores.sample(columns, logits, config.score, data.scenarios)


def _parts(cells: Sequence[Cell]) -> list[str]:
  """Those that some cell has: all, scenarios, buckets."""
  found = {part for cell in cells for r in cell.results for part in r.test}
  first = [part for part in _PARTS if part in found]
  scenarios = sorted(part for part in found if scores.is_scenario(part))
  rest = [p for p in (*scores.OF_TWO_LABELS, *_BUCKETS) if p in found]
  return first + scenarios + rest


def _short(part: str) -> str:
  return part.removeprefix(scores.SCENARIO)


def _texts(cell: Cell, parts: Sequence[str]) -> list[str]:
  """The numbers of a row."""
  found = [_mean(_values(cell, part, 'AUC')) for part in parts]
  return found + [
    _mean(_values(cell, scores.ALL, metric))
    for metric in ('GAUC', 'log-loss', 'ECE')
  ]


def _values(cell: Cell, part: str, metric: str) -> list[float]:
  values = [
    r.test[part].metrics[metric].value for r in cell.results if part in r.test
  ]
  return [x for x in values if math.isfinite(x)]


def _mean(values: Sequence[float]) -> str:
  if not values:
    return '-'
  if len(values) == 1:
    return f'{values[0]:.4f}'
  error = statistics.stdev(values) / math.sqrt(len(values))
  return f'{statistics.mean(values):.4f} ± {error:.4f}'


def _row(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


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
