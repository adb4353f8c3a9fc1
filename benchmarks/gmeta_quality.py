# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""All meta-learning algorithms and baselines on MovieLens-1M cold start.

  python -m launch.prepare_data --out=data/ml-1m
  python -m benchmarks.gmeta_quality --data=data/ml-1m --out=runs/quality
  python -m benchmarks.gmeta_quality --out=runs/quality --table

runs launch/train_gmeta.py for each seed and algorithm, seeds outermost so that
a stopped job leaves complete seeds; completed runs are not repeated. All take
the same steps on the same tasks with the same outer optimizer and initial inner
rate; baselines choose their adaptation on held-out training tasks. --table
prints Markdown for the seeds in which all listed algorithms are done.

A cell is the mean over seeds, and half the width of the 95% bootstrap interval
over tasks, mean over seeds. `vs joint` is the difference to `joint +
fine-tuning` of the same seed with the 95% interval of Student's t over seeds.
"""

import concurrent.futures
import dataclasses
import statistics
import sys
from typing import Annotated, Any

from antjax.meta import algorithms
from benchmarks import harness, quality_runs

_FEATURES = 'gender,age,occupation,item,genres'
_LEARNED = (n for n, a in algorithms.ALGORITHMS.items() if a.outer != 'none')
# joint represents all baselines.
_ALGORITHMS = ('joint', *_LEARNED)
_REFERENCE = 'joint + fine-tuning'
_METRICS = ('MAE', 'RMSE', 'nDCG@3', 'AUC', 'GAUC', 'NE')  # Shown if known.
_BEST_IS_MOST = ('nDCG@3', 'AUC', 'GAUC')
_COMPARED = ('MAE', 'AUC', 'NE')  # The first two known ones.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(quality_runs.Config):
  """Flags."""

  data: Annotated[str, 'Prepared MovieLens-1M.'] = 'data/ml-1m'
  out: str = 'runs/quality'
  num_steps: Annotated[int, 'Outer steps of each.'] = 300
  per_task_steps: Annotated[int, 'Steps of that reference; 0: none.'] = 30
  algorithms: Annotated[tuple[str, ...], 'Algorithms in order.'] = _ALGORITHMS
  features: Annotated[str, 'Features; empty: all.'] = _FEATURES
  support_sizes: Annotated[str, 'Support rows of the task slots.'] = '16,32,96'
  slots_per_device: Annotated[str, 'Slots by support size.'] = '12,12,16'
  parallel: Annotated[int, 'Jobs at once.'] = 1


def run(config: Config, name: str, seed: int) -> bool:
  """Runs one job unless it is done; returns whether it is now."""
  is_joint = name == 'joint'
  return quality_runs.run(
    'launch.train_gmeta',
    config.folder(name, seed),
    {
      'algorithm': name,
      'seed': seed,
      'data': config.data,
      'num_steps': config.num_steps,
      'joint_steps': config.num_steps if is_joint else 0,
      'per_task_steps': config.per_task_steps if is_joint else 0,
      'slots_per_device': config.slots_per_device,
      'eval_steps': 5 if name in ('joint', 'default') else 0,
      'support_sizes': config.support_sizes,
      'model.features': config.features,
    },
  )


def load(config: Config, name: str, seed: int) -> list[dict[str, Any]] | None:
  """Results of a run with their intervals, or None if it is not done."""
  found = config.results(name, seed)
  if found is None:
    return None
  rows = found['details']
  rows = [r for r in rows if 'num_steps' not in r and 'support' not in r]
  for row in rows:
    row['seed'] = seed
    if row['method'] == 'meta-learned':
      row['method'] = name
  return [row for row in rows if name in ('joint', row['method'])]


def print_table(config: Config) -> None:
  """Prints a Markdown table per scenario, with the best numbers in bold."""
  seeds = quality_runs.whole(config, load, config.algorithms)
  # (scenario, method, metric) -> one row per seed.
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
    lines = {method: [method] for method in methods}
    for metric in metrics:
      means = {
        method: statistics.fmean(
          row['value'] for row in cells[scenario, method, metric]
        )
        for method in methods
      }
      known = [mean for mean in means.values() if mean == mean]  # No nan.
      best = max if metric in _BEST_IS_MOST else min
      for method, mean in means.items():
        rows = cells[scenario, method, metric]
        half = statistics.fmean((r['high'] - r['low']) / 2 for r in rows)
        text = f'{mean:.3f} ± {half:.3f}' if mean == mean else '-'
        is_best = known and mean == best(known)
        lines[method].append(f'**{text}**' if is_best else text)
    for method, line in lines.items():
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


def main(config: Config) -> None:
  if config.table:
    print_table(config)
    return
  with concurrent.futures.ThreadPoolExecutor(config.parallel) as pool:
    jobs = [
      pool.submit(run, config, name, seed)
      for seed in range(config.seeds)
      for name in config.algorithms
    ]
  if not all(job.result() for job in jobs):
    sys.exit('Some runs failed; see log.txt in their folders.')


if __name__ == '__main__':
  harness.run(main, Config())
