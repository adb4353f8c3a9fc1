# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Latency of adapting to one user, and rows/s of the batch scorer.

  python -m benchmarks.serving_bench --model=models/day1 \
    --input=data/ml-1m/warm.arrow

prints one JSON line for an exported model and a file of task records:

- `adapt_ms`: p50 and p99 of `Model.adapt_user` for each size of support that
  the model was exported for: one user's support and query go in as ids, adapted
  predictions come out. Rows are read, the inner steps run, nothing is cached
  but the compiled function. Users come in turn from the file, each size those
  whose support it is padded to.
- `predict_ms`: the same without adaptation.
- `rows_per_s`: query rows a second of `antjax.serving.scorer.score` over
  records in memory, adaptation included; median of the turns.
- `load_s`: from nothing to a model in memory, without compilation.

Compilation is outside of all of them: each size is called before the clock
starts. One process, all its threads.
"""

from collections.abc import Callable
import functools
import pathlib
import platform
import statistics
import time
from typing import Any

from absl import app, flags
import jax
import numpy as np

from antjax.data import records
from antjax.serving import scorer
from antjax.serving.loader import Model
from benchmarks import harness

_MODEL = flags.DEFINE_string('model', None, 'From launch/export_gmeta.py.')
_INPUT = flags.DEFINE_string('input', None, 'Task records with its ids.')
_CALLS = flags.DEFINE_integer('num_calls', 500, 'For each latency.', 1)
_TURNS = flags.DEFINE_integer('num_turns', 5, 'Timed batches.', 1)
_USERS = flags.DEFINE_integer('num_users', 1024, 'Users in a turn.', 1)
_BATCH = flags.DEFINE_integer('batch_size', 64, 'Batch size of the scorer.', 1)
_WARM_UP = 10


def measure(model: Model, users: list[dict[str, Any]]) -> dict[str, Any]:
  """The figures of a model on some users."""
  features = model.manifest['features']

  def part(user, rows):
    return {
      name: user[name][rows] if np.ndim(user[name]) else user[name]
      for name in features
    }

  by_size: dict[int, list[tuple[Any, ...]]] = {}
  for user in users:
    start = len(user['rating']) - int(user['num_query'])
    sizes = model.manifest['support_sizes']
    size = next((n for n in sizes if n >= start), None)
    if size is not None and start:
      rows = slice(0, start), slice(start, None)
      support, query = (part(user, r) for r in rows)
      case = support, user['rating'][:start], query
      by_size.setdefault(size, []).append(case)
  cases = [case for some in by_size.values() for case in some]
  return {
    'adapt_ms': {
      str(size): _latency(lambda case: model.adapt_user(*case), by_size[size])
      for size in sorted(by_size)
    },
    'predict_ms': _latency(
      lambda case: model.predict(
        {name: np.asarray(x)[None] for name, x in case[2].items()}
      ),
      cases,
    ),
    'rows_per_s': _throughput(model, users),
  }


def _latency(call: Callable[[Any], Any], cases: list[Any]) -> dict[str, float]:
  """p50 and p99 of a call, ms."""
  for i in range(_WARM_UP):
    call(cases[i % len(cases)])
  taken = []
  for i in range(_CALLS.value):
    case = cases[i % len(cases)]
    taken.append(harness.timed(functools.partial(call, case)))
  p50, p99 = np.percentile(taken, [50, 99]) * 1e3
  return {'p50': round(float(p50), 3), 'p99': round(float(p99), 3)}


def _throughput(model: Model, users: list[dict[str, Any]]) -> float:
  rates = []
  for turn in range(_TURNS.value + 1):
    start, num_rows = time.perf_counter(), 0
    for columns in scorer.score(model, users, batch_size=_BATCH.value):
      num_rows += len(columns['row'])
    if turn:  # The first one compiles.
      rates.append(num_rows / (time.perf_counter() - start))
  return round(statistics.median(rates))


def main(argv: list[str]) -> None:
  facts = harness.start(argv)
  start = time.perf_counter()
  model = Model(_MODEL.value)
  load_s = time.perf_counter() - start
  source = records.open_source(_INPUT.value)
  users = source.read(0, min(_USERS.value, len(source)))
  tables = model.manifest['tables'].values()
  result = {
    'bench': 'serving',
    'storage': 'int8' if any(t['scale'] for t in tables) else 'float32',
    'table_rows': sum(t['rows'] for t in tables),
    'bytes': sum(
      p.stat().st_size
      for p in pathlib.Path(_MODEL.value).rglob('*')
      if p.is_file()
    ),
    'load_s': round(load_s, 3),
    **measure(model, users),
    'batch_size': _BATCH.value,
    'num_users': len(users),
    'device': jax.devices()[0].device_kind,
    'machine': platform.machine(),
    'jax': jax.__version__,
  }
  harness.emit(facts | result)


if __name__ == '__main__':
  flags.mark_flags_as_required(['model', 'input'])
  app.run(main)
