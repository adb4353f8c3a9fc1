# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes the results of launch/train_gmeta.py."""

from collections.abc import Iterator, Mapping, Sequence
import math
from typing import Any

from antjax.jobs import job as job_lib
from antjax.jobs.gmeta.config import Config
from antjax.jobs.gmeta.data import MODELS
from antjax.jobs.gmeta.methods import FINE_TUNED, JOINT, META
from antjax.jobs.gmeta.scores import MethodScores
from antjax.metrics import by_task
from antjax.report import job_report, report, terminal
from antjax.train.trainer import Trainer

# What the verdicts and the plots are about.
_SHOWN: Mapping[by_task.Kind, tuple[str, ...]] = {
  'rating': ('MAE', 'AUC'),
  'click': ('NE', 'AUC'),
}
# Baseline of a task's own support rows.
_FROM_SUPPORT = {'rating': 'support median', 'click': 'support mean'}


def write(
  config: Config,
  job: job_lib.Job,
  description: Mapping[str, Any],
  trainer: Trainer,
  results: MethodScores,
) -> None:
  """Prints the table; writes results.json and report.html. On process 0."""
  rows = results.rows
  kind: by_task.Kind = description.get('kind', 'rating')
  shown = _SHOWN[kind]
  columns = by_task.METRICS[kind][:4]
  terminal.show_table(
    'Query rows, by cold-start scenario',
    ('scenario', 'method', *columns),
    _cells(rows, columns),
    num_left=2,
  )
  methods = list(dict.fromkeys(row['method'] for row in rows))
  verdicts = [
    verdict(rows, baseline, shown[0])
    for baseline in (_FROM_SUPPORT[kind], JOINT, FINE_TUNED)
    if META in methods
  ]
  for text in verdicts:
    terminal.show(text)
  logs = {name: job_report.read_lines(job.run_dir / name) for name in MODELS}
  logs = {name: lines for name, lines in logs.items() if lines}
  speeds = dict[str, float]()
  for name, lines in logs.items():  # Support and query rows count.
    title = f'examples/s, {name} (median step)'
    speeds |= job_report.medians(lines, {title: 'examples_per_s'})
  what = 'Meta-learned recommender'
  if config.algorithm != 'default':
    what = f'Recommender ({config.algorithm})'
  job.report(
    'train-gmeta',
    {
      'algorithm': config.algorithm,
      'kind': kind,
      'results': rows,
      'details': results.details,
    },
    config=config,
    trainer=trainer,
    title=f'{what} on {description["name"]}',
    summary=' '.join(verdicts),
    results=rows,
    lower_is_better=by_task.LOWER_IS_BETTER,
    baselines=[method for method in methods if method != META],
    widths={
      (d['scenario'], d['method'], d['metric']): (d['high'] - d['low']) / 2
      for d in results.details
      if not {'num_steps', 'support'} & d.keys()
    },
    intervals=_panels(results.details, shown),
    curves={
      key.replace('_', ' '): {
        name: job_report.points(lines, key) for name, lines in logs.items()
      }
      for key in ('loss', 'grad_norm', 'examples_per_s')
    },
    throughput=speeds,
    notes=[
      'Rows that no training step has seen: the last of each task in a'
      ' scenario are the query, the others the support to adapt on.',
      'Bars: 95% bootstrap intervals over tasks.',
    ],
    acknowledgement=description.get('acknowledgement'),
  )


def _cells(
  rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> Iterator[Sequence[str]]:
  """Metrics by scenario and method, the best of a scenario in bold."""
  by_scenario: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    by_scenario.setdefault(row['scenario'], []).append(row)
  for scenario, members in by_scenario.items():
    best = {}
    for m in metrics:
      known = [row[m] for row in members if not math.isnan(row[m])]
      pick = min if m in by_task.LOWER_IS_BETTER else max
      best[m] = terminal.number(pick(known), digits=3) if known else ''
    for i, row in enumerate(members):
      texts = {m: terminal.number(row[m], digits=3) for m in metrics}
      shown = (f'[bold]{t}[/]' if t == best[m] else t for m, t in texts.items())
      yield ['' if i else scenario, row['method'], *shown]
    yield ()


def verdict(
  rows: Sequence[Mapping[str, Any]], baseline: str, metric: str
) -> str:
  """Says in which scenarios the meta-learner's error is below a baseline's."""
  error = {(r['scenario'], r['method']): r[metric] for r in rows}
  known = [
    s
    for s in dict.fromkeys(row['scenario'] for row in rows)
    if not math.isnan(error.get((s, baseline), math.nan))
  ]
  if not known:
    return f'No {baseline} baseline with {metric} was run.'
  won = [s for s in known if error[s, META] < error[s, baseline]]
  lost = [s for s in known if s not in won]
  text = f'{metric} against {baseline}: '
  if won:
    text += f'below it in {", ".join(won)}'
  if won and lost:
    text += '; '
  if lost:
    text += f'NOT below it in {", ".join(lost)}'
  return text + '.'


def _panels(
  details: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> dict[str, report.Panel]:
  """Metrics by adaptation steps and by support size, a panel a scenario."""
  panels: dict[str, report.Panel] = {}
  for key, label in (
    ('num_steps', 'adaptation steps'),
    ('mean_support', 'support rows (mean of the tasks)'),
  ):
    for metric in metrics:
      for row in details:
        if key not in row or row['metric'] != metric:
          continue
        if not math.isfinite(row['value']):
          continue
        title = f'{metric} by {label.partition(" (")[0]}, {row["scenario"]}'
        panel = panels.setdefault(title, report.Panel(label, {}))
        panel.lines.setdefault(row['method'], []).append(
          (row[key], row['value'], row['low'], row['high'])
        )
  return panels
