# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows a second of AntM2C's reader, beside pyarrow's bare parse of the file.

  python -m benchmarks.antm2c_reader_bench > results.jsonl

makes a synthetic file in AntM2C's format (launch/make_antm2c_synthetic) and
prints a JSON line for each side; the last line is the summary.

- `antjax`: `text_reader`: every row checked, typed and written to Parquet.
- `pyarrow`: csv.read_csv of the file with line ends in values, all threads: its
  own types, nothing checked, nothing written.
- `pyarrow_typed`: the same, told the types that `antjax` gives.
- `pandas`: read_csv.
- `duckdb`: read_csv with the types and `store_rejects`, into a table on disk.
  It knows nothing of labels and scenarios, and rounds what is no integer.

The sides take turns, the file in the page cache; medians are compared, of wall
time; `cpu_s` is that of all threads, which other jobs disturb less. Then
records become batches: fewer rows are prepared as launch/prepare_data does
and read in batches in a random order. `peak_mb` is the most memory that a
process has while it reads the file, `idle_mb` what it has before; `peak_4_mb`
is that of four such files in one.
"""

from collections.abc import Callable, Mapping
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags, logging
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from antjax.ctr.antm2c.clicks import ScenarioClicks
from antjax.data import (
  antm2c_synthetic_files,
  behavior_text,
  event_antm2c,
  events,
  records,
  rejects,
  text_reader,
  view,
  view_examples,
)
from antjax.data.antm2c_synthetic import SyntheticConfig
from antjax.data.event_antm2c import Antm2cConfig
from benchmarks import harness

_ROWS = flags.DEFINE_integer('num_rows', 1_000_000, 'In the file.', 1)
_TURNS = flags.DEFINE_integer('csv_turns', 7, 'Turns of each side.', 1)
_PREPARED = flags.DEFINE_integer(
  'num_prepared', 100_000, 'Rows that become batches.', 1
)
_BATCH = flags.DEFINE_integer('batch_rows', 2048, 'Rows of a batch.', 1)
_WORK = flags.DEFINE_string('work', '', 'Folder for files; empty: temporary.')
_MANY = 1_000_000_000
_SLOW = ('pandas', 'duckdb')  # Have two turns.
_CHILD = """
import pathlib, sys
from antjax.data import rejects, text_reader
from antjax.data.event_antm2c import Antm2cConfig
from benchmarks import harness
idle = harness.peak_bytes()
out = pathlib.Path(sys.argv[2])
text_reader.read(
  [pathlib.Path(sys.argv[1])], Antm2cConfig().layout(), out,
  rejects.Rejects(out / 'rejected.csv', 0))
