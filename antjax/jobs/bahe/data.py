# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of launch/train_bahe.py: clicks and histories to batches."""

from collections.abc import Iterator, Mapping
import contextlib
import functools
from typing import Any

import grain
import jax
import numpy as np

from antjax.ctr.bahe import batches
from antjax.ctr.bahe.model import BehaviorSizes
from antjax.data import output_folder, shuffled_index
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.bahe import users as bahe_users
from antjax.jobs.bahe.config import Config
from antjax.jobs.clicks.rows import COLUMNS, SplitRows
from antjax.report import progress

# Marks a record with its number; see `LeasedDataset`.
_KEY = 'record_key'
_RUN = 64  # Neighbors among the examples that --eval_examples chooses.


class Clicks:
  """The examples of one run.

  Attributes:
    description: Content of the data folder's dataset.json.
    vocabulary: Texts of the behaviors.
    sizes: Sizes that the model needs.
    lengths: Behaviors taken of each sequence.
    events: Behaviors of all users, of each sequence.
    user_vectors: Name of the export of given user vectors; '' without.
    rows: Examples of this process in one element of its batches.
  """

  def __init__(self, config: Config, job: job_lib.Job):
    self._config, self._job = config, job
    folder, self.description = output_folder.open_view(config.data, 'examples')
    self.vocabulary = BehaviorVocabulary.open(folder / 'behaviors')
    sequences = self.description['sequences']
    # Bags of ids, which are no texts, come last.
    names = [s['name'] for s in sequences if not s.get('is_bag')]
    self.lengths = _lengths(config.max_behaviors, names)
    output_folder.check_files(folder, self.description, 'events/')
    self.events = [
      np.load(folder / 'events' / f'{name}.npy', mmap_mode='r')
      for name in names
    ]
    sources = {
      s: output_folder.open_split(folder, s) for s in bahe_users.SPLITS
    }
    self._train = sources['train']
    self.splits = {s: SplitRows(x, COLUMNS) for s, x in sources.items()}
    self._users = bahe_users.UserVectors.open(
      config.user_embeddings,
      {split: len(rows) for split, rows in self.splits.items()},
      run_identity.of_data(self.description),
    )
    self.user_vectors = self._users.name if self._users else ''
    self.sizes = BehaviorSizes(
      num_users=self.description['num_users'],
      num_items=self.description['num_items'],
      num_behaviors=self.description['num_behaviors'],
      columns={c['name']: c['num_ids'] for c in self.description['ids']},
      num_numeric=len(self.description['numeric']),
      history_lengths=self.lengths,
      user_vector_dim=self._users.dim if self._users else 0,
    )
    self._num_devices = len(job.mesh.local_devices)
    self.rows, self._num_parts = job.batch_shape(
      config.batch_size, config.num_micro_batches
    )

  @property
  def rows_per_device(self) -> int:
    """Examples of a device's micro-batch."""
    return self.rows // self._num_parts

  def training(self, prepare: Any) -> grain.IterDataset:
    """Endless batches of this process, by `ClickModel.prepare`."""
    source = shuffled_index.ShuffledRecords(self._train, seed=self._config.seed)
    data = self._job.dataset(
      source,
      shard_size=self._config.shard_size,
      seed=self._config.seed,
      key_field=_KEY,
    )

    def make(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
      index = source.order(np.asarray(columns[_KEY]) % len(source))
      return prepare(
        self._batch('train', columns, index, self.rows), self._num_parts
      )

    return data.batch(self.rows).map(make)

  def evaluation(
    self, split: str, prepare: Any, *, with_index: bool = False, title: str = ''
  ) -> Iterator[dict[str, Any]]:
    """This process's share of a split, once, filled up to whole batches.

    With --eval_examples, of that many in evenly spread runs; with `with_index`
    always of the whole split, and with 'index' int32 [B], the number of the
    example. A title shows a progress bar.
    """
    size = self.rows_per_device * self._num_devices
    limit = 0 if with_index else self._config.eval_examples
    chosen = spread_examples(len(self.splits[split]), limit)
    starts = range(0, len(chosen), size)[jax.process_index() : :]
    mine = starts[:: jax.process_count()]
    bar = progress.Progress(len(mine), name=title) if title else None
    with bar or contextlib.nullcontext():
      for done, first in enumerate(mine, 1):
        index = chosen[first : first + size]
        prepared = prepare(self._read(split, index, size), self._num_devices)
        if with_index:
          prepared['index'] = np.zeros(size, np.int32)
          prepared['index'][: len(index)] = index
        yield prepared
        if bar is not None:  # The other processes do as many.
          bar.update(done, num_examples=size * jax.process_count())

  def _read(self, split: str, index: np.ndarray, size: int) -> batches.Batch:
    """The examples of increasing numbers `index`, filled up to `size`."""
    runs = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1)
    found = [self.splits[split].read(run[0], run[-1] + 1) for run in runs]
    columns = {k: np.concatenate([part[k] for part in found]) for k in COLUMNS}
    return self._batch(split, columns, index, size)

  def example(self, prepare: Any) -> dict[str, Any]:
    """A batch like those of `training`, of the first records."""
    index = np.arange(min(self.rows, len(self.splits['train'])))
    batch = self._read('train', index, self.rows)
    return prepare(batch, self._num_parts)

  def _batch(
    self,
    split: str,
    columns: Mapping[str, np.ndarray],
    index: np.ndarray,
    size: int,
  ) -> batches.Batch:
    count = len(self.events)
    columns = {
      n: x[:, :count] if n in ('starts', 'stops') else x
      for n, x in columns.items()
    }
    batch = batches.make_batch(columns, self.events, self.lengths, size=size)
    if self.standardizer is not None:
      # A missing number is taken for the mean.
      batch['numeric'] = np.nan_to_num(self.standardizer(batch['numeric']))
    if self._users is not None:
      batch['user_vector'] = np.zeros((size, self._users.dim), np.float32)
      batch['user_vector'][: len(index)] = self._users.read(split, index)
    return batch

  @functools.cached_property
  def standardizer(self) -> batches.Standardizer | None:
    """Standardizer of the numeric features, fitted on `train`, if any."""
    if not self.sizes.num_numeric:
      return None
    return batches.Standardizer.of(
      found['numeric'] for found in self.splits['train'].chunks(('numeric',))
    )

  def newest_examples(self) -> dict[int, tuple[str, int]]:
    """User -> (split, number) of the user's last example in time."""
    newest: dict[int, tuple[int, str, int]] = {}
    for split, rows in self.splits.items():
      number = 0
      for found in rows.chunks(('user', 'time')):
        times = found['time'].tolist()
        for user, time in zip(found['user'].tolist(), times, strict=True):
          if user not in newest or newest[user][0] <= time:
            newest[user] = time, split, number
          number += 1
    return {user: (split, i) for user, (_, split, i) in newest.items()}


def spread_examples(num_examples: int, limit: int) -> np.ndarray:
  """Numbers, int64 [at most `limit`], of evenly spread runs of examples.

  Runs, so that users who follow each other in the file keep several examples;
  the choice depends on nothing else. A limit of 0 takes all.
  """
  if not 0 < limit < num_examples:
    return np.arange(num_examples)
  num_runs = -(-limit // _RUN)
  starts = np.arange(num_runs) * (num_examples - _RUN) // max(1, num_runs - 1)
  index = (starts[:, None] + np.arange(_RUN)).reshape(-1)
  return np.unique(index[(index >= 0) & (index < num_examples)])[:limit]


def _lengths(given: tuple[int, ...], names: list[str]) -> tuple[int, ...]:
  """Behaviors to take of each sequence."""
  if len(given) == 1:
    given = given * len(names)
  if len(given) != len(names):
    raise ValueError(
      f'max_behaviors={given}: the data have {len(names)} sequences'
      f' ({", ".join(names)}); give one number for all, or one each.'
    )
  return given
