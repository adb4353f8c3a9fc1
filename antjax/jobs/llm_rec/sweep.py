# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares settings of launch/train_llm_rec.py in one table and plot.

Do advances in language models carry over to recommendation, as the paper asks?
Each setting is a run in a separate process and folder, and finished runs are
not repeated. Then sweep.json, sweep.md and report.html are written to the run
folder.
"""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from antjax import config as config_lib
from antjax import paths
from antjax.ctr.llm_rec import evaluation
from antjax.ctr.tuning import Tuning
from antjax.jobs.llm_rec.config import Config, Start
from antjax.metrics import rank_metrics
from antjax.report import job_report, report, terminal

_METRIC = 'ndcg@10'


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """One run of a sweep."""

  model: str
  start: Start
  tuning: Tuning
  max_history: int

  @property
  def line(self) -> str:
    """Its line in the plot: all but the length of history."""
    name = pathlib.PurePath(self.model).name
    return f'{name}, {self.start}, {self.tuning}'

  @property
  def folder(self) -> str:
    """Name of its run folder."""
    return f'{self.line}, {self.max_history}'.replace(', ', '_')

  def config(self, base: Config) -> Config:
    """The run's config."""
    vector = base.vector
    if self.tuning == 'none' and not vector.has_head:
      dim = base.swept.projection_dim
      vector = dataclasses.replace(vector, projection_dim=dim)
    return dataclasses.replace(
      base,
      **dataclasses.asdict(self),
      run_dir=str(pathlib.Path(base.run_dir) / self.folder),
      vector=vector,
      sweep=False,
      baselines=(),
      with_hybrid=False,
      export=False,
    )


def run(config: Config) -> list[dict[str, Any]]:
  """Runs what is not done; writes and returns the rows.

  Raises:
    RuntimeError: A run failed; the others are done all the same.
  """
  swept, folder = config.swept, paths.local(config.run_dir, 'run_dir')
  runs = itertools.starmap(
    SweepRun,
    itertools.product(
      swept.models or (config.model,),
      swept.starts,
      swept.tunings,
      swept.histories,
    ),
  )
  rows, failed = [], []
  for one in runs:
    if _run(one, config):
      rows.append(_row(one, folder / one.folder))
    else:
      failed.append(one.folder)
  if rows:
    _write(config, rows)
  if failed:
    raise RuntimeError(
      f'{folder}: {", ".join(failed)} failed; see log.txt in their folders.'
    )
  return rows


def _run(one: SweepRun, base: Config) -> bool:
  """Runs it unless it is done; returns whether it is now."""
  folder = pathlib.Path(base.run_dir) / one.folder
  if (folder / 'results.json').exists():
    return True
  folder.mkdir(parents=True, exist_ok=True)
  config_lib.save(one.config(base), folder)
  start = time.monotonic()
  with open(folder / 'log.txt', 'w', encoding='utf-8') as log:
    code = subprocess.run(
      [
        # Not launch/'s script, which an installed antjax does not have.
        *(sys.executable, '-m', 'antjax.jobs.console', 'train-llm-rec'),
        f'--config={folder / config_lib.FILE_NAME}',
      ],
      stdout=log,
      stderr=subprocess.STDOUT,
      check=False,
    ).returncode
  wall_s = round(time.monotonic() - start, 1)
  line = {'run': one.folder, 'exit_code': code, 'wall_s': wall_s}
  print(json.dumps(line), flush=True)
  return code == 0


def _row(one: SweepRun, folder: pathlib.Path) -> dict[str, Any]:
  """What a run reached: a score and 'SCORE se' by split and kind."""
  path = folder / 'results.json'
  everything = json.loads(path.read_text(encoding='utf-8'))
  row: dict[str, Any] = {**dataclasses.asdict(one), 'line': one.line}
  for split, kinds in everything['results']['llm_rec'].items():
    for kind, parts in kinds.items():
      values = parts[rank_metrics.ALL]
      row[f'{split} {kind}'] = values[_METRIC]
      row[f'{split} {kind} se'] = values[f'{_METRIC}{rank_metrics.ERROR}']
  row['examples/s'] = everything['throughput'].get('training examples/s')
  row['peak_bytes'] = everything['peak_bytes']['process']
  row['frozen_share'] = everything['memory']['frozen_share']
  return row


def _write(config: Config, rows: list[dict[str, Any]]) -> None:
  """Writes sweep.json, sweep.md and report.html; prints the table."""
  folder = pathlib.Path(config.run_dir)
  job_report.write_json(folder / 'sweep.json', rows)
  numbers = [k for k in rows[0] if f'{k} se' in rows[0]]
  head = ['model, start, tuning', 'history', *numbers, 'examples/s', 'peak']
  lines = [
    [
      row['line'],
      str(row['max_history']),
      *(terminal.number(row[k], row[f'{k} se']) for k in numbers),
      '-' if row['examples/s'] is None else f'{row["examples/s"]:.1f}',
      report.format_bytes(row['peak_bytes']),
    ]
    for row in rows
  ]
  text = f'{_METRIC}, with standard errors over examples.\n\n'
  text += job_report.markdown(head, lines)
  (folder / 'sweep.md').write_text(text, encoding='utf-8')
  print(text)
  kinds = (evaluation.SAMPLED, evaluation.FULL)
  job_report.write(
    folder,
    None,
    config=config,
    title='LLM-Rec: language models, tunings, lengths of history',
    results=[
      {
        'scenario': f'{kind}, {row["max_history"]} items',
        'method': row['line'],
        'NDCG@10': row[f'test {kind}'],
      }
      for row in rows
      for kind in kinds
    ],
    intervals={
      f'NDCG@10, {kind}': report.Panel(
        "newest items in a user's text", _points(rows, f'test {kind}')
      )
      for kind in kinds
    },
    notes=['Intervals are one standard error over examples, both ways.'],
  )


def _points(
  rows: list[dict[str, Any]], key: str
) -> dict[str, list[tuple[float, float, float, float]]]:
  """Line -> its points with their intervals."""
  lines: dict[str, list[tuple[float, float, float, float]]] = {}
  for row in rows:
    value, error = row[key], row[f'{key} se']
    error = float('nan') if error is None else error
    lines.setdefault(row['line'], []).append(
      (row['max_history'], value, value - error, value + error)
    )
  return lines
