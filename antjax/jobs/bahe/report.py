# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes the results of launch/train_bahe.py."""

from collections.abc import Mapping
from typing import Any

from antjax.jobs import job as job_lib
from antjax.jobs.bahe.config import Config
from antjax.metrics import click_metrics
from antjax.report import job_report, terminal
from antjax.train.trainer import Trainer

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
  config: Config,
  job: job_lib.Job,
  description: Mapping[str, Any],
  trainer: Trainer,
  account: Mapping[str, Any],
  scores: Mapping[str, Mapping[str, float]],
  means: Mapping[str, Mapping[str, float]],
) -> None:
  """Prints the table; writes results.json and report.html. On process 0.

  `means` are the test scores of `means`, by method.
  """
  own = result_rows(scores, f'{config.tower}, {config.head.kind}')
  rows = own + [
    row
    for method, found in means.items()
    for row in result_rows({'test': found}, method)
  ]
  terminal.show_table(
    f'Clicks ({rows[0]["method"]})',
    ('examples of', 'method', *_NAMES.values()),
    [
      (
        *(r['scenario'], r['method']),
        *(terminal.number(r[k]) for k in _SCORES),
        *(f'{r[k]:,.0f}' for k in ('one-class', 'examples')),
      )
      for r in rows
    ],
  )
  lines = job_report.read_lines(job.run_dir)
  scored = {
    split: f'{found["examples"]:,.0f} of the'
    f' {description["splits"][split]["examples"]:,} {split} examples'
    for split, found in scores.items()
  }
  job.report(
    'train-bahe',
    {'results': {**scores, **means}},
    config=config,
    trainer=trainer,
    account=account,
    title=f'Clicks on {description["name"]}',
    summary=(
      f'Tower {config.tower}, head {config.head.kind}, PaRO'
      f' {trainer.paro.code}: AUC {scores["test"]["auc"]:.4f} on'
      f' {scored["test"]}. {account["frozen_share"]:.0%} of the dense'
      ' parameters are frozen.'
    ),
    results=[
      {k: row[k] for k in ('scenario', 'method', *_SCORES)} for row in rows
    ],
    lower_is_better=frozenset({'log-loss', 'NE'}),
    panels=job_report.CLICK_CURVES,
    throughput=job_report.medians(lines, {'examples/s': 'examples_per_s'}),
    notes=[
      *(f'Scored: {text}.' for text in scored.values()),
      'GAUC weighs users by their examples; users of one class are left out'
      f' ({own[-1]["scenario"]}: {own[-1]["one-class"]:,.0f}).',
      'NE is the log-loss over that of the share of clicks, a constant.',
    ],
    acknowledgement=description.get('acknowledgement'),
  )


def result_rows(
  scores: Mapping[str, Mapping[str, float]], method: str
) -> list[dict[str, Any]]:
  """One row a split and slice, of the slices with examples."""
  rows = []
  for split, found in scores.items():
    for name in click_metrics.SLICES:
      prefix = '' if name == 'all' else f'{name}/'
      values = {shown: found[f'{prefix}{k}'] for k, shown in _NAMES.items()}
      if values['examples']:
        scenario = split if name == 'all' else f'{split}, {name}'
        rows.append({'scenario': scenario, 'method': method, **values})
  return rows
