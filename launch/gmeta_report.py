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
from antjax.mesh.paro import PaRO
from antjax.meta import evaluate
from antjax.train import progress, report
from antjax.train.trainer import Trainer
from launch import common

METRICS = ('MAE', 'RMSE', 'nDCG@3', 'AUC')
_LOWER = frozenset({'MAE', 'RMSE'})
META = 'meta-learned'


def write(
  config: Any,
  job: common.Job,
  description: Mapping[str, Any],
  trainer: Trainer,
  rows: Sequence[Mapping[str, Any]],
) -> None:
  """Prints the table; writes results.json and report.html. On process 0."""
  print_table(rows)
  verdicts = [
    verdict(rows, 'support median', evaluate.SCENARIOS),
    verdict(rows, 'joint', evaluate.SCENARIOS),
    verdict(rows, 'joint + fine-tuning', evaluate.SCENARIOS),
  ]
  for text in verdicts:
    rich.print(text)
  (job.run_dir / 'results.json').write_text(
    json.dumps({'results': list(rows)}, indent=2), encoding='utf-8'
  )
  revision = config_lib.git_revision() or {'revision': '', 'dirty': False}
  path = report.write_report(
    report.Report(
      title=f'Meta-learned recommender on {description["name"]}',
      summary=' '.join(verdicts),
      results=rows,
      lower_is_better=_LOWER,
      baselines=[
        r['method'] for r in rows[: len(rows) // 4] if r['method'] != META
      ],
      curves=_curves(job.run_dir),
      throughput=_throughput(job.run_dir),
      memory=memory(trainer),
      config=dataclasses.asdict(config),
      command=job.repeat_command('launch/train_gmeta.py'),
      revision=revision['revision'][:12] + '+' * revision['dirty'],
      machine=report.describe_machine(),
      date=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
      notes=[
        'Ratings that no training step has seen: the last 10 of each user in a'
        ' scenario are the query, the others the support to adapt on.',
        f'Data: {description["acknowledgement"]}',
      ],
    ),
    job.run_dir,
  )
  rich.print(f'Report: {path}')


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
  """The scenarios' metrics by method, the best of each in bold."""
  table = rich.table.Table(title='Query ratings, by cold-start scenario')
  for name in ('scenario', 'method', *METRICS):
    table.add_column(
      name, justify='right' if name in METRICS else 'left', no_wrap=True
    )
  by_scenario: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    by_scenario.setdefault(row['scenario'], []).append(row)
  for scenario, members in by_scenario.items():
    best = {
      m: (min if m in _LOWER else max)(_shown(r[m]) for r in members)
      for m in METRICS
    }
    for i, row in enumerate(members):
      cells = [
        f'[bold]{_shown(row[m])}[/]'
        if _shown(row[m]) == best[m]
        else _shown(row[m])
        for m in METRICS
      ]
      table.add_row('' if i else scenario, row['method'], *cells)
    table.add_section()
  rich.print(table)


def _shown(value: float) -> str:
  return '-' if math.isnan(value) else f'{value:.3f}'


def verdict(
  rows: Sequence[Mapping[str, Any]], baseline: str, scenarios: Sequence[str]
) -> str:
  """Says in which scenarios the meta-learner's MAE is below a baseline's."""
  mae = {(r['scenario'], r['method']): r['MAE'] for r in rows}
  known = [
    s for s in scenarios if not math.isnan(mae.get((s, baseline), math.nan))
  ]
  if not known:
    return f'No {baseline} baseline was run.'
  won = [s for s in known if mae[s, META] < mae[s, baseline]]
  lost = [s for s in known if s not in won]
  text = f'MAE against {baseline}: '
  if won:
    text += f'below it in {", ".join(won)}'
  if won and lost:
    text += '; '
  if lost:
    text += f'NOT below it in {", ".join(lost)}'
  return text + '.'


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
