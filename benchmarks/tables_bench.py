# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Embedding tables and wide logs: counted bytes, host work, memory.

  python -m benchmarks.tables_bench --case=exchange
  python -m benchmarks.tables_bench --case=routing
  python -m benchmarks.tables_bench --case=memory --rows=16000000
  python -m benchmarks.tables_bench --case=prepare --rows=20000
  python -m benchmarks.tables_bench --case=beyond --rows=16000000
  python -m benchmarks.tables_bench --case=large --rows=84000000

prints a JSON line per case. `exchange` counts bytes sent between groups, as a
multiple of the minimum (`embedding/traffic.py`), in one level and two.
`routing` times `routing.deduplicate` for 8 devices x 8,192 x 26 ids. `memory`
is the peak of creating, saving, restoring and exporting a state, with the state
itself, as a multiple of its bytes, on 8 virtual devices. `prepare` makes tasks
of 1,000 feature columns, in CPU seconds compared with a sort by DuckDB.
`beyond` trains with rows in files and with all rows in memory, by turns, and
`large` a table of 64 GB with its slots within 16 GB (`tables_beyond.py`).
"""

from collections.abc import Callable, Iterator
import json
import pathlib
import tempfile
import threading
import time
from typing import Any

from absl import app, flags
import duckdb
import jax
import numpy as np
import optax
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import event_table, events, schema_file, view, view_tasks
from antjax.data.engine import Engine
from antjax.embedding import routing, traffic
from antjax.embedding.layout import Stack, TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import Level
from antjax.serving import exporter, functions
from antjax.train.checkpoint import Checkpointer
from antjax.train.trainer import Trainer
from benchmarks import tables_beyond

_CASE = flags.DEFINE_enum(
  'case',
  'exchange',
  ['exchange', 'routing', 'memory', 'prepare', 'beyond', 'large'],
  'What to measure.',
)
_NUM_ROWS = flags.DEFINE_integer('rows', 20_000, 'Rows of all tables or a log.')
_IDS = flags.DEFINE_integer('ids', 8192, 'Ids of a device, for exchange.')
_MOST = flags.DEFINE_integer('most', 4096, 'Most devices, for exchange.')
_FOLDER = flags.DEFINE_string(
  'folder', None, 'Folder for files of rows; default: the temporary one.'
)
_DEVICE_ROWS = flags.DEFINE_integer(
  'device_rows', 1_000_000, 'Rows on the device, for beyond and large.'
)
_STEPS = flags.DEFINE_integer('steps', 800, 'Steps of large.')
_ROWS = 100_000_000
_MESHES = ((8, 4), (64, 8), (1024, 8), (1024, 32), (4096, 8), (4096, 64))


def draw(rng: np.random.Generator, kind: str, size: Any) -> np.ndarray:
  """Uniform ids, or Zipf distributed ids with exponent 1."""
  if kind == 'uniform':
    return rng.integers(0, _ROWS, size)
  return np.exp(rng.random(size) * np.log(_ROWS)).astype(np.int64) - 1


def stack_of(num_devices: int, num_groups: int) -> Stack:
  """A stack with rows over all devices."""
  spec = TableSpec('rows', _ROWS, 32, 'global')
  return Stack('rows', (spec,), Level.GLOBAL, num_devices, num_groups)


def exchanges() -> Iterator[dict[str, Any]]:
  """Traffic for uniform and Zipf ids, by mesh and number of levels."""
  for num_devices, group in _MESHES:
    for kind in ('uniform', 'zipf') if num_devices <= _MOST.value else ():
      rng = np.random.default_rng(0)
      stack = stack_of(num_devices, num_devices // group)
      positions = []
      for _ in range(num_devices):
        ids = np.unique(draw(rng, kind, _IDS.value))
        row, owner = np.divmod(ids, num_devices)
        positions.append(
          np.sort(owner * stack.rows_per_device + row).astype(np.int32)
        )
      for levels in (1, 2):
        found = traffic.count(stack, positions, levels=levels)
        yield {
          'devices': num_devices,
          'group': group,
          'ids': kind,
          'ids_a_device': _IDS.value,
          'distinct': round(float(np.mean([*map(len, positions)]))),
          'levels': levels,
          'rounds': found.rounds,
          'of_least': round(found.between / found.least, 2),
          'between_bytes': found.between,
          'inside_bytes': found.inside,
        }


def routings(repeats: int = 7) -> Iterator[dict[str, Any]]:
  """Median milliseconds of the host's part, wall and CPU."""
  for kind in ('uniform', 'zipf'):
    rng = np.random.default_rng(0)
    stack = stack_of(8, 2)
    size = (8, 8192 * 26)
    positions = (draw(rng, kind, size) % _ROWS).astype(np.int32)
    row = positions // 8
    positions = (positions - row * 8) * stack.rows_per_device + row
    times = []
    for _ in range(repeats):
      wall, cpu = time.perf_counter(), time.process_time()
      routing.deduplicate(
        stack, [positions], max_unique=None, capacity_factor=1.25
      )
      times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = np.median(times, axis=0)
    yield {
      'ids': kind,
      'devices': 8,
      'ids_a_device': size[1],
      'wall_ms': round(1e3 * wall, 1),
      'cpu_ms': round(1e3 * cpu, 1),
    }


