# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Spark gives the files of DuckDB; DuckDB keeps to the memory it may use."""

import os
import shutil
import subprocess
import sys
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import engine, output_folder
from antjax.data.engine import Engine
from antjax.data.task_spans import TaskConfig
from tests import source_tree
from tests.data import table_fixture, views


@views.on_spark
@pytest.mark.parametrize(
  ('order', 'tags'), [('time', False), ('random', False), ('time', True)]
)
def test_spark_gives_the_same_files(tmp_path, order, tags):
  source, schema = tmp_path / 'clicks.csv', table_fixture.SCHEMA
  if tags:  # A feature with many values in a row.
    schema = table_fixture.SCHEMA_WITH_TAGS
    rows = table_fixture.make_rows_with_tags(2000)
    table_fixture.write_with_tags(source, rows)
  else:
    table_fixture.write(source, table_fixture.make_rows(2000))
  config = TaskConfig(order=order, cold_share=0.3, max_rows=50, min_count=2)
  found = {}
  for name in ('duckdb', 'spark'):
    out = tmp_path / name
    engine = Engine(name=name, threads=2)
    views.write_tasks(out, source, schema, config, engine=engine)
    files = (out / 'tasks').iterdir()
    found[name] = {p.name: p.read_bytes() for p in files}
  assert len(found['duckdb']) == 6
  for file, content in found['duckdb'].items():
    assert found['spark'][file] == content, file
  assert found['spark'].keys() == found['duckdb'].keys()


def test_spark_without_java_names_the_flag(tmp_path, monkeypatch):
  monkeypatch.setitem(
    sys.modules, 'pyspark.sql', types.SimpleNamespace(SparkSession=None)
  )
  monkeypatch.setattr(shutil, 'which', lambda name: None)
  with pytest.raises(RuntimeError, match='name a cluster with --spark_master'):
    with engine.backend(tmp_path, engine.Engine(name='spark')):
      pass


def test_spark_that_is_missing_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pyspark.sql', None)
  with pytest.raises(RuntimeError, match=r"pip install 'antjax\[spark\]'"):
    with engine.backend(tmp_path, engine.Engine(name='spark')):
      pass


@pytest.mark.parametrize(
  'limit, threads, expected',
  [
    ('', 3, {'threads': 3}),
    ('200MB', 0, {'threads': 1, 'memory_limit': '100MB'}),
    ('4 gb', 2, {'threads': 2, 'memory_limit': '3800MB'}),
    ('500MB', 8, {'threads': 2, 'memory_limit': '300MB'}),
  ],
)
def test_threads_are_as_many_as_the_memory_is_enough_for(
  limit, threads, expected
):
  engine = Engine(memory_limit=limit, threads=threads)
  assert engine.duckdb_options() == expected


@pytest.mark.parametrize('limit', ['100MB', 'much', '4'])
def test_a_limit_that_is_too_low_or_no_size_is_refused(limit):
  with pytest.raises(ValueError, match='such as 4GB, at least 200MB'):
    Engine(memory_limit=limit).duckdb_options()


_SCHEMA = """
label: click
task: user
time: when
columns: {user: int64, item: int64, shop: int64, when: int64, click: int32,
  x0: float32, x1: float32, x2: float32, x3: float32, x4: float32, x5: float32,
  x6: float32, x7: float32, x8: float32}
"""
_ROW_BYTES = 4 * 8 + 4 + 9 * 4


def write_unsorted(path, num_rows):
  """Writes rows of random users, a row group at a time."""
  rng = np.random.default_rng(0)
  writer = None
  for start in range(0, num_rows, 500_000):
    size = min(500_000, num_rows - start)
    columns = {
      'user': rng.integers(0, 200_000, size),
      'item': rng.integers(0, 100_000, size),
      'shop': rng.integers(0, 5000, size),
      'when': rng.integers(0, 1 << 40, size),
      'click': rng.integers(0, 2, size).astype(np.int32),
    }
    columns |= {f'x{i}': rng.random(size, np.float32) for i in range(9)}
    table = pa.table(columns)
    writer = writer or pq.ParquetWriter(path, table.schema, compression='none')
    writer.write_table(table)
  writer.close()


def peak_mb(folder, num_rows):
  """Prepares so many rows with 200 MB; returns the process's peak memory."""
  write_unsorted(folder / 'rows.parquet', num_rows)
  (folder / 'schema.yaml').write_text(_SCHEMA)
  command = [sys.executable, '-m', 'launch.prepare_data']
  command += [f'--source={folder}/rows.parquet', f'--out={folder}/out']
  command += [f'--schema={folder}/schema.yaml', '--memory_limit=200MB']
  process = subprocess.Popen(command, cwd=source_tree.ROOT)
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  assert process.returncode == 0
  (folder / 'rows.parquet').unlink()
  return usage.ru_maxrss / 1024


@pytest.mark.slow
def test_ten_times_the_memory_is_sorted_within_it(tmp_path):
  num_rows = 2_000_000_000 // _ROW_BYTES + 1
  peaks = []
  for name, count in (('small', 2000), ('large', num_rows)):
    (tmp_path / name).mkdir()
    peaks.append(peak_mb(tmp_path / name, count))
  print(f'peak: {peaks[0]:.0f} MB for 2000 rows, {peaks[1]:.0f} MB for 2 GB')
  assert peaks[1] - peaks[0] < 200
  out = tmp_path / 'large' / 'out' / 'tasks'
  description = output_folder.load_description(out)
  assert description['counts']['rows'] == num_rows
  source = output_folder.open_split(out, 'train', as_blocks=True)
  task, rows = -1, 0
  for start in range(0, len(source), 8192):
    block = source.read(start, min(start + 8192, len(source)))
    assert block.tasks['task'][0] >= task
    assert (np.diff(block.tasks['task']) >= 0).all()
    task = block.tasks['task'][-1]
    rows += len(block.rows['click'])
    inside = np.ones(len(block.rows['click']), bool)
    inside[block.tasks['first_row']] = False
    falls = np.diff(block.rows['timestamp'], prepend=0) < 0
    assert not (falls & inside).any()
  assert rows == description['splits']['train']['rows']
