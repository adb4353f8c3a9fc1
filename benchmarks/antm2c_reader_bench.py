# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows per second of AntM2C's reader, compared with pyarrow's plain parse.

  python -m benchmarks.antm2c_reader_bench > results.jsonl

makes a synthetic file in AntM2C's format (launch/make_antm2c_synthetic) and
prints a JSON line for each reader; the last line is a summary.

- `antjax`: `text_reader`; every row is checked, typed and written to Parquet.
- `pyarrow`: csv.read_csv with line ends in values and all threads, with
  inferred types, no checks and no output.
- `pyarrow_typed`: the same with the types of `antjax`.
- `pandas`: read_csv.
- `duckdb`: read_csv with these types and `store_rejects`, into a table on disk.
  It does not check labels and scenarios, and rounds non-integers.

The readers take turns, with the file in the page cache; medians of wall time
are compared. `cpu_s` is the CPU time of all threads, which other jobs affect
less. Then fewer rows are prepared as by launch/prepare_data and read in batches
in random order. `peak_mb` is the peak memory of a process while it reads the
file, `idle_mb` its memory before; `peak_4_mb` is the peak for four such files
in one.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated, Any

from absl import logging
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from antjax.data import (
  antm2c_synthetic_files,
  event_antm2c,
  rejects,
  text_reader,
)
from antjax.data.antm2c_synthetic import SyntheticConfig
from antjax.data.event_antm2c import Antm2cConfig
from antjax.jobs import prepare_data
from antjax.jobs.clicks import config as clicks_config
from antjax.jobs.clicks.data import ScenarioData
from benchmarks import ctr_form, harness, machine

_SLOW = ('pandas', 'duckdb')  # Only two turns.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  num_rows: Annotated[int, 'Rows of the file.'] = 1_000_000
  csv_turns: Annotated[int, 'Turns of each side.'] = 7
  num_prepared: Annotated[int, 'Rows that become batches.'] = 100_000
  batch_rows: Annotated[int, 'Rows of a batch.'] = 2048
  work: Annotated[str, 'Folder for files; empty: temporary.'] = ''


def _read(path: pathlib.Path, folder: pathlib.Path) -> int:
  folder.mkdir()
  return text_reader.read(
    [path],
    Antm2cConfig().layout(),
    folder,
    rejects.Rejects(folder / 'rejected.csv', 0),
  ).rows


def antjax(path: pathlib.Path, work: pathlib.Path) -> int:
  """Reads, checks and writes a file; returns its rows."""
  folder = work / 'parts'
  shutil.rmtree(folder, ignore_errors=True)
  return _read(path, folder)


def pyarrow(path: pathlib.Path, work: pathlib.Path) -> int:
  """Parses a file."""
  del work
  options = csv.ParseOptions(newlines_in_values=True)
  return csv.read_csv(path, parse_options=options).num_rows


def pyarrow_typed(path: pathlib.Path, work: pathlib.Path) -> int:
  """Parses a file with given types."""
  del work
  config = Antm2cConfig()
  kinds = dict.fromkeys(event_antm2c.COLUMNS, pa.string())
  kinds |= dict.fromkeys(config.numeric_columns, pa.float64())
  return csv.read_csv(
    path,
    parse_options=csv.ParseOptions(newlines_in_values=True),
    convert_options=csv.ConvertOptions(column_types=kinds, null_values=['']),
  ).num_rows


def pandas(path: pathlib.Path, work: pathlib.Path) -> int:
  """Parses a file."""
  del work
  return len(pd.read_csv(path))


def duckdb(path: pathlib.Path, work: pathlib.Path) -> int:
  """Reads a file into a table; malformed lines are quarantined."""
  columns = dict.fromkeys(event_antm2c.COLUMNS, 'VARCHAR')
  columns |= dict.fromkeys(Antm2cConfig().numeric_columns, 'FLOAT')
  columns |= {'label': 'TINYINT', 'log_time': 'TIMESTAMP'}
  database = work / 'tables.duckdb'
  con = ibis.duckdb.connect(temp_directory=work / 'spill', database=database)
  try:
    lines = con.read_csv(
      str(path),
      delim=',',
      columns=columns,
      header=True,
      auto_detect=False,
      quote='"',
      escape='"',
      store_rejects=True,
    )
    return int(con.create_table('rows', lines).count().to_pyarrow().as_py())
  finally:
    con.disconnect()
    database.unlink()


SIDES: dict[str, Callable[[pathlib.Path, pathlib.Path], int]] = {
  'antjax': antjax,
  'pyarrow': pyarrow,
  'pyarrow_typed': pyarrow_typed,
  'pandas': pandas,
  'duckdb': duckdb,
}


def compare(
  path: pathlib.Path, work: pathlib.Path, num_turns: int
) -> dict[str, dict[str, Any]]:
  """Lets the readers take turns; returns the line of each."""
  path.read_bytes()  # Into the page cache.

  def turn(name: str) -> tuple[int, float, float]:
    start, cpu_start = time.perf_counter(), time.process_time()
    rows = SIDES[name](path, work)
    cpu_s = time.process_time() - cpu_start
    return rows, time.perf_counter() - start, cpu_s

  found: dict[str, list[Any]] = {name: [] for name in SIDES}
  for number in range(num_turns + 1):
    for name in list(SIDES) if number % 2 else list(SIDES)[::-1]:
      if name not in _SLOW or number <= min(2, num_turns):
        found[name].append(turn(name))
  num_rows = {name: turns[0][0] for name, turns in found.items()}
  if len({*num_rows.values()}) > 1:
    raise RuntimeError(f'the sides read different numbers of rows: {num_rows}')
  lines = {}
  for name, turns in found.items():
    # The first turn starts threads and imports modules.
    _, seconds, cpu_s = zip(*turns[1:])
    took = statistics.median(seconds)
    lines[name] = {
      'side': name,
      'rows_per_s': round(num_rows[name] / took),
      'seconds': took,
      'min_max_s': harness.min_max(seconds),
      'cpu_s': statistics.median(cpu_s),
    }
  return lines


