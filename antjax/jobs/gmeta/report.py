# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes what launch/train_gmeta.py reached."""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import json
import math
import pathlib
import statistics
from typing import Any

import rich
import rich.table

from antjax import config as config_lib
from antjax.jobs import job as job_lib
from antjax.jobs.gmeta.methods import FINE_TUNED, JOINT, META
from antjax.jobs.gmeta.scores import Results
from antjax.mesh.paro import PaRO
from antjax.metrics import by_task
from antjax.report import progress, report
from antjax.train.trainer import Trainer

# What the verdicts and the plots are about.
_SHOWN: Mapping[by_task.Kind, tuple[str, ...]] = {
  'rating': ('MAE', 'AUC'),
  'click': ('NE', 'AUC'),
}


def write(
  config: Any,
  job: job_lib.Job,
  description: Mapping[str, Any],
  trainer: Trainer,
  results: Results,
) -> None:
  """Prints the table; writes results.json and report.html. On process 0."""
  rows = results.rows
  kind: by_task.Kind = description.get('kind', 'rating')
  shown = _SHOWN[kind]
  print_table(rows, by_task.METRICS[kind][:4])
  methods = list(dict.fromkeys(row['method'] for row in rows))
  verdicts = [
    verdict(rows, baseline, shown[0])
    for baseline in ('support median', JOINT, FINE_TUNED)
    if META in methods
  ]
  for text in verdicts:
    rich.print(text)
  (job.run_dir / 'results.json').write_text(
    json.dumps(
      {
        'algorithm': config.algorithm,
        'kind': kind,
        'results': rows,
        'details': results.details,
      },
      indent=2,
    ),
    encoding='utf-8',
  )
  revision = config_lib.git_revision() or {'revision': '', 'dirty': False}
  path = report.write_report(
    report.Report(
      title=f'{_title(config.algorithm)} on {description["name"]}',
      summary=' '.join(verdicts),
      results=rows,
      lower_is_better=by_task.LOWER_IS_BETTER,
      baselines=[method for method in methods if method != META],
      intervals=_panels(results.details, shown),
      curves=_curves(job.run_dir),
      throughput=_throughput(job.run_dir),
      memory=memory(trainer),
      config=dataclasses.asdict(config),
      command=job.repeat_command('launch/train_gmeta.py'),
      revision=revision['revision'][:12] + '+' * revision['dirty'],
      machine=report.describe_machine(),
      date=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
      notes=[
        'Rows that no training step has seen: the last of each task in a'
        ' scenario are the query, the others the support to adapt on.',
        'Bars: 95% bootstrap intervals over tasks.',
        *(
          [f'Data: {description["acknowledgement"]}']
          if 'acknowledgement' in description
          else []
        ),
      ],
    ),
    job.run_dir,
  )
  rich.print(f'Report: {path}')


def _title(algorithm: str) -> str:
  if algorithm == 'default':
    return 'Meta-learned recommender'
  return f'Recommender ({algorithm})'


def print_table(
  rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> None:
  """The scenarios' metrics by method, the best of each in bold."""
  table = rich.table.Table(title='Query rows, by cold-start scenario')
  for name in ('scenario', 'method', *metrics):
    table.add_column(
      name, justify='right' if name in metrics else 'left', no_wrap=True
    )
  by_scenario: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    by_scenario.setdefault(row['scenario'], []).append(row)
  for scenario, members in by_scenario.items():
    best = {m: _best(m, [row[m] for row in members]) for m in metrics}
    for i, row in enumerate(members):
      cells = [
        f'[bold]{_shown(row[m])}[/]'
        if _shown(row[m]) == best[m]
        else _shown(row[m])
        for m in metrics
      ]
      table.add_row('' if i else scenario, row['method'], *cells)
    table.add_section()
  rich.print(table)


def _best(metric: str, values: Sequence[float]) -> str:
  known = [value for value in values if not math.isnan(value)]
  if not known:
    return ''
  return _shown((min if metric in by_task.LOWER_IS_BETTER else max)(known))


def _shown(value: float) -> str:
  return '-' if math.isnan(value) else f'{value:.3f}'


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


def memory(trainer: Trainer) -> list[dict[str, Any]]:
  """Bytes of each part of the state on each device, with its level."""
  paro: PaRO = trainer.paro
  pieces = []
  for part, size in trainer.bytes_per_device().items():
    if part.startswith('tables/'):
      level = part.split('/')[1].split('_')[0]
    else:
      level = getattr(paro, part).name.lower()
    pieces += [
      {'device': i, 'level': level, 'part': part, 'bytes': size}
      for i in range(trainer.mesh.size)
    ]
  return pieces


def _logs(run_dir: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  paths = {
    name: run_dir / name / progress.METRICS_FILE for name in ('meta', 'joint')
  }
  return {
    name: progress.read_metrics(path)
    for name, path in paths.items()
    if path.exists()
  }


def _curves(run_dir: pathlib.Path) -> dict[str, Any]:
  curves: dict[str, Any] = {}
  for name, lines in _logs(run_dir).items():
    for key in ('loss', 'grad_norm', 'examples_per_s'):
      curves.setdefault(key.replace('_', ' '), {})[name] = [
        (r['step'], r[key]) for r in lines if r.get(key) is not None
      ]
  return curves


def _throughput(run_dir: pathlib.Path) -> dict[str, float]:
  """Median rate of each model's steps; support and query rows count."""
  rates = {
    name: [r['examples_per_s'] for r in lines if r.get('examples_per_s')]
    for name, lines in _logs(run_dir).items()
  }
  return {
    f'examples/s, {name} (median step)': statistics.median(values)
    for name, values in rates.items()
    if values
  }
