# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Records per second of LeasedDataset and plain Grain on the same file.

  python -m benchmarks.input_bench > results.jsonl

prints one JSON line for each kind of ledger and file. All sides read the same
ArrayRecord file of synthetic click records (ids [16] int32, dense [8] float32,
label), decode with the same function, and return the same batches of numpy
arrays, in a seeded order, epoch after epoch:

- `local`: LeasedDataset over a ledger in this process.
- `service`: LeasedDataset over the ledger of a coordinator, in a separate
  process, with its journal on disk.
- `grain`: MapDataset.source().shuffle().repeat().map(decode), to_iter_dataset()
  and batch(), with the order of these two and the number of reading threads
  that were fastest in a first trial.
- `grain_in_order`: the same without shuffle.

The side `held_back` has texts, which both sides pack into rows by Grain's
FirstFitPackIterDataset: `HeldBack` over a LeasedDataset, whose state is exact
for any number of processes, and Grain's own pipeline, whose state is not.

Grain shuffles records; LeasedDataset shuffles shards and the records in them,
so it reads blocks. `group_size` is the number of records that are compressed
together: 1 suits single reads, 16 is the value of antjax.

The sides take turns in one process, each time with a new iterator that is
warmed up first; medians over the turns are compared.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import gc
import os
import pathlib
import platform
import statistics
import tempfile
import time
from typing import Annotated, Any

from array_record.python import array_record_module
import grain
import numpy as np

from antjax.data import array_record_file
from antjax.data.array_record_file import ArrayRecordSource
from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.service_ledger import ServiceLedgerClient
from antjax.shards.dataset import LeasedDataset
from antjax.shards.held_back import HeldBack
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec
from benchmarks import coordinator_sides, harness


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  num_records: Annotated[int, 'Records in the file.'] = 200_000
  batch_size: Annotated[int, 'Records in a batch.'] = 1024
  records_in_shard: Annotated[int, 'Records in a shard.'] = 4096
  turn_s: Annotated[float, 'Length of a turn.'] = 1.0
  num_turns: Annotated[int, 'Turns of each side.'] = 9
  group_sizes: Annotated[tuple[int, ...], 'See above.'] = (1, 16)
  grain_threads: Annotated[tuple[int, ...], 'Threads to try.'] = (0, 2, 16)


_SEED = 7

# Makes a new iterator of batches.
MakeFn = Callable[[], Iterator[Any]]


def write_file(
  path: pathlib.Path, num_records: int, group_size: int, is_texts: bool = False
) -> None:
  """Writes synthetic records of clicks or texts."""
  rng = np.random.default_rng(_SEED)
  writer = array_record_module.ArrayRecordWriter(
    str(path), f'group_size:{group_size}'
  )
  for number in range(num_records):
    ids = rng.integers(0, 1 << 20, 16, np.int32)
    ids[0] = number
    record = {
      'ids': ids,
      'dense': rng.random(8, np.float32),
      'label': np.float32(number % 2),
    }
    if is_texts:
      record = {'tokens': rng.integers(1, 1 << 15, 1 + ids[1] % 512, np.int32)}
    writer.write(array_record_file.encode(record))
  writer.close()


def local(path: pathlib.Path, batch: int, shard_size: int) -> MakeFn:
  """LeasedDataset over a ledger in this process."""
  source = ArrayRecordSource(path)

  def make() -> Iterator[Any]:
    spec = LedgerSpec(len(source), shard_size, seed=_SEED, num_epochs=None)
    dataset = LeasedDataset(source, LocalLedgerClient(spec))
    return iter(dataset.batch(batch))

  return make


def _packed(records: grain.IterDataset, *keep: str) -> grain.IterDataset:
  return grain.experimental.FirstFitPackIterDataset(
    records,
    length_struct={'tokens': 1024},
    num_packing_bins=32,
    meta_features=keep,
  )


def held_back(path: pathlib.Path, shard_size: int) -> MakeFn:
  """Rows of packed texts from a LeasedDataset."""
  source = ArrayRecordSource(path)

  def make() -> Iterator[Any]:
    spec = LedgerSpec(len(source), shard_size, seed=_SEED, num_epochs=None)
    client = LocalLedgerClient(spec)
    texts = LeasedDataset(source, client, key_field='key')
    return iter(HeldBack(texts, lambda x: _packed(x, 'key'), key_field='key'))

  return make


def service(
  path: pathlib.Path, batch: int, shard_size: int, client: CoordinatorClient
) -> MakeFn:
  """LeasedDataset over a coordinator's ledger."""
  source = ArrayRecordSource(path)
  ledger = ServiceLedgerClient.connect(
    client,
    pb.DataSet(
      name=path.stem, num_records=len(source), shard_size=shard_size, seed=_SEED
    ),
  )
  dataset = LeasedDataset(source, ledger)
  return lambda: iter(dataset.batch(batch))