def memory(num_tables: int = 8) -> Iterator[dict[str, Any]]:
  """Peak memory of a trainer's init, save, restore and export of tables."""
  specs = [
    TableSpec(f't{i}', _NUM_ROWS.value // num_tables, 16, 'global')
    for i in range(num_tables)
  ]
  names = {spec.name: spec.name for spec in specs}
  tables = EmbeddingTables(specs, names, mesh=make_mesh(intra=4))
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tables.shapes))
  trainer = Trainer(
    lambda params, rows, batch, rng: params['bias'] * batch['label'],
    optax.sgd(0.1),
    mesh=tables.mesh,
    tables=tables,
  )
  peaks, start = dict[str, int](), time.perf_counter
  seconds = dict[str, float]()

  def measured(name: str, run: Callable[[], Any]) -> Any:
    began = start()
    found, peaks[name] = _with_peak(run)
    seconds[f'{name}_s'] = round(start() - began, 1)
    return found

  bias = {'bias': np.zeros((), np.float32)}
  states = [measured('init', lambda: trainer.init(bias))]
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as temporary:
    folder = pathlib.Path(temporary)
    with Checkpointer(str(folder / 'checkpoints'), trainer.layout) as saver:

      def save() -> None:
        saver.save(1, states[0])
        saver.wait()

      def export(quantize: exporter.Quantize) -> None:
        rows = functions.table_rows(tables, states[0].tables)
        model = exporter.Exported(functions={}, params={}, tables=rows)
        exporter.write(folder / quantize, model, quantize)

      measured('save', save)
      measured('export', lambda: export('none'))
      measured('export_int8', lambda: export('int8'))
      wanted = [np.float64(x.sum()) for x in jax.tree.leaves(states[0].tables)]
      held = {n: size + peaks[n] for n in ('save', 'export', 'export_int8')}
      states.clear()
      found = measured('restore', lambda: saver.restore(1)[0])
    sums = [np.float64(x.sum()) for x in jax.tree.leaves(found.tables)]
    assert sums == wanted, 'The restored state is another one.'
  yield {
    'state_bytes': size,
    **{n: round(x / size, 2) for n, x in (peaks | held).items()},
    **seconds,
  }


def _with_peak(run: Callable[[], Any]) -> tuple[Any, int]:
  """The result, and the peak bytes beyond those held before."""
  process, seen = psutil.Process(), list[int]()
  is_done = threading.Event()

  def watch() -> None:
    while not is_done.wait(0.003):
      seen.append(process.memory_info().rss)

  before = process.memory_info().rss
  watcher = threading.Thread(target=watch)
  watcher.start()
  result = jax.block_until_ready(run())
  is_done.set()
  watcher.join()
  return result, max(seen, default=before) - before


def prepares(num_columns: int = 1000) -> Iterator[dict[str, Any]]:
  """CPU seconds of each stage from a log to tasks."""
  size, rng = _NUM_ROWS.value, np.random.default_rng(0)
  columns = {
    'user': pa.array(rng.integers(0, size // 50 + 1, size)),
    'when': pa.array(rng.integers(0, 10**6, size)),
    'click': pa.array(rng.integers(0, 2, size).astype(np.int32)),
  }
  kinds = {'user': 'int64', 'when': 'int64', 'click': 'int32'}
  ids = [f'c{i}' for i in range(num_columns)]
  for i, name in enumerate(ids):
    values = np.minimum(rng.zipf(1.3, size), (10, 100, 1000, 20_000)[i % 4])
    column = pa.array(values)
    columns[name] = column.cast(pa.string()) if i % 2 else column
    kinds[name] = 'string' if i % 2 else 'int64'
  schema = schema_file.make(
    kinds, label='click', user='user', time='when', ids=ids
  )
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    log, engine = folder / 'log.parquet', Engine(threads=2)
    pq.write_table(pa.table(columns), log)
    query = (
      f'COPY (SELECT * FROM \'{log}\' ORDER BY "user", "when") TO'
      f" '{folder / 'sorted.parquet'}'"
    )
    steps: dict[str, Callable[[], Any]] = {
      'sort_s': lambda: duckdb.connect(config={'threads': 2}).sql(query),
      'events_s': lambda: events.write(
        folder / 'events', event_table.source(log, schema), engine=engine
      ),
      'tasks_s': lambda: view.make(
        view_tasks.TaskView(),
        folder / 'tasks',
        folder / 'events',
        schema,
        engine=engine,
      ),
    }
    found = {}
    for name, step in steps.items():
      before = time.process_time()
      step()
      found[name] = round(time.process_time() - before, 1)
  yield {'rows': size, 'columns': num_columns, **found}


def beyond() -> Iterator[dict[str, Any]]:
  """See `tables_beyond`."""
  sizes = _NUM_ROWS.value, _DEVICE_ROWS.value, 4096
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as temporary:
    folder = pathlib.Path(temporary)
    if _CASE.value == 'beyond':
      yield from tables_beyond.ratio(folder, *sizes)
    else:
      yield from tables_beyond.large(folder, *sizes, steps=_STEPS.value)


def main(argv: list[str]) -> None:
  del argv
  is_beyond = _CASE.value in ('beyond', 'large')
  jax.config.update('jax_num_cpu_devices', 1 if is_beyond else 8)
  cases = {
    'exchange': exchanges,
    'routing': routings,
    'memory': memory,
    'prepare': prepares,
    'beyond': beyond,
    'large': beyond,
  }
  for found in cases[_CASE.value]():
    print(json.dumps({'case': _CASE.value, **found}), flush=True)


if __name__ == '__main__':
  app.run(main)
