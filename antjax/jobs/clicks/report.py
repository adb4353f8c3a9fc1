# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes the results of click models for several scenarios."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from antjax.jobs import job as job_lib
from antjax.jobs.clicks.config import Config
from antjax.metrics import by_slice as scores
from antjax.metrics.bootstrap import Estimate, METRICS
from antjax.report import job_report, report, terminal
from antjax.train.trainer import Trainer

_BARS = 'AUC'
_FLOOR = 0.5  # AUC of scores drawn by chance.
_NOTES = (
  'Bars and ±: 95% bootstrap intervals over users.',
  'GAUC weighs users by their rows; users of one class are left out. ECE is'
  ' over bins of equal numbers of rows.',
  'zero, few, warm: how many training rows the user or the item has.',
)
_OF_MEAN = (
  f'"{scores.WEIGHTED}" is the mean of the scenarios, weighted by their rows:'
  ' unlike the AUC of all rows it does not reward knowing which scenario has'
  ' more clicks.'
)


class Scored(NamedTuple):
  """Results of `scores.score` and `scores.calibration` on the test rows."""

  table: Mapping[str, scores.Part]
  bins: Sequence[scores.Bin]


def write(
  config: Config,
  job: job_lib.Job,
  description: Mapping[str, Any],
  models: Mapping[str, Scored],
  *,
  trainer: Trainer | None = None,
  throughput: Mapping[str, float],
  more_notes: Sequence[str] = (),
) -> None:
  """Prints the table; writes results.json and report.html. On process 0.

  `models` are what each reached, with intervals over users; `trainer` is that
  of one of them.
  """
  name = description['name'] + ' (synthetic)' * bool(
    description.get('is_synthetic')
  )
  rows = result_rows(models)
  terminal.show_table(
    f'Clicks on {name}',
    ('rows of', 'model', *METRICS),
    _cells(rows, models),
    num_left=2,
  )
  bars, notes = _bars(models), [*_NOTES, *more_notes]
  if any(scores.WEIGHTED in scored.table for scored in models.values()):
    notes.append(_OF_MEAN)
  if trials := config.search.num_trials:
    notes.append(f'Settings: chosen among {trials} trials, by validation.')
  if description.get('is_synthetic'):
    notes.append('The data are synthetic: no figure here is of real users.')
  told: dict[str, Any] = {}
  for model, scored in models.items():
    bins = [one._asdict() for one in scored.bins]
    told[model] = {'parts': scores.as_json(scored.table), 'calibration': bins}
  job.report(
    'train-clicks',
    {'data': name, 'models': told},
    config=config,
    trainer=trainer,
    title=f'Clicks of several scenarios on {name}',
    summary=_summary(models),
    results=rows,
    lower_is_better=scores.LOWER_IS_BETTER,
    intervals=_panels(models),
    bars=bars,
    bar_floors=dict.fromkeys(bars, _FLOOR),
    panels=job_report.CLICK_CURVES,
    throughput=throughput,
    notes=notes,
    acknowledgement=description.get('acknowledgement'),
  )


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


def _cells(
  rows: Sequence[Mapping[str, Any]], models: Mapping[str, Scored]
) -> Iterator[Sequence[str]]:
  """Metrics by part and model, without the parts of scenarios."""
  shown = ''
  for row in rows:
    part = row['scenario']
    if part.startswith(scores.SCENARIO) and not scores.is_scenario(part):
      continue
    found = models[row['method']].table[part].metrics
    yield [
      '' if part == shown else part.removeprefix(scores.SCENARIO),
      row['method'],
      *(_shown(found[m], with_interval=m == _BARS) for m in METRICS),
    ]
    shown = part


def _shown(estimate: Estimate, *, with_interval: bool = True) -> str:
  width = (estimate.high - estimate.low) / 2 if with_interval else None
  return terminal.number(estimate.value, width)


def _summary(models: Mapping[str, Scored]) -> str:
  texts = []
  for model, scored in models.items():
    table = scored.table
    every = table[scores.ALL]
    text = f'{model}: AUC {_shown(every.metrics[_BARS])} over all'
    text += f' {every.rows:,} test rows'
    if scores.WEIGHTED in table:
      text += f', {_shown(table[scores.WEIGHTED].metrics[_BARS])} as the mean'
      text += ' of the scenarios by rows'
    texts.append(f'{text}.')
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
  if part.startswith(scores.TASK):
    return 'by task', part.removeprefix(scores.TASK)
  scenario, kind, bucket = ('/' + part).rsplit('/', 2)
  title = f'by training rows of the {kind}'
  if scenario:
    title += f', scenario {scenario.removeprefix("/" + scores.SCENARIO)}'
  return title, bucket


def _panels(models: Mapping[str, Scored]) -> dict[str, report.Panel]:
  """The calibration plot."""
  lines = {
    model: [(one.prediction, *one.clicks) for one in scored.bins]
    for model, scored in models.items()
    if scored.bins
  }
  if not lines:
    return {}
  nan = float('nan')
  end = max(x for points in lines.values() for x, *_ in points)
  lines['calibrated'] = [(0.0, 0.0, nan, nan), (end, end, nan, nan)]
  return {
    'Calibration: share of clicks': report.Panel('predicted share', lines)
  }