def plain_grain(
  path: pathlib.Path,
  batch: int,
  num_threads: int,
  *,
  batch_first: bool = False,
  is_shuffled: bool = True,
) -> MakeFn:
  """Grain as typically used; threads read records or whole batches.

  A batch size of 0 means rows of packed texts.
  """
  source = grain.sources.ArrayRecordDataSource(str(path))
  # Threads prefetch a batch, or 500 records, Grain's default.
  ahead = num_threads if batch_first else 500 if num_threads else 0

  def make() -> Iterator[Any]:
    records = grain.MapDataset.source(source)
    if is_shuffled:
      records = records.shuffle(seed=_SEED)
    records = records.repeat().map(array_record_file.decode)
    options = grain.ReadOptions(
      num_threads=num_threads, prefetch_buffer_size=ahead
    )
    if not batch:
      return iter(_packed(records.to_iter_dataset(options)))
    if batch_first:
      return iter(records.batch(batch).to_iter_dataset(options))
    return iter(records.to_iter_dataset(options).batch(batch))

  return make


def samples_per_s(make: MakeFn, batch: int, seconds: float) -> float:
  """Returns the rate of a warm new iterator; batch 0: rows."""
  batches = make()
  for _ in range(3):
    next(batches)
  count, start = 0, time.perf_counter()
  while (took := time.perf_counter() - start) < seconds:
    shape = next(batches)['ids' if batch else 'tokens'].shape
    assert shape == ((batch, 16) if batch else (1024,))
    count += batch or 1
  del batches
  gc.collect()  # Ends its threads.
  return count / took


def compare(
  sides: dict[str, MakeFn], batch: int, seconds: float, rounds: int
) -> dict[str, list[float]]:
  """Lets the sides take turns; returns their rates."""
  turns = {
    name: functools.partial(samples_per_s, make, batch, seconds)
    for name, make in sides.items()
  }
  return harness.alternate(turns, rounds)


def lines_of(rates: dict[str, list[float]]) -> list[dict[str, Any]]:
  """Returns a line for each of our sides."""
  medians = {name: statistics.median(of) for name, of in rates.items()}
  lines = []
  for name in (name for name in rates if not name.startswith('grain')):
    line = {
      'ledger': name,
      'samples_per_s': round(medians[name]),
      'min_max': harness.min_max(rates[name]),
      'grain_min_max': harness.min_max(rates['grain']),
    }
    for peer in (name for name in rates if name.startswith('grain')):
      line[f'{peer}_samples_per_s'] = round(medians[peer])
      ratio = peer.replace('grain', 'ratio')
      line[ratio] = medians[name] / medians[peer]
    lines.append(line)
  return lines


def fastest_grain(
  path: pathlib.Path, batch: int, seconds: float, threads: Sequence[int]
) -> dict[str, Any]:
  """Returns the fastest arguments of `plain_grain`."""
  ways = [
    {'num_threads': n, 'batch_first': first}
    for n in threads
    for first in (False, True)[: 1 + bool(batch)]
  ]
  rates = compare(
    {str(i): plain_grain(path, batch, **way) for i, way in enumerate(ways)},
    batch,
    seconds,
    rounds=3,
  )
  return ways[int(max(rates, key=lambda name: statistics.median(rates[name])))]


def main(config: Config) -> None:
  batch, shard_size = config.batch_size, config.records_in_shard
  facts = harness.start(
    records=config.num_records,
    batch=batch,
    shard_size=shard_size,
    cores=os.cpu_count(),
    python=platform.python_version(),
    grain_version=grain.__version__,
  )
  worst: dict[str, float] = {}
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    coordinator = coordinator_sides.Antjax(folder / 'coordinator')
    stack.callback(coordinator.kill_server)
    coordinator.start_server()
    client = stack.enter_context(coordinator.client('worker', 'input_bench'))
    for group_size in config.group_sizes:
      path, texts = (
        folder / f'{group_size}-clicks',
        folder / f'{group_size}-texts',
      )
      write_file(path, config.num_records, group_size)
      write_file(texts, config.num_records // 10, group_size, is_texts=True)
      way, of_texts = (
        fastest_grain(file, size, config.turn_s, config.grain_threads)
        for file, size in ((path, batch), (texts, 0))
      )
      sides = {
        'local': local(path, batch, shard_size),
        'service': service(path, batch, shard_size, client),
        'grain': plain_grain(path, batch, **way),
        'grain_in_order': plain_grain(path, batch, **way, is_shuffled=False),
      }
      packing = {
        'held_back': held_back(texts, shard_size // 16),
        'grain': plain_grain(texts, 0, **of_texts),
      }
      for turns, size, how in ((sides, batch, way), (packing, 0, of_texts)):
        rates = compare(turns, size, config.turn_s, config.num_turns)
        for line in lines_of(rates):
          line |= {'group_size': group_size, 'grain': how}
          harness.emit(line | facts)
          key = f'{line["ledger"]}_ratio'
          worst[key] = min(worst.get(key, line['ratio']), line['ratio'])
  harness.emit({'case': 'summary'} | worst | facts)


if __name__ == '__main__':
  harness.run(main, Config())
