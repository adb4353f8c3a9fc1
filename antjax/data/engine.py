# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What does the bulk data work: DuckDB in this process, or Spark."""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import sys
from typing import Any, Literal

import ibis

# DuckDB needs some memory for each thread, and takes some for files that it
# does not count: seen at 100MB a thread.
_MB_A_THREAD, _UNCOUNTED_MB = 200, 100
_IN_MB = {'K': 1e-3, 'M': 1.0, 'G': 1e3, 'T': 1e6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
  """What does the bulk work, and with how much."""

  # 'duckdb', in this process, or 'spark'.
  name: Literal['duckdb', 'spark'] = 'duckdb'
  # Such as '4GB', at least 200MB; beside it the program itself takes about
  # 300MB. '' means the engine's own choice.
  memory_limit: str = ''
  # Number of threads of DuckDB or a local Spark; 0 means all cores, or as many
  # as the memory is enough for.
  threads: int = 0
  # Spark's master; '' means a local one, or that of the session that is there
  # already.
  spark_master: str = ''

  @property
  def num_threads(self) -> int:
    """Threads of what this process does itself."""
    return self.threads or os.cpu_count() or 1

  def duckdb_options(self) -> dict[str, Any]:
    """Returns DuckDB's options that keep to the memory.

    Raises:
      ValueError: It is too little, or no size.
    """
    if self.name != 'duckdb' or not self.memory_limit:
      return {'threads': self.threads} if self.threads else {}
    found = re.fullmatch(r'([0-9.]+)\s*([KMGT])B', self.memory_limit.upper())
    size_mb = float(found[1]) * _IN_MB[found[2]] if found else 0.0
    if size_mb < _MB_A_THREAD:
      raise ValueError(
        f'memory_limit={self.memory_limit!r}: needed: a size such as 4GB, at'
        f' least {_MB_A_THREAD}MB.'
      )
    enough_for = int(size_mb // _MB_A_THREAD)
    threads = min(self.num_threads, enough_for)
    limit_mb = int(size_mb - threads * _UNCOUNTED_MB)
    return {'threads': threads, 'memory_limit': f'{limit_mb}MB'}


@contextlib.contextmanager
def duckdb(work: pathlib.Path, engine: Engine) -> Iterator[ibis.BaseBackend]:
  """Opens DuckDB on a file in `work`; it spills to the folder `spill` there."""
  path = work / 'tables.duckdb'
  con = ibis.duckdb.connect(
    path, temp_directory=str(work / 'spill'), **engine.duckdb_options()
  )
  con.raw_sql('SET enable_progress_bar = false')
  # The system keeps files that are read again anyway.
  con.raw_sql('SET enable_external_file_cache = false')
  try:
    yield con
  finally:
    con.disconnect()
    path.unlink()


@contextlib.contextmanager
def backend(work: pathlib.Path, engine: Engine) -> Iterator[ibis.BaseBackend]:
  """Opens the engine that is asked for; see `duckdb` for the folder.

  Spark is the session that is there, or a new one, which ends with the context.

  Raises:
    RuntimeError: pyspark or Java is missing.
  """
  if engine.name == 'duckdb':
    with duckdb(work, engine) as con:
      # Rows have numbers by now; keeping their order takes memory.
      con.raw_sql('SET preserve_insertion_order = false')
      yield con
    return
  session = _spark(os.path.abspath(work / 'spill'), engine)
  con = ibis.pyspark.connect(session)
  try:
    yield con
  finally:
    con.disconnect()


def _spark(spill: str, engine: Engine) -> Any:
  try:
    from pyspark.sql import SparkSession
  except ImportError as e:
    raise RuntimeError(
      "engine=spark needs pyspark: pip install 'antjax[spark]'."
    ) from e
  master = engine.spark_master
  if not (shutil.which('java') or master):
    raise RuntimeError(
      'engine=spark runs Spark on this machine and needs Java 17, such as'
      ' openjdk-17-jre-headless; or name a cluster with --spark_master.'
    )
  settings = {
    'spark.local.dir': spill,
    'spark.sql.warehouse.dir': os.path.join(spill, 'warehouse'),
    'spark.sql.session.timeZone': 'UTC',
    'spark.ui.enabled': 'false',
  }
  if engine.memory_limit:
    settings['spark.driver.memory'] = engine.memory_limit
  builder = SparkSession.builder.master(
    master or f'local[{engine.threads or "*"}]'
  )
  for name, value in settings.items():
    builder = builder.config(name, value)
  session = builder.getOrCreate()
  session.sparkContext.setLogLevel('ERROR')
  if not master:
    # The first python3 on the path, Spark's choice, may lack our packages.
    session.sparkContext.pythonExec = sys.executable
  return session
