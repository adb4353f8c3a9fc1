# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cost per click from synthetic CSV to a trained model, by number of rows.

  python -m benchmarks.antm2c_scale_bench --rows=1000000,10000000

runs, for each number of rows, launch/make_antm2c_synthetic, prepare_data and
one epoch of train_clicks in separate processes, and prints a JSON line with,
for each stage, wall time and CPU time of all threads, in microseconds per row,
and peak memory: all mapped memory, and the part that is not backed by files.
`--stream=yes` trains from files. `--memory_limit` bounds the engine of the
preparation; a cgroup can bound whole processes. `--form=ids` takes the rows of
benchmarks/click_rows, without texts. `steps` is training only, without start,
compilation, reading of columns and scores. The last line compares the largest
run with the smallest: `ratio` of CPU time per row by stage, 1 for a constant
cost per row.

Files of one size are deleted before the next is made: 10^7 rows take 7 GB, or
3 GB without texts.
"""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Annotated, Any, Literal

from antjax.report import progress
from benchmarks import harness

_POLL_S = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  rows: Annotated[tuple[int, ...], 'Rows of each run.'] = (10**6, 10**7)
  form: Annotated[
    Literal['antm2c', 'ids'], "Rows: AntM2C's with texts, or of ids alone."
  ] = 'antm2c'
  model: Annotated[str, 'Model of launch/train_clicks.'] = 'mlp'
  batch_rows: Annotated[int, 'Clicks of a step.'] = 2048
  stream: Annotated[str, '--stream of launch/train_clicks.'] = 'auto'
  memory_limit: Annotated[str, '--memory_limit of launch/prepare_data.'] = ''
  work: Annotated[str, 'Folder for files; empty: temporary.'] = ''


def stage(module: str, *args: str) -> dict[str, float]:
  """Runs a script; returns seconds, CPU seconds and peaks of MB."""
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, '-m', module, *args],
    stdout=sys.stderr,
    env=os.environ | harness.ANTJAX_ENV,
  )
  anonymous, done = 0, 0
  while not done:
    with contextlib.suppress(OSError, StopIteration):
      with open(f'/proc/{process.pid}/status', encoding='ascii') as told:
        line = next(x for x in told if x.startswith('RssAnon'))
      anonymous = max(anonymous, 1024 * int(line.split()[1]))
    time.sleep(_POLL_S)
    done, status, used = os.wait4(process.pid, os.WNOHANG)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise RuntimeError(f'{module} ended with {process.returncode}; see above.')
  return {
    'seconds': time.perf_counter() - start,
    'cpu_s': used.ru_utime + used.ru_stime,
    'peak_mb': used.ru_maxrss * 1024 / 1e6,
    'peak_anonymous_mb': anonymous / 1e6,
  }


def measure(
  config: Config, num_rows: int, work: pathlib.Path
) -> dict[str, Any]:
  """Runs all stages for a number of rows."""
  source, data, run_dir = (work / n for n in ('source', 'data', 'run'))
  if config.form == 'antm2c':
    made = stage(
      'launch.make_antm2c_synthetic',
      f'--out={source}',
      f'--synthetic.num_rows={num_rows}',
      '--image_size=0',
    )
    events = ('--dataset=antm2c', f'--source={source}')
  else:
    made = stage(
      'benchmarks.click_rows', f'--out={source}', f'--num_rows={num_rows}'
    )
    events = (f'--schema={source}/schema.yaml', f'--source={source}/clicks')
  stages = {
    'make': made,
    'prepare': stage(
      'launch.prepare_data',
      *events,
      '--views=examples',
      f'--out={data}',
      f'--memory_limit={config.memory_limit}',
    ),
  }
  stages['train'] = stage(
    'launch.train_clicks',
    f'--data={data}',
    f'--run_dir={run_dir}',
    f'--model={config.model}',
    f'--batch_size={config.batch_rows}',
    f'--stream={config.stream}',
    '--evaluate_every=0',
    '--patience=0',
    '--checkpoint_every=1000000000',
    '--score.num_resamples=0',
  )
  (lines,) = run_dir.glob(f'*/{progress.METRICS_FILE}')
  steps = [x for x in progress.read_metrics(lines) if 'loss' in x]
  first, last = steps[0], steps[-1]  # The first one compiles.
  seconds = last['time_s'] - first['time_s']
  speed = (last['step'] - first['step']) * config.batch_rows / seconds
  trained = last['step'] * config.batch_rows
  rows = dict.fromkeys(stages, num_rows) | {'train': trained}
  return {
    'rows': num_rows,
    'training_rows': trained,
    **{
      name: {
        'seconds': x['seconds'],
        'cpu_s': x['cpu_s'],
        'us_per_row': 1e6 * x['seconds'] / rows[name],
        'cpu_us_per_row': 1e6 * x['cpu_s'] / rows[name],
        'peak_mb': round(x['peak_mb']),
        'peak_anonymous_mb': round(x['peak_anonymous_mb']),
      }
      for name, x in stages.items()
    },
    'steps': {'rows_per_s': round(speed), 'us_per_row': 1e6 / speed},
  }


def ratios(first: dict[str, Any], last: dict[str, Any]) -> dict[str, float]:
  """Cost per row in the last run relative to the first, by stage."""
  found = {
    name: last[name]['cpu_us_per_row'] / first[name]['cpu_us_per_row']
    for name in ('make', 'prepare', 'train')
  }
  found['steps'] = last['steps']['us_per_row'] / first['steps']['us_per_row']
  return found


def main(config: Config) -> None:
  facts = harness.start(
    model=config.model,
    batch_rows=config.batch_rows,
    stream=config.stream,
    form=config.form,
    memory_limit=config.memory_limit,
  )
  results = []
  for num_rows in sorted(config.rows):
    with tempfile.TemporaryDirectory(dir=config.work or None) as folder:
      work = pathlib.Path(folder)
      found = measure(config, num_rows, work)
    results.append(found)
    harness.emit(found | facts)
  first, last = results[0], results[-1]
  rows = [first['rows'], last['rows']]
  harness.emit({'rows': rows, 'ratio': ratios(first, last)})


if __name__ == '__main__':
  harness.run(main, Config())
