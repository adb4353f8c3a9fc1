# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What does the bulk data work: DuckDB in this process, or Spark."""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import re
from typing import Any, Literal

import ibis

from antjax.data import prepare

# DuckDB needs some memory for each thread, and takes some for files that it
# does not count: seen at 100MB a thread.
_MB_A_THREAD, _UNCOUNTED_MB = 200, 100
_IN_MB = {'K': 1e-3, 'M': 1.0, 'G': 1e3, 'T': 1e6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
  """What does the bulk work, and with how much.

  Attributes:
    name: 'duckdb', in this process, or 'spark'.
    memory_limit: Such as '4GB', at least 200MB; beside it the program itself
      takes about 300MB. '' means the engine's own choice.
    threads: Number of threads of DuckDB or a local Spark; 0 means all cores, or
      as many as the memory is enough for.
    spark_master: Spark's master; '' means a local one, or that of the session
      that is there already.
  """

  name: Literal['duckdb', 'spark'] = 'duckdb'
  memory_limit: str = ''
  threads: int = 0
  spark_master: str = ''

  def duckdb_options(self) -> dict[str, Any]:
    """Returns the options of `prepare.connect` that keep to the memory.

    Raises:
      ValueError: It is too little, or no size.
    """
    if self.name != 'duckdb' or not self.memory_limit:
      return {'threads': self.threads}
    found = re.fullmatch(r'([0-9.]+)\s*([KMGT])B', self.memory_limit.upper())
    size_mb = float(found[1]) * _IN_MB[found[2]] if found else 0.0
    if size_mb < _MB_A_THREAD:
      raise ValueError(
        f'memory_limit={self.memory_limit!r}: needed: a size such as 4GB, at'
        f' least {_MB_A_THREAD}MB.'
      )
    enough_for = int(size_mb // _MB_A_THREAD)
    threads = min(self.threads or os.cpu_count() or 1, enough_for)
    limit_mb = int(size_mb - threads * _UNCOUNTED_MB)
    return {'threads': threads, 'memory_limit': f'{limit_mb}MB'}


@contextlib.contextmanager
def duckdb(work: pathlib.Path, engine: Engine) -> Iterator[ibis.BaseBackend]:
  """Opens DuckDB on a file in `work`; it spills to the folder `spill` there."""
  con = prepare.connect(
    temp_directory=work / 'spill',
    database=work / 'tables.duckdb',
    **engine.duckdb_options(),
  )
  try:
    yield con
  finally:
    con.disconnect()
    (work / 'tables.duckdb').unlink()


@contextlib.contextmanager
def backend(work: pathlib.Path, engine: Engine) -> Iterator[ibis.BaseBackend]:
  """Opens the engine that is asked for; see `duckdb` for the folder."""
  if engine.name == 'duckdb':
    with duckdb(work, engine) as con:
      # Rows have numbers by now; keeping their order takes memory.
      con.raw_sql('SET preserve_insertion_order = false')
      yield con
    return
  con = prepare.connect_spark(
    threads=engine.threads,
    memory_limit=engine.memory_limit,
    temp_directory=work / 'spill',
    master=engine.spark_master,
  )
  try:
    yield con
  finally:
    con.disconnect()
