# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every meta-learning algorithm on MovieLens-1M cold start, beside references.

  python -m launch.prepare_data --out=data/ml-1m
  python -m benchmarks.gmeta_quality --data=data/ml-1m --out=runs/quality
  python -m benchmarks.gmeta_quality --out=runs/quality --table

runs launch/train_gmeta.py for each seed and algorithm, seeds outermost so that
a stopped job leaves whole seeds; what is done is not done again. All take the
same steps on the same tasks with one outer optimizer and one first inner rate;
the references choose how they adapt on held-out training tasks. --table prints
Markdown of what is there, of the seeds in which all listed algorithms are done.

A cell is the mean over seeds, and half the width of the 95% bootstrap interval
over tasks, mean over seeds. `vs joint` is the difference to `joint +
fine-tuning` of the same seed with the 95% interval of Student's t over seeds.
"""

from collections.abc import Sequence
import concurrent.futures
import json
import pathlib
import statistics
import sys
from typing import Any

from absl import app, flags

from antjax.meta import algorithms
from benchmarks import quality_runs

_DATA = flags.DEFINE_string('data', 'data/ml-1m', 'Prepared MovieLens-1M.')
_OUT = flags.DEFINE_string('out', 'runs/quality', 'Folder of the runs.')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Seeds, from 0.', 1)
_STEPS = flags.DEFINE_integer('num_steps', 300, 'Outer steps of each.', 1)
_PER_TASK = flags.DEFINE_integer(
  'per_task_steps', 30, 'Steps of the per-task reference; 0 leaves it out.', 0
)
_ALGORITHMS = flags.DEFINE_list(
  'algorithms',
  [
    'joint',
    *(n for n, a in algorithms.ALGORITHMS.items() if a.outer != 'none'),
  ],
  'In this order; joint stands for all references.',
)
_FEATURES = flags.DEFINE_string(
  'features',
  'gender,age,occupation,item,genres',
  'Features of every model; empty: all of the data set.',
)
_SUPPORT = flags.DEFINE_string(
  'support_sizes', '16,32,96', 'Support rows of the task slots.'
)
_SLOTS = flags.DEFINE_string(
  'slots_per_device', '12,12,16', 'Task slots by support size, in a step.'
)
_PARALLEL = flags.DEFINE_integer('parallel', 1, 'Jobs at once.', 1)
_TABLE = flags.DEFINE_bool('table', False, 'Print the table; run nothing.')

_REFERENCE = 'joint + fine-tuning'
_METRICS = ('MAE', 'RMSE', 'nDCG@3', 'AUC', 'GAUC', 'NE')  # Shown, if known.
_COMPARED = ('MAE', 'AUC', 'NE')  # The first two that are known.


def run(name: str, seed: int) -> bool:
  """One job, unless it is done; returns whether it is now."""
  return quality_runs.run(
    'launch.train_gmeta',
    pathlib.Path(_OUT.value) / f'{name}_{seed}',
    {
      'algorithm': name,
      'seed': seed,
      'data': _DATA.value,
      'num_steps': _STEPS.value,
      'joint_steps': _STEPS.value if name == 'joint' else 0,
      'per_task_steps': _PER_TASK.value if name == 'joint' else 0,
      'slots_per_device': _SLOTS.value,
      'eval_steps': 5 if name in ('joint', 'default') else 0,
      'support_sizes': _SUPPORT.value,
      'model.features': _FEATURES.value,
    },
  )


def load(name: str, seed: int) -> list[dict[str, Any]] | None:
  """Whole numbers of a run with their intervals, or None if it is not done."""
  path = pathlib.Path(_OUT.value) / f'{name}_{seed}' / 'results.json'
  if not path.exists():
    return None
  rows = json.loads(path.read_text(encoding='utf-8'))['details']
  rows = [r for r in rows if 'num_steps' not in r and 'support' not in r]
  for row in rows:
    row['seed'] = seed
    if row['method'] == 'meta-learned':
      row['method'] = name
  if name == 'joint':
    return rows
  return [row for row in rows if row['method'] == name]


def print_table() -> None:
  """Markdown, a table a scenario; the best of each metric is bold."""
  seeds = quality_runs.whole(load, _ALGORITHMS.value, _SEEDS.value)
  # (scenario, method, metric) -> one row a seed.
  cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
  for runs in seeds.values():
    for row in (row for rows in runs.values() for row in rows):
      key = row['scenario'], row['method'], row['metric']
      cells.setdefault(key, []).append(row)
  scenarios, methods, known_metrics = map(dict.fromkeys, zip(*cells))
  metrics = [metric for metric in _METRICS if metric in known_metrics]
  compared = [metric for metric in _COMPARED if metric in metrics][:2]
  for scenario in scenarios:
    print(f'\n### {scenario}\n')
    heading = ['method', *metrics, *(f'{m} vs joint' for m in compared)]
    quality_runs.print_row(heading, is_heading=True)
    means = {
      (method, metric): statistics.fmean(
        row['value'] for row in cells[scenario, method, metric]
      )
      for method in methods
      for metric in metrics
    }
    for method in methods:
      line = [method]
      for metric in metrics:
        value = means[method, metric]
        if value != value:  # nan
          line.append('-')
          continue
        column = [means[m, metric] for m in methods]
        known = [number for number in column if number == number]
        best = max(known) if metric in ('nDCG@3', 'AUC', 'GAUC') else min(known)
        rows = cells[scenario, method, metric]
        half = statistics.fmean((r['high'] - r['low']) / 2 for r in rows)
        text = f'{value:.3f} ± {half:.3f}'
        line.append(f'**{text}**' if value == best else text)
      for metric in compared:
        ours, reference = (
          {row['seed']: row['value'] for row in cells[scenario, name, metric]}
          for name in (method, _REFERENCE)
        )
        is_reference = method == _REFERENCE
        line.append(
          '' if is_reference else quality_runs.difference(ours, reference)
        )
      quality_runs.print_row(line)


def main(argv: Sequence[str]) -> None:
  del argv
  if _TABLE.value:
    print_table()
    return
  with concurrent.futures.ThreadPoolExecutor(_PARALLEL.value) as pool:
    jobs = [
      pool.submit(run, name, seed)
      for seed in range(_SEEDS.value)
      for name in _ALGORITHMS.value
    ]
  if not all(job.result() for job in jobs):
    sys.exit('Some runs failed; see log.txt in their folders.')


if __name__ == '__main__':
  app.run(main)