def batches(
  source: pathlib.Path, work: pathlib.Path, batch_size: int, num_turns: int
) -> dict[str, Any]:
  """Prepares a file and reads the training rows in batches."""
  out, run_dir = str(work / 'prepared'), str(work / 'run')
  config = prepare_data.Config(
    dataset='antm2c', source=str(source), out=out, views=('examples',)
  )
  start = time.perf_counter()
  with contextlib.redirect_stdout(sys.stderr):
    prepare_data.main(config)
  took = time.perf_counter() - start
  job = ctr_form.job_of(clicks_config.Config(run_dir=run_dir, data=out))
  data = ScenarioData(job.config, job)
  clicks = data.splits['train']
  rates = []
  for turn in range(num_turns):
    order = np.random.default_rng(turn).permutation(len(clicks))
    start = time.perf_counter()
    for first in range(0, len(order), batch_size):
      clicks.batch(order[first : first + batch_size], batch_size)
    rates.append(len(order) / (time.perf_counter() - start))
  num_rows = data.description['counts']['rows']
  return {
    'side': 'batches',
    'rows_per_s': round(statistics.median(rates)),
    'batch_size': batch_size,
    'prepared_rows': num_rows,
    'prepare_rows_per_s': round(num_rows / took),
  }


def memory_mb(path: str, out: str) -> None:
  """Reads a file in this process; prints memory before and at the peak."""
  idle = machine.peak_bytes()
  _read(pathlib.Path(path), pathlib.Path(out))
  print(idle, machine.peak_bytes())


def peak_mb(path: pathlib.Path, work: pathlib.Path) -> tuple[float, float]:
  """Memory of a process before it reads a file, and at the peak."""
  folder = work / 'child'
  code = 'from benchmarks import antm2c_reader_bench as b; b.memory_mb('
  code += f'{str(path)!r}, {str(folder)!r})'
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  shutil.rmtree(folder)
  idle, peak = map(int, done.stdout.split())
  return (idle / 2**20), (peak / 2**20)


def write_repeated(
  path: pathlib.Path, source: pathlib.Path, copies: int
) -> None:
  """Writes the records of a file several times, the header once."""
  with open(source, 'rb') as file:
    header = file.readline()
    with open(path, 'wb') as out:
      out.write(header)
      for _ in range(copies):
        file.seek(len(header))
        shutil.copyfileobj(file, out, 1 << 22)


def run(config: Config, work: pathlib.Path) -> dict[str, Any]:
  """Runs all measurements; prints lines and returns the summary."""
  one = SyntheticConfig(num_rows=config.num_rows, num_parts=1)
  (path,) = antm2c_synthetic_files.write(
    work / 'source', one, image_size=0, progress=logging.info
  )
  sides = compare(path, work, config.csv_turns)
  for line in sides.values():
    harness.emit(line)
  small = SyntheticConfig(num_rows=config.num_prepared, num_parts=1)
  (part,) = antm2c_synthetic_files.write(work / 'small', small, image_size=0)
  made = batches(part, work, config.batch_rows, config.csv_turns)
  harness.emit(made)
  idle, peak = peak_mb(path, work)
  larger = work / 'antm2c_synthetic_part9'
  write_repeated(larger, path, 4)
  file_mb = [(p.stat().st_size / 2**20) for p in (path, larger)]
  _, peak_4 = peak_mb(larger, work)
  rate = {name: line['rows_per_s'] for name, line in sides.items()}

  def times(name: str, digits: int) -> float:
    return rate['antjax'] / rate[name]

  return {
    'side': 'summary',
    'rows_per_s': rate['antjax'],
    'share_of_pyarrow': times('pyarrow', 3),
    'share_of_pyarrow_typed': times('pyarrow_typed', 3),
    'times_pandas': times('pandas', 2),
    'times_duckdb': times('duckdb', 2),
    'batch_rows_per_s': made['rows_per_s'],
    'idle_mb': idle,
    'peak_mb': peak,
    'file_mb': file_mb[0],
    'peak_4_mb': peak_4,
    'file_4_mb': file_mb[1],
    'estimate_1e9_rows_hours': 1e9 / rate['antjax'] / 3600,
    'estimate_basis': (
      f'CSV to typed Parquet alone, the rate of {config.num_rows} rows here on'
      f' {os.cpu_count()} cores, taken as constant'
    ),
    'num_rows': config.num_rows,
    'num_turns': config.csv_turns,
    'cores': os.cpu_count(),
    'machine': platform.machine(),
    'pyarrow': pa.__version__,
    'synthetic': True,
  }


def main(config: Config) -> None:
  facts = harness.start()
  with tempfile.TemporaryDirectory(dir=config.work or None) as folder:
    harness.emit(run(config, pathlib.Path(folder)) | facts)


if __name__ == '__main__':
  harness.run(main, Config())
