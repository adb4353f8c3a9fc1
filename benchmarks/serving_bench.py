# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Latency of adaptation to one user, and rows/s of the batch scorer.

  python -m benchmarks.serving_bench --model=models/day1 \
    --input=data/ml-1m/warm.arrow

prints one JSON line for an exported model and a file of task records:

- `adapt_ms`: p50 and p99 of `Model.adapt_user` for each exported size of
  support, from one user's support and query ids to adapted predictions. Rows
  are read and inner steps run; only the compiled function is cached. Users are
  read from the file in turn, for each size those padded to it.
- `predict_ms`: the same without adaptation.
- `rows_per_s`: query rows per second of `antjax.serving.scorer.score` over
  records in memory, including adaptation; median of the turns.
- `load_s`: loading of the model into memory, without compilation.

Compilation is not timed, since each size is called before. Uses one process
with all its threads.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import pathlib
import platform
import statistics
import sys
import time
from typing import Annotated, Any

import jax
import numpy as np

from antjax.data import records
from antjax.serving import scorer
from antjax.serving.loader import Model
from benchmarks import harness

_WARM_UP = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  model: Annotated[str, 'Folder of launch/export_gmeta.py.'] = ''
  input: Annotated[str, 'Task records with its ids.'] = ''
  num_calls: Annotated[int, 'Calls for each latency.'] = 500
  num_turns: Annotated[int, 'Timed batches.'] = 5
  num_users: Annotated[int, 'Users in a turn.'] = 1024
  batch_size: Annotated[int, 'Batch size of the scorer.'] = 64


def measure(
  config: Config, model: Model, users: list[dict[str, Any]]
) -> dict[str, Any]:
  """Figures of a model on some users."""
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
  latency = functools.partial(_latency, config.num_calls)
  return {
    'adapt_ms': {
      str(size): latency(lambda case: model.adapt_user(*case), by_size[size])
      for size in sorted(by_size)
    },
    'predict_ms': latency(
      lambda case: model.predict(
        {name: np.asarray(x)[None] for name, x in case[2].items()}
      ),
      [case for some in by_size.values() for case in some],
    ),
    'rows_per_s': _throughput(config, model, users),
  }


def _latency(
  num_calls: int, call: Callable[[Any], Any], cases: Sequence[Any]
) -> dict[str, float]:
  """p50 and p99 of a call in ms."""
  taken = [
    harness.timed(functools.partial(call, cases[i % len(cases)]))
    for i in range(_WARM_UP + num_calls)
  ]
  p50, p99 = np.percentile(taken[_WARM_UP:], [50, 99]) * 1e3
  return {'p50': float(p50), 'p99': float(p99)}


def _throughput(
  config: Config, model: Model, users: list[dict[str, Any]]
) -> float:
  rates = []
  for _ in range(config.num_turns + 1):
    start = time.perf_counter()
    scores = scorer.score(model, users, batch_size=config.batch_size)
    num_rows = sum(len(columns['row']) for columns in scores)
    rates.append(num_rows / (time.perf_counter() - start))
  return round(statistics.median(rates[1:]))  # The first one compiles.


def main(config: Config) -> None:
  if not config.model or not config.input:
    sys.exit('serving_bench: --model and --input are needed.')
  facts = harness.start()
  start = time.perf_counter()
  model = Model(config.model)
  load_s = time.perf_counter() - start
  source = records.open_source(config.input)
  users = source.read(0, min(config.num_users, len(source)))
  tables = model.manifest['tables'].values()
  files = [p for p in pathlib.Path(config.model).rglob('*') if p.is_file()]
  result = {
    'bench': 'serving',
    'storage': 'int8' if any(t['scale'] for t in tables) else 'float32',
    'table_rows': sum(t['rows'] for t in tables),
    'bytes': sum(path.stat().st_size for path in files),
    'load_s': load_s,
    **measure(config, model, users),
    'batch_size': config.batch_size,
    'num_users': len(users),
    'device': jax.devices()[0].device_kind,
    'machine': platform.machine(),
  }
  harness.emit(facts | result)


if __name__ == '__main__':
  harness.run(main, Config())
