# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes what click models of several scenarios reached."""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import json
import math
import os
from typing import Any, Literal, NamedTuple

import rich
import rich.box
import rich.table

from antjax import config as config_lib
from antjax.jobs import job as job_lib
from antjax.jobs.bahe import report as bahe_report
from antjax.jobs.gmeta import report as gmeta_report
from antjax.metrics import by_slice as scores
from antjax.metrics.bootstrap import Estimate
from antjax.metrics.resampled import METRICS
from antjax.report import progress, report
from antjax.train.trainer import Trainer

_BARS = 'AUC'
_FLOOR = 0.5  # AUC of scores drawn by chance.


class Scored(NamedTuple):
  """What a model reached on the test rows.

  Attributes:
    table: From `scores.score`.
    bins: From `scores.calibration`.
  """

  table: Mapping[str, scores.Part]
  bins: Sequence[scores.Bin]


def write(
  config: Any,
  job: job_lib.Job,
  description: Mapping[str, Any],
  models: Mapping[str, Scored],
  *,
  script: str = 'launch/train_clicks.py',
  baselines: Sequence[str] = (),
  differences: Mapping[str, Mapping[str, scores.Part]] | None = None,
  trainer: Trainer | None = None,
  throughput: Mapping[str, float] | None = None,
  notes: Sequence[str] = (),
) -> None:
  """Prints the table; writes results.json and report.html. On process 0.

  Args:
    config: Of the run, a dataclass.
    job: The job.
    description: Of the data: 'name', and perhaps 'is_synthetic' and
      'acknowledgement'.
    models: Name -> what it reached, with intervals over users.
    script: What the job is started with.
    baselines: Those of `models` that the others are measured against.
    differences: 'a - b' -> from `scores.difference`.
    trainer: Of the run, for its memory and PaRO code; None: of several runs.
    throughput: Numbers by what they count.
    notes: Further sentences.
  """
  differences = differences or {}
  name = description['name']
  if description.get('is_synthetic'):
    name += ' (synthetic)'
  print_table(name, models)
  everything = {
    'data': name,
    'models': {
      model: {
        'parts': scores.as_json(scored.table),
        'calibration': [_bin_as_json(one) for one in scored.bins],
      }
      for model, scored in models.items()
    },
    'differences': {k: scores.as_json(v) for k, v in differences.items()},
    'throughput': dict(throughput or {}),
  }
  path = job.run_dir / 'results.json'
  temporary = path.with_suffix('.new')
  temporary.write_text(json.dumps(everything, indent=2), encoding='utf-8')
  os.replace(temporary, path)
  metrics_file = job.run_dir / progress.METRICS_FILE
  lines = progress.read_metrics(metrics_file) if metrics_file.exists() else []
  revision = config_lib.git_revision() or {'revision': '', 'dirty': False}
  titles = _bars(models)
  page = report.write_report(
    report.Report(
      title=f'Clicks of several scenarios on {name}',
      summary=_summary(models),
      results=result_rows(models),
      lower_is_better=scores.LOWER_IS_BETTER,
      baselines=baselines,
      intervals=_panels(models),
      bars=titles | _difference_bars(differences),
      bar_floors=dict.fromkeys(titles, _FLOOR),
      curves=bahe_report.curves(lines),
      throughput=throughput or {},
      memory=gmeta_report.memory(trainer) if trainer else [],
      config=dataclasses.asdict(config),
      command=job.repeat_command(script),
      revision=revision['revision'][:12] + '+' * revision['dirty'],
      machine=report.describe_machine(),
      date=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
      notes=[*_notes(description), *notes],
    ),
    job.run_dir,
  )
  rich.print(f'Report: {page}')


def result_rows(models: Mapping[str, Scored]) -> list[dict[str, Any]]:
  """A row a part and model, parts in the order of the first model."""
  parts = dict.fromkeys(part for one in models.values() for part in one.table)
  return [
    {
      'scenario': part,
      'method': model,
      **{m: scored.table[part].metrics[m].value for m in METRICS},
    }
    for part in parts
    for model, scored in models.items()
    if part in scored.table
  ]