print(idle, harness.peak_bytes())
"""


def antjax(path: pathlib.Path, work: pathlib.Path) -> int:
  """Reads, checks and writes a file; returns its rows."""
  folder = work / 'parts'
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  return text_reader.read(
    [path],
    Antm2cConfig().layout(),
    folder,
    rejects.Rejects(folder / 'rejected.csv', 0),
  ).rows


def pyarrow(path: pathlib.Path, work: pathlib.Path) -> int:
  """Parses a file."""
  del work
  options = csv.ParseOptions(newlines_in_values=True)
  return csv.read_csv(path, parse_options=options).num_rows


def pyarrow_typed(path: pathlib.Path, work: pathlib.Path) -> int:
  """Parses a file with the types that are wanted."""
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
  """Reads a file into a table: malformed lines are set aside."""
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
  """Lets the sides take turns; returns what each reached.

  Raises:
    RuntimeError: A side found another number of rows.
  """
  path.read_bytes()  # Into the page cache.
  seconds: dict[str, list[float]] = {name: [] for name in SIDES}
  cpu: dict[str, list[float]] = {name: [] for name in SIDES}
  num_rows: dict[str, int] = {}
  for number in range(num_turns + 1):
    for name in list(SIDES) if number % 2 else list(SIDES)[::-1]:
      if name in _SLOW and number > min(2, num_turns):
        continue
      start, cpu_start = time.perf_counter(), time.process_time()
      num_rows[name] = SIDES[name](path, work)
      took = time.perf_counter() - start
      if number:  # The first turn starts threads and imports modules.
        seconds[name].append(took)
        cpu[name].append(time.process_time() - cpu_start)
  if len({*num_rows.values()}) > 1:
    raise RuntimeError(f'the sides read different numbers of rows: {num_rows}')
  return {
    name: {
      'side': name,
      'rows_per_s': round(num_rows[name] / statistics.median(times)),
      'seconds': round(statistics.median(times), 3),
      'min_max_s': [round(min(times), 3), round(max(times), 3)],
      'cpu_s': round(statistics.median(cpu[name]), 3),
    }
    for name, times in seconds.items()
  }


def batches(
  source: pathlib.Path, work: pathlib.Path, batch_size: int, num_turns: int
) -> dict[str, Any]:
  """Prepares a file and reads the training rows in batches."""
  out = work / 'prepared'
  start = time.perf_counter()
  data = event_antm2c.source(source)
  events.write(
    out / 'events', data, max_rejected_share=0, progress=logging.info
  )
  splitter = behavior_text.Splitter(pattern=event_antm2c.SEPARATORS)
  config = view_examples.BehaviorConfig(splitter=splitter)
  description, _ = view.make(
    view_examples.ExampleView(config),
    out / 'examples',
    out / 'events',
    data.schema,
  )
  took = time.perf_counter() - start
  columns = records.whole_columns(
    out / 'examples' / description['files']['train']['path'],
    ('user', 'item', 'ids', 'label', 'numeric', 'starts', 'stops'),
    wide=('starts', 'stops'),
  )
  clicks = ScenarioClicks(
    names=('user', 'item', *(c['name'] for c in description['ids'])),
    ids=np.concatenate(
      [columns['user'][:, None], columns['item'][:, None], columns['ids']], 1
    ),
    label=columns['label'],
    numeric=columns['numeric'],
    starts=columns['starts'],
    stops=columns['stops'],
    events=tuple(
      np.load(
        out / 'examples' / 'events' / f'{sequence["name"]}.npy', mmap_mode='r'
      )
      for sequence in description['sequences']
    ),
    history=0,
    max_history=20,
  )
  rates = []
  for turn in range(num_turns):
    order = np.random.default_rng(turn).permutation(len(clicks))
    start = time.perf_counter()
    for first in range(0, len(order), batch_size):
      clicks.batch(order[first : first + batch_size], batch_size)
    rates.append(len(order) / (time.perf_counter() - start))
  return {
    'side': 'batches',
    'rows_per_s': round(statistics.median(rates)),
    'batch_size': batch_size,
    'prepared_rows': description['counts']['rows'],
    'prepare_rows_per_s': round(description['counts']['rows'] / took),
  }


def peak_mb(path: pathlib.Path, work: pathlib.Path) -> tuple[float, float]:
  """Memory of a process before and while it reads a file."""
  folder = work / 'child'
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  done = subprocess.run(
    [sys.executable, '-c', _CHILD, str(path), str(folder)],
    capture_output=True,
    text=True,
    check=True,
  )
  shutil.rmtree(folder)
  idle, peak = map(int, done.stdout.split())
  return round(idle / 2**20, 1), round(peak / 2**20, 1)


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


def run(
  work: pathlib.Path,
  num_rows: int,
  num_prepared: int,
  batch_size: int,
  num_turns: int,
  say: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
  """Measures all of it; returns the summary."""
  config = SyntheticConfig(num_rows=num_rows, num_parts=1)
  (path,) = antm2c_synthetic_files.write(
    work / 'source', config, image_size=0, progress=logging.info
  )
  sides = compare(path, work, num_turns)
  for line in sides.values():
    say(line)
  small = SyntheticConfig(num_rows=num_prepared, num_parts=1)
  (part,) = antm2c_synthetic_files.write(work / 'small', small, image_size=0)
  made = batches(part, work, batch_size, num_turns)
  say(made)
  idle, peak = peak_mb(path, work)
  larger = work / 'antm2c_synthetic_part9'
  write_repeated(larger, path, 4)
  file_mb = [p.stat().st_size / 2**20 for p in (path, larger)]
  _, peak_4 = peak_mb(larger, work)
  rate = {name: line['rows_per_s'] for name, line in sides.items()}
  return {
    'side': 'summary',
    'rows_per_s': rate['antjax'],
    'share_of_pyarrow': round(rate['antjax'] / rate['pyarrow'], 3),
    'share_of_pyarrow_typed': round(rate['antjax'] / rate['pyarrow_typed'], 3),
    'times_pandas': round(rate['antjax'] / rate['pandas'], 2),
    'times_duckdb': round(rate['antjax'] / rate['duckdb'], 2),
    'batch_rows_per_s': made['rows_per_s'],
    'idle_mb': idle,
    'peak_mb': peak,
    'file_mb': round(file_mb[0], 1),
    'peak_4_mb': peak_4,
    'file_4_mb': round(file_mb[1], 1),
    'estimate_1e9_rows_hours': round(_MANY / rate['antjax'] / 3600, 2),
    'estimate_basis': (
      f'CSV to typed Parquet alone, the rate of {num_rows} rows here on'
      f' {os.cpu_count()} cores, taken as constant'
    ),
    'num_rows': num_rows,
    'num_turns': num_turns,
    'cores': os.cpu_count(),
    'machine': platform.machine(),
    'pyarrow': pa.__version__,
    'synthetic': True,
  }


def main(argv: list[str]) -> None:
  facts = harness.start(argv)
  with tempfile.TemporaryDirectory(dir=_WORK.value or None) as folder:
    sizes = _ROWS.value, _PREPARED.value, _BATCH.value, _TURNS.value
    harness.emit(run(pathlib.Path(folder), *sizes, harness.emit) | facts)


if __name__ == '__main__':
  app.run(main)
