# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of a training job for a quality table, and their differences."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Annotated, Any, TypeVar

_T = TypeVar('_T')
_C = TypeVar('_C', bound='Config')

# 97.5th percentiles of Student's t with 1, 2, .. degrees of freedom.
_STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags of all tables."""

  out: Annotated[str, 'Folder of the runs.'] = ''
  seeds: Annotated[int, 'Seeds, from 0.'] = 3
  table: Annotated[bool, 'Print the table; run nothing.'] = False

  def folder(self, name: str, seed: int) -> pathlib.Path:
    """Folder of a run."""
    return pathlib.Path(self.out) / f'{name}_{seed}'

  def results(self, name: str, seed: int) -> dict[str, Any] | None:
    """Results of a run, or None if it is not done."""
    path = self.folder(name, seed) / 'results.json'
    return json.loads(path.read_text('utf-8')) if path.exists() else None


def run(module: str, folder: pathlib.Path, options: Mapping[str, Any]) -> bool:
  """Runs a job in `folder` unless results exist; prints a JSON line.

  Its log is log.txt in the folder. Jobs with the same parent folder share
  compiled programs. Returns whether the results exist now.
  """
  if (folder / 'results.json').exists():
    return True
  folder.mkdir(parents=True, exist_ok=True)
  start = time.monotonic()
  with open(folder / 'log.txt', 'w', encoding='utf-8') as log:
    code = subprocess.run(
      [
        *(sys.executable, '-m', module, f'--run_dir={folder}'),
        *(f'--{key}={value}' for key, value in options.items()),
      ],
      stdout=log,
      stderr=subprocess.STDOUT,
      check=False,
      env=os.environ
      | {'JAX_COMPILATION_CACHE_DIR': str(folder.parent / 'compiled')},
    ).returncode
  wall_s = round(time.monotonic() - start, 1)
  line = {'run': folder.name, 'exit_code': code, 'wall_s': wall_s}
  print(json.dumps(line), flush=True)
  return code == 0


def whole(
  config: _C, load: Callable[[_C, str, int], _T | None], names: Sequence[str]
) -> dict[int, dict[str, _T]]:
  """Seed -> name -> result, for the seeds in which all names are done.

  Prints which these are.

  Raises:
    RuntimeError: No seed is complete.
  """
  found = {}
  for seed in range(config.seeds):
    results = {name: load(config, name, seed) for name in names}
    done = {name: x for name, x in results.items() if x is not None}
    if len(done) == len(names):
      found[seed] = done
  if not found:
    raise RuntimeError('no seed is whole yet; run without --table.')
  print(f'Seeds: {", ".join(map(str, found))}.')
  return found


def print_row(cells: Iterable[str], is_heading: bool = False) -> None:
  """Prints a line of a Markdown table."""
  cells = list(cells)
  print(f'| {" | ".join(cells)} |')
  if is_heading:
    print('|---' * len(cells) + '|')


def difference(values: Mapping[int, float], others: Mapping[int, float]) -> str:
  """Mean difference over seeds, with the 95% interval of Student's t."""
  gaps = [value - others[seed] for seed, value in values.items()]
  mean = statistics.fmean(gaps)
  if len(gaps) < 2:
    return f'{mean:+.3f}'
  spread = statistics.stdev(gaps) / len(gaps) ** 0.5
  return f'{mean:+.3f} ± {_STUDENT[len(gaps) - 2] * spread:.3f}'