def print_table(name: str, models: Mapping[str, Scored]) -> None:
  """Metrics by part and model, without the parts of scenarios."""
  table = rich.table.Table(title=f'Clicks on {name}', box=rich.box.SIMPLE)
  for column in ('rows of', 'model', *METRICS):
    justify: Literal['left', 'right'] = 'right' if column in METRICS else 'left'
    table.add_column(column, justify=justify, no_wrap=True)
  shown = ''
  for row in result_rows(models):
    part = row['scenario']
    if part.startswith(scores.SCENARIO) and not scores.is_scenario(part):
      continue
    found = models[row['method']].table[part].metrics
    table.add_row(
      '' if part == shown else part.removeprefix(scores.SCENARIO),
      row['method'],
      *(_shown(found[m], with_interval=m == _BARS) for m in METRICS),
    )
    shown = part
  rich.print(table)


def _shown(estimate: Estimate, *, with_interval: bool = True) -> str:
  if math.isnan(estimate.value):
    return '-'
  text = f'{estimate.value:.4f}'
  if with_interval and not math.isnan(estimate.low):
    text += f' ± {(estimate.high - estimate.low) / 2:.4f}'
  return text


def _summary(models: Mapping[str, Scored]) -> str:
  texts = []
  for model, scored in models.items():
    rows = scored.table[scores.ALL].rows
    every, weighted = (
      _shown(scored.table[part].metrics[_BARS])
      for part in (scores.ALL, scores.WEIGHTED)
    )
    texts.append(
      f'{model}: AUC {every} over all {rows:,} test rows, {weighted} as the'
      ' mean of the scenarios by rows.'
    )
  return ' '.join(texts)


def _bars(
  models: Mapping[str, Scored],
) -> dict[str, dict[str, dict[str, Sequence[float]]]]:
  """AUC by scenario, by bucket of users and items, and by both."""
  panels: dict[str, dict[str, dict[str, Sequence[float]]]] = {}
  for model, scored in models.items():
    for part, found in scored.table.items():
      title, group = _place(part)
      panel = panels.setdefault(f'{_BARS} {title}', {})
      panel.setdefault(group, {})[model] = found.metrics[_BARS]
  return panels


def _place(part: str) -> tuple[str, str]:
  """Title of the panel of a part, and its name there."""
  if part in (scores.ALL, scores.WEIGHTED) or scores.is_scenario(part):
    return 'by scenario', part.removeprefix(scores.SCENARIO)
  if part in scores.OF_TWO_LABELS:
    return 'of the second label', part
  scenario, kind, bucket = ('/' + part).rsplit('/', 2)
  title = f'by training rows of the {kind}'
  if scenario:
    title += f', scenario {scenario.removeprefix("/" + scores.SCENARIO)}'
  return title, bucket


def _difference_bars(
  differences: Mapping[str, Mapping[str, scores.Part]],
) -> dict[str, dict[str, dict[str, Sequence[float]]]]:
  """Differences of AUC by scenario."""
  groups: dict[str, dict[str, Sequence[float]]] = {}
  for pair, table in differences.items():
    for part, found in table.items():
      title, group = _place(part)
      if title == 'by scenario':
        groups.setdefault(group, {})[pair] = found.metrics[_BARS]
  return {f'Difference of {_BARS}, on the same rows': groups} if groups else {}


def _panels(models: Mapping[str, Scored]) -> dict[str, report.Panel]:
  """The calibration plot."""
  lines = {
    model: [(one.prediction, *one.clicks) for one in scored.bins]
    for model, scored in models.items()
  }
  lines = {model: points for model, points in lines.items() if points}
  if not lines:
    return {}
  nan = float('nan')
  end = max(x for points in lines.values() for x, *_ in points)
  lines['calibrated'] = [(0.0, 0.0, nan, nan), (end, end, nan, nan)]
  return {
    'Calibration: share of clicks': report.Panel('predicted share', lines)
  }


def _bin_as_json(one: scores.Bin) -> dict[str, Any]:
  # The share of clicks of a bin with rows is a number; its interval may be not.
  values = [None if math.isnan(x) else x for x in one.clicks]
  return {'prediction': one.prediction, 'clicks': values, 'rows': one.rows}


def _notes(description: Mapping[str, Any]) -> list[str]:
  notes = [
    'Bars and ±: 95% bootstrap intervals over users.',
    'GAUC weighs users by their rows; users of one class are left out. ECE is'
    ' over bins of equal numbers of rows.',
    f'"{scores.WEIGHTED}" is the mean of the scenarios, weighted by their rows:'
    ' unlike the AUC of all rows it does not reward knowing which scenario has'
    ' more clicks.',
    'zero, few, warm: how many training rows the user or the item has.',
  ]
  if description.get('is_synthetic'):
    notes.append('The data are synthetic: no figure here is of real users.')
  if description.get('acknowledgement'):
    notes.append(f'Data: {description["acknowledgement"]}')
  return notes
