# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes what launch/train_bahe.py reached."""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import json
import math
import statistics
from typing import Any, TYPE_CHECKING

import rich
import rich.table

from antjax import config as config_lib
from antjax.jobs import job as job_lib
from antjax.jobs import speed as lm_speed
from antjax.jobs.gmeta import report as gmeta_report
from antjax.metrics import click_metrics
from antjax.report import progress, report
from antjax.train.trainer import Trainer

if TYPE_CHECKING:
  from antjax.jobs.bahe.train import Config

_NAMES = {
  'auc': 'AUC',
  'gauc': 'GAUC',
  'log_loss': 'log-loss',
  'normalized_entropy': 'NE',
  'one_class_users': 'one-class',
  'examples': 'examples',
}
_SCORES = ('AUC', 'GAUC', 'log-loss', 'NE')


def write(
  config: 'Config',
  job: job_lib.Job,
  description: Mapping[str, Any],
  trainer: Trainer,
  memory: Mapping[str, Any],
  scores: Mapping[str, Mapping[str, float]],
) -> None:
  """Prints the table; writes results.json and report.html. On process 0.

  Args:
    config: Of the run.
    job: The job.
    description: Of the data.
    trainer: Of the run.
    memory: From `bahe_memory.account`.
    scores: Split -> scores.
  """
  method = f'{config.tower}, {config.head.kind}'
  rows = result_rows(scores, method)
  print_table(rows)
  lines = progress.read_metrics(job.run_dir / progress.METRICS_FILE)
  speeds = [r['examples_per_s'] for r in lines if r.get('examples_per_s')]
  speed = {'examples/s': statistics.median(speeds)} if speeds else {}
  peak = lm_speed.peak_bytes()
  everything = {
    'results': {
      split: {name: _plain(x) for name, x in found.items()}
      for split, found in scores.items()
    },
    'paro': trainer.paro.code,
    'memory': memory,
    'peak_bytes': peak,
    'throughput': speed,
  }
  (job.run_dir / 'results.json').write_text(
    json.dumps(everything, indent=2), encoding='utf-8'
  )
  revision = config_lib.git_revision() or {'revision': '', 'dirty': False}
  path = report.write_report(
    report.Report(
      title=f'Clicks on {description["name"]}',
      summary=(
        f'Tower {config.tower}, head {config.head.kind}, PaRO'
        f' {trainer.paro.code}: AUC {scores["test"]["auc"]:.4f} on'
        f' {_scored(description, "test", scores)}.'
        f' {memory["frozen_share"]:.0%} of the dense parameters are'
        ' frozen.'
      ),
      results=[
        {k: v for k, v in row.items() if k in ('scenario', 'method', *_SCORES)}
        for row in rows
      ],
      lower_is_better=frozenset({'log-loss', 'NE'}),
      curves=curves(lines),
      throughput=speed,
      memory=gmeta_report.memory(trainer) + _table_memory(trainer, memory),
      config=dataclasses.asdict(config),
      command=job.repeat_command('launch/train_bahe.py'),
      revision=revision['revision'][:12] + '+' * revision['dirty'],
      machine=report.describe_machine(),
      date=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
      notes=[
        *(
          f'Scored: {_scored(description, split, scores)}.' for split in scores
        ),
        *_notes(description, memory, rows),
      ],
    ),
    job.run_dir,
  )
  rich.print(f'Report: {path}')


def _scored(
  description: Mapping[str, Any],
  split: str,
  scores: Mapping[str, Mapping[str, float]],
) -> str:
  """How many of a split's examples were scored."""
  total = description['splits'][split]['examples']
  return f'{scores[split]["examples"]:,.0f} of the {total:,} {split} examples'


def result_rows(
  scores: Mapping[str, Mapping[str, float]], method: str
) -> list[dict[str, Any]]:
  """One row a split and slice, of the slices with examples."""
  rows = []
  for split, found in scores.items():
    for name in click_metrics.SLICES:
      prefix = '' if name == 'all' else f'{name}/'
      values = {_NAMES[k]: found[f'{prefix}{k}'] for k in _NAMES}
      if values['examples']:
        scenario = split if name == 'all' else f'{split}, {name}'
        row = {k: _plain(x) for k, x in values.items()}
        rows.append({'scenario': scenario, 'method': method, **row})
  return rows


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
  """Scores by split and slice."""
  table = rich.table.Table(title=f'Clicks ({rows[0]["method"]})')
  table.add_column('examples of', no_wrap=True)
  for name in _NAMES.values():
    table.add_column(name, justify='right')
  for row in rows:
    cells = [
      '-'
      if row[name] is None
      else f'{row[name]:.4f}'
      if name in _SCORES
      else f'{row[name]:,.0f}'
      for name in _NAMES.values()
    ]
    table.add_row(row['scenario'], *cells)
  rich.print(table)


def _plain(value: float) -> float | None:
  """For JSON, which has no nan."""
  return value if math.isfinite(value) else None


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Curves of `report.Report` from the lines of metrics.jsonl."""

  def points(key: str) -> list[tuple[float, float]]:
    return [(r['step'], r[key]) for r in lines if r.get(key) is not None]

  return {
    'loss': {
      'train': points('loss'),
      'validation': points('validation_log_loss'),
    },
    'AUC': {
      'validation': points('validation_auc'),
      'validation, within users': points('validation_gauc'),
    },
    'grad norm': {'train': points('grad_norm')},
  }


def _table_memory(
  trainer: Trainer, memory: Mapping[str, Any]
) -> list[dict[str, Any]]:
  if not memory['table']:
    return []
  return [
    {
      'device': device,
      'level': memory['table_level'],
      'part': 'table of behaviours',
      'bytes': memory['table'],
    }
    for device in range(trainer.mesh.size)
  ]


def _notes(
  description: Mapping[str, Any],
  memory: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
) -> list[str]:
  notes = [
    'GAUC weighs users by their examples; users of one class are left out'
    f' ({rows[-1]["scenario"]}: {rows[-1]["one-class"]:,.0f}).',
    'NE is the log-loss over that of the share of clicks, a constant.',
  ]
  compiled = memory['compiled']
  if compiled:
    planned = sum(memory['state'].values()) + memory['table']
    notes.append(
      'Memory of a device, planned and as the compiler has it: state and table'
      f' {report.format_bytes(planned)}, arguments'
      f' {report.format_bytes(compiled["arguments"])}; activations'
      f' {report.format_bytes(memory["activations"])}, temporary'
      f' {report.format_bytes(compiled["temporary"])}.'
    )
  if description.get('acknowledgement'):
    notes.append(f'Data: {description["acknowledgement"]}')
  return notes
