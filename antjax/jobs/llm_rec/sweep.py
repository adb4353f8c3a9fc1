# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Many settings of launch/train_llm_rec.py, into one table and plot.

Do advances in language models carry over to recommendation, as the paper asks?
Each setting is a run in a process of its own, in a folder of its own; what is
done is not done again. Then sweep.json, sweep.md and report.html are written
into the run folder.
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
from antjax.ctr.llm_rec import evaluation
from antjax.ctr.tuning import Tuning
from antjax.jobs.llm_rec.config import Config, Start
from antjax.metrics import rank_metrics
from antjax.report import job_report, report

_METRIC = 'ndcg@10'


@dataclasses.dataclass(frozen=True)
class Setting:
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
      run_dir=str(pathlib.Path(base.run_dir) / self.folder),
      model=self.model,
      start=self.start,
      tuning=self.tuning,
      max_history=self.max_history,
      vector=vector,
      sweep=False,
      baselines=(),
      export=False,
    )


def settings(config: Config) -> list[Setting]:
  """All combinations, in a fixed order."""
  swept = config.swept
  return [
    Setting(*values)
    for values in itertools.product(
      swept.models or (config.model,),
      swept.starts,
      swept.tunings,
      swept.histories,
    )
  ]


def run(config: Config) -> list[dict[str, Any]]:
  """Runs what is not done; writes and returns the rows.

  Raises:
    RuntimeError: A run failed; the others are done all the same.
  """
  folder = pathlib.Path(config.run_dir)
  failed = [s.folder for s in settings(config) if not _run(s, config)]
  rows = [
    row_of(s, folder / s.folder)
    for s in settings(config)
    if s.folder not in failed
  ]
  if rows:
    write(config, rows)
  if failed:
    raise RuntimeError(
      f'{folder}: {", ".join(failed)} failed; see log.txt in their folders.'
    )
  return rows


def _run(setting: Setting, base: Config) -> bool:
  """One run, unless it is done; returns whether it is now."""
  folder = pathlib.Path(base.run_dir) / setting.folder
  if (folder / 'results.json').exists():
    return True
  folder.mkdir(parents=True, exist_ok=True)
  config_lib.save(setting.config(base), folder)
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
  line = {'run': setting.folder, 'exit_code': code, 'wall_s': wall_s}
  print(json.dumps(line), flush=True)
  return code == 0


def row_of(setting: Setting, folder: pathlib.Path) -> dict[str, Any]:
  """What a run reached."""
  path = folder / 'results.json'
  everything = json.loads(path.read_text(encoding='utf-8'))
  results = everything['results']['llm_rec']
  row: dict[str, Any] = {**dataclasses.asdict(setting), 'line': setting.line}
  for split in results:
    for kind, parts in results[split].items():
      values = parts[rank_metrics.ALL]
      name = f'{split} {kind}'
      row[name] = values[_METRIC]
      row[f'{name} se'] = values[f'{_METRIC}{rank_metrics.ERROR}']
  speed = everything['throughput'].get('training examples/s')
  row['examples/s'] = speed
  row['peak_bytes'] = everything['peak_bytes']['process']
  row['frozen_share'] = everything['memory']['frozen_share']
  return row


def table_of(rows: list[dict[str, Any]]) -> str:
  """The rows as Markdown."""
  numbers = [k for k in rows[0] if k.split(' ')[0] in ('test', 'cold')]
  numbers = [k for k in numbers if not k.endswith(' se')]
  head = ['model, start, tuning', 'history', *numbers, 'examples/s', 'peak']
  lines = []
  for row in rows:
    cells = [row['line'], str(row['max_history'])]
    cells += [_number(row[k], row[f'{k} se']) for k in numbers]
    speed = row['examples/s']
    cells.append('-' if speed is None else f'{speed:.1f}')
    cells.append(report.format_bytes(row['peak_bytes']))
    lines.append(cells)
  return job_report.markdown(head, lines)


def _number(value: float | None, error: float | None) -> str:
  if value is None:
    return '-'
  return f'{value:.4f}' + ('' if error is None else f' ± {error:.4f}')


def write(config: Config, rows: list[dict[str, Any]]) -> None:
  """Writes sweep.json, sweep.md and report.html; prints the table."""
  folder = pathlib.Path(config.run_dir)
  job_report.write_json(folder / 'sweep.json', rows)
  text = f'{_METRIC}, with standard errors over examples.\n\n{table_of(rows)}'
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
        "newest items in a user's text", _lines(rows, f'test {kind}')
      )
      for kind in kinds
    },
    notes=['Intervals are one standard error over examples, both ways.'],
  )


def _lines(
  rows: list[dict[str, Any]], key: str
) -> dict[str, list[tuple[float, float, float, float]]]:
  lines: dict[str, list[tuple[float, float, float, float]]] = {}
  for row in rows:
    value = row[key]
    error = row[f'{key} se']
    error = float('nan') if error is None else error
    lines.setdefault(row['line'], []).append(
      (row['max_history'], value, value - error, value + error)
    )
  return lines
