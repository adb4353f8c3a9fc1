# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables beyond the memory: rows in files beside all of them in memory.

For `tables_bench --case=beyond` and `--case=large`. The model is that of click
models: 26 id columns of a table with Zipf distributed ids (exponent 1), and an
MLP on their vectors; row-wise Adagrad or Adam updates the rows.
"""

from collections.abc import Iterable, Iterator
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import optax
import psutil

from antjax.embedding.home import HomeConfig
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam, RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

_COLUMNS, _WIDTHS = 26, (256, 64, 1)


def batch_of(step: int, batch_size: int, num_rows: int) -> dict[str, Any]:
  """Ids [B, 26] and labels [B] of a step; frequent ids are spread out."""
  rng = np.random.default_rng(step)
  size = batch_size, _COLUMNS
  rank = np.exp(rng.random(size) * np.log(num_rows)).astype(np.int64) - 1
  ids = rank * 0x9E3779B1 % num_rows
  label = rng.integers(0, 2, batch_size).astype(np.float32)
  return {'ids': {'item': ids}, 'label': label}


class Side:
  """A training that goes on by turns."""

  def __init__(
    self, num_rows: int, dim: int, optimizer: str, home: HomeConfig | None
  ):
    """Makes the state."""
    made = {'adam': Adam, 'rowwise_adagrad': RowWiseAdagrad}[optimizer](0.01)
    mesh = make_mesh(devices=jax.devices()[:1], intra=1)
    spec = TableSpec('item', num_rows, dim, 'global', made, 0.01)
    self.tables = tables = EmbeddingTables(
      [spec], {'item': 'item'}, mesh=mesh, home=home
    )

    def init(key: jax.Array) -> Any:
      widths, layers = (_COLUMNS * dim, *_WIDTHS), []
      for i, (m, n) in enumerate(zip(widths, widths[1:])):
        weights = jax.random.normal(jax.random.fold_in(key, i), (m, n))
        layers.append(weights / np.sqrt(m))
      return layers

    def loss(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
      del rng
      x = tables.lookup(rows, batch['ids'])['item']
      x = x.reshape(len(x), -1)
      for weights in params[:-1]:
        x = jax.nn.relu(x @ weights)
      logit = (x @ params[-1])[:, 0]
      return optax.sigmoid_binary_cross_entropy(logit, batch['label'])

    optim = optax.sgd(0.1)
    self.trainer = Trainer(loss, optim, mesh=mesh, tables=tables)
    self.state: TrainState = self.trainer.init(init)
    self.losses = list[float]()

  def train(self, batches: Iterable[Any], num: int) -> float:
    """Seconds a step of so many batches."""
    began, first = time.perf_counter(), int(self.state.step)
    self.state = self.trainer.fit(
      self.state,
      iter(batches),
      first + num,
      on_step=lambda step, values: self.losses.append(values['loss']),
    )
    jax.block_until_ready(self.state.tables)
    return (time.perf_counter() - began) / num


def ratio(
  folder: pathlib.Path,
  num_rows: int,
  device_rows: int,
  batch_size: int,
  *,
  optimizer: str = 'rowwise_adagrad',
  dim: int = 32,
  turns: int = 9,
  steps: int = 20,
  warm: int = 100,
) -> Iterator[dict[str, Any]]:
  """Step rate with most rows in files, as a share of that without files."""
  config = HomeConfig(folder=str(folder), device_rows=device_rows)
  sides = {
    'memory': Side(num_rows, dim, optimizer, None),
    'files': Side(num_rows, dim, optimizer, config),
  }
  seconds: dict[str, list[float]] = {name: [] for name in sides}
  done = 0
  for turn in range(turns + 1):
    count = steps if turn else warm
    batches = [
      batch_of(step, batch_size, num_rows) for step in range(done, done + count)
    ]
    done += count
    order = [*sides][:: 1 if turn % 2 else -1]
    for name in order:
      took = sides[name].train(batches, count)
      if turn:
        seconds[name].append(took)
  assert sides['files'].losses == sides['memory'].losses
  middle = {n: statistics.median(x) for n, x in seconds.items()}
  rates = [a / b for a, b in zip(seconds['memory'], seconds['files'])]
  yield {
    'rows': num_rows,
    'device_rows': device_rows,
    'dim': dim,
    'optimizer': optimizer,
    'batch': batch_size,
    'steps': done,
    'memory_ms': round(1e3 * middle['memory'], 1),
    'files_ms': round(1e3 * middle['files'], 1),
    'ratio': round(middle['memory'] / middle['files'], 2),
    'turns': [round(x, 2) for x in rates],
    'losses': 'bit-equal',
  }


def large(
  folder: pathlib.Path,
  num_rows: int,
  device_rows: int,
  batch_size: int,
  *,
  memory_gb: float = 16,
  steps: int = 800,
  every: int = 50,
) -> Iterator[dict[str, Any]]:
  """A table and its Adam slots that are larger than the machine's memory.

  Another process holds all memory but `memory_gb`, so that the kernel keeps no
  more of the file either.
  """
  held = int(psutil.virtual_memory().total - memory_gb * 1e9)
  code = f'import sys; x = b"1" * {max(held, 0)}; print(); sys.stdin.read()'
  pipes: dict[str, Any] = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
  with subprocess.Popen([sys.executable, '-uc', code], **pipes) as ballast:
    ballast.stdout.readline()
    config = HomeConfig(folder=str(folder), device_rows=device_rows)
    side, times, peaks = Side(num_rows, 64, 'adam', config), [], [0, 0]
    for first in range(0, steps, every):
      numbers = range(first, min(first + every, steps))
      batches = (batch_of(n, batch_size, num_rows) for n in numbers)
      times.append(side.train(batches, len(numbers)))
      text = pathlib.Path('/proc/self/status').read_text(encoding='utf-8')
      found = dict(line.split(':', 1) for line in text.splitlines())
      sizes = [int(found[n].split()[0]) for n in ('RssAnon', 'RssFile')]
      peaks = [*map(max, peaks, sizes)]
      print(first, times[-1], sizes, flush=True, file=sys.stderr)
    ballast.communicate()
  files = [p.stat() for p in folder.rglob('*') if p.is_file()]
  yield {
    'rows': num_rows,
    'device_rows': device_rows,
    'table_gb': round(num_rows * 3 * 64 * 4 / 1e9, 1),
    'memory_gb': memory_gb,
    'batch': batch_size,
    'steps': steps,
    'files_gb': round(sum(x.st_size for x in files) / 1e9, 1),
    'allocated_gb': round(sum(x.st_blocks for x in files) * 512 / 1e9, 1),
    'process_gb': round(peaks[0] * 1024 / 1e9, 1),
    'mapped_gb': round(peaks[1] * 1024 / 1e9, 1),
    'first_ms': round(1e3 * times[0], 1),
    'middle_ms': round(1e3 * statistics.median(times), 1),
    'last_ms': round(1e3 * times[-1], 1),
    'loss': [round(side.losses[i], 4) for i in (0, -1)],
  }
