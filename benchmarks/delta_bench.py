# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Time to write, apply and fold the delta to a newly trained model.

  python -m benchmarks.delta_bench --rows=2000000 --changed=20000

Made-up models of one table whose keys are in another order on the second day,
`--gone` fewer and `--added` more. One JSON line with seconds of wall and
processor time, bytes, and the delta's `sha256`: other code must write the same.
"""

import dataclasses
import hashlib
import pathlib
import tempfile
import time
from typing import Annotated, Any

import numpy as np

from antjax.serving import delta, exporter, feed
from benchmarks import harness


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  rows: Annotated[int, 'Rows of the table.'] = 2_000_000
  dim: Annotated[int, 'Numbers of a row.'] = 16
  changed: Annotated[int, 'Rows that were trained.'] = 20_000
  gone: Annotated[int, 'Keys that are gone.'] = 1_000
  added: Annotated[int, 'Keys that are new.'] = 2_000
  text: Annotated[bool, 'Keys are texts, not integers.'] = False


def _model(keys: np.ndarray, rows: np.ndarray) -> exporter.Exported:
  num_ids, dim = rows.shape
  feature = {'num_ids': num_ids, 'max_values': 1, 'embedding_dim': dim}
  return exporter.Exported(
    functions={},
    params={'w': np.ones(3, np.float32)},
    tables={'item': rows},
    features={'item': {'table': 'item', **feature}},
    vocabularies={'item': (keys, np.arange(1, len(keys) + 1))},
  )


def _days(config: Config) -> tuple[exporter.Exported, exporter.Exported]:
  """The model that is served, and the new one with ids of its own."""
  rng, num_keys = np.random.default_rng(0), config.rows - 1
  keys = rng.permutation(num_keys + config.added)
  rows = rng.normal(size=(config.rows, config.dim)).astype(np.float32)
  kept = rng.permutation(num_keys)[config.gone :]
  new_rows = rng.normal(size=(config.added, config.dim)).astype(np.float32)
  after = np.concatenate([rows[:1], rows[1 + kept], new_rows])
  after[1 : config.changed + 1] += 1
  new_keys = np.concatenate([keys[kept], keys[num_keys:]])
  if config.text:
    keys, new_keys = (
      np.char.add('key ', x.astype('U')) for x in (keys, new_keys)
    )
  return _model(keys[:num_keys], rows), _model(new_keys, after)


def main(config: Config) -> None:
  facts, first, second = harness.start(), *_days(config)
  found: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as name:
    base, deltas = pathlib.Path(name, 'base'), pathlib.Path(name, 'deltas')
    exporter.write(base, first)

    def timed(what: str, call: Any) -> Any:
      wall, cpu = time.perf_counter(), time.process_time()
      result = call()
      found[f'{what}_s'] = time.perf_counter() - wall
      found[f'{what}_cpu_s'] = time.process_time() - cpu
      return result

    now = timed('open', lambda: delta.opened(base, deltas))
    told = timed('write', lambda: delta.write(now, second, deltas))
    now = timed('apply', lambda: delta.opened(base, deltas))
    timed('fold', lambda: delta.apply(now, pathlib.Path(name, 'made')))
    content = (deltas / feed.name_of(1)).read_bytes()
  found |= {
    'rows': told['item'][0],
    'of_rows': told['item'][1],
    'bytes': len(content),
    'sha256': hashlib.sha256(content).hexdigest(),
  }
  harness.emit(facts | {'bench': 'delta', 'text': config.text} | found)


if __name__ == '__main__':
  harness.run(main, Config())
