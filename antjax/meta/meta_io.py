# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-IO: converts a stream of task records to episode batches.

Follows the idea of Meta-IO in G-Meta (Xiao et al. 2023): the reader makes
batches of whole tasks on the host. The stream has records or blocks of records
(see `task_block`), which cost an order of magnitude less per task.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
import itertools
from typing import Any

from absl import logging
import grain
import numpy as np

from antjax.meta import episodes as episodes_lib
from antjax.meta import task_block
from antjax.meta.episode_config import EpisodeConfig

State = dict[str, Any]

# Number of batches of tasks that may wait for a well filled batch.
_PENDING_BATCHES = 3
_GROUP = 64  # Number of records in memory that are split together.


class Packer:
  """Collects tasks until they fill a batch well.

  A batch is ready when all its slots can be filled, or when several batches of
  tasks wait because their sizes do not match the slots.
  """

  def __init__(self, config: EpisodeConfig):
    self._config = config
    self._pending: dict[str, deque[task_block.SplitTasks]] = {
      bucket.name: deque() for bucket in config.buckets
    }
    self._num_waiting = dict.fromkeys(self._pending, 0)  # Number of tasks.

  @property
  def pending(self) -> list[task_block.SplitTasks]:
    """Tasks that were added and are not in a batch yet."""
    return [piece for queue in self._pending.values() for piece in queue]

  def add(self, piece: task_block.SplitTasks) -> None:
    """Queues tasks, each in the smallest bucket that fits it.

    Raises:
      ValueError: A task has more support rows than the largest bucket.
    """
    buckets = self._config.buckets
    largest = np.max(piece.num_support, initial=0)
    if largest > buckets[-1].support_size:
      raise ValueError(
        f'Packer.add: {largest} support rows do not fit the largest bucket,'
        f' {buckets[-1]}.'
      )
    sizes = [bucket.support_size for bucket in buckets]
    chosen = np.searchsorted(sizes, piece.num_support)
    for i, bucket in enumerate(buckets):
      if (chosen == i).any():
        self._pending[bucket.name].append(piece[chosen == i])
        self._num_waiting[bucket.name] += int((chosen == i).sum())

  def ready(self) -> bool:
    """Whether a batch should be taken now."""
    buckets = self._config.buckets
    waiting = np.cumsum([self._num_waiting[bucket.name] for bucket in buckets])
    slots = np.cumsum([bucket.num_slots for bucket in buckets])
    is_full = (waiting >= slots).all()
    return bool(is_full or waiting[-1] >= _PENDING_BATCHES * slots[-1])

  def take(self) -> dict[str, list[task_block.SplitTasks]]:
    """Takes a batch's tasks by bucket: as many as fit, oldest first."""
    buckets = self._config.buckets
    # A slot takes a task of its own bucket first, then the largest of the
    # smaller ones, which also fit.
    slots = {b.name: self._pop(b.name, b.num_slots) for b in buckets}
    for i, bucket in reversed(list(enumerate(buckets))):
      mine = slots[bucket.name]
      for smaller in reversed(buckets[:i]):
        left = bucket.num_slots - sum(piece.num_tasks for piece in mine)
        mine += self._pop(smaller.name, left)
    return slots

  def _pop(self, name, most):
    """Takes up to `most` tasks of a bucket, oldest first."""
    queue, taken = self._pending[name], []
    while most and queue:
      piece = queue.popleft()
      if piece.num_tasks > most:
        queue.appendleft(piece[most:])
        piece = piece[:most]
      taken.append(piece)
      most -= piece.num_tasks
      self._num_waiting[name] -= piece.num_tasks
    return taken


class EpisodeBatches(grain.IterDataset):
  """Batches of episodes over a dataset of task records.

  After the last record it returns the remaining tasks in partly empty batches.
  Its state is its parent's state without the records of tasks that wait for a
  batch, so that a restored iterator reads them again.
  """

  def __init__(
    self,
    parent: grain.IterDataset,
    config: EpisodeConfig,
    *,
    unmark_fn: Callable[[State, list[int]], State] | None = None,
    num_records: int | None = None,
  ):
    """Creates the dataset.

    Args:
      parent: Dataset of records (see `episodes.block_of`) or of blocks. The
        field 'record_key' is a distinct integer for each record and epoch, and
        seeds the split. Without it every epoch has the same split.
      config: Settings of layout and split.
      unmark_fn: Function (parent's state, record keys) -> state as if those
        records had not been read, e.g. `antjax.shards.dataset.unmark_state`.
        None: the state cannot be saved while tasks wait.
      num_records: Number of records of an epoch, if a key is epoch *
        num_records + index, as in `LeasedDataset`. Too short records are then
        reported per epoch, and an epoch with only such records is an error.
        None: they are reported at the end, which an endless dataset never
        reaches.
    """
    super().__init__(parent)
    self._args = config, unmark_fn, num_records

  def __iter__(self) -> grain.DatasetIterator:
    return _EpisodeIterator(self._parent.__iter__(), *self._args)


class _EpisodeIterator(grain.DatasetIterator):
  """See `EpisodeBatches`."""

  def __init__(self, parent, config, unmark_fn, num_records):
    super().__init__(parent)
    self._config = config
    self._unmark_fn = unmark_fn
    self._num_records = num_records
    self._forget()

  def _forget(self):
    self._packer = Packer(self._config)
    self._epoch = -1
    self._num_short = 0  # Too short records of this epoch.
    self._num_in_vain = 0  # Records since the last one with a task.

  def __next__(self) -> episodes_lib.Batch:
    while not self._packer.ready():
      try:
        record = next(self._parent)
      except StopIteration:
        if self._packer.pending:
          break
        self._end_epoch()
        raise
      self._add(record)
    return episodes_lib.make_batch(self._packer.take(), self._config)

  def _add(self, record):
    is_block = task_block.is_block(record)
    # The tasks of a block are of one epoch.
    keys = (record['tasks'] if is_block else record).get(task_block.KEY, -1)
    key = int(np.max(keys, initial=-1))
    if self._num_records and key // self._num_records > self._epoch:
      self._end_epoch()
      self._epoch = key // self._num_records
    block = record
    if not is_block:
      block = episodes_lib.block_of([record], self._config, [key])
    tasks = task_block.split(block, self._config)
    num_read = len(block['tasks']['task'])
    self._num_short += num_read - tasks.num_tasks
    self._num_in_vain = 0 if tasks.num_tasks else self._num_in_vain + num_read
    self._packer.add(tasks)

  def _end_epoch(self):
    """Logs the number of too short records; raises if all of an epoch were."""
    if self._num_records and self._num_in_vain >= self._num_records:
      least = self._config.min_support + 1
      raise ValueError(
        f'EpisodeBatches: the last {self._num_in_vain} records, an epoch or'
        f' more, gave no task: all have fewer than {least} rows,'
        f' min_support={self._config.min_support} and a query row. Prepare data'
        ' with more rows a task, or lower EpisodeConfig.min_support; in'
        ' train_gmeta it is 3, or the largest of --support_sizes if that is'
        ' less.'
      )
    _log_short('EpisodeBatches', self._num_short, self._config)
    self._num_short = 0

  def get_state(self) -> State:
    state = self._parent.get_state()
    pending = self._packer.pending
    if not pending:
      return state
    keys = np.concatenate([p.key for p in pending]).tolist()
    if self._unmark_fn is None or min(keys) < 0:
      raise ValueError(
        f'EpisodeBatches.get_state: {len(keys)} tasks wait for a batch and'
        ' would be lost; pass unmark_fn, and records that hold their key'
        f' as {task_block.KEY!r}, as LeasedDataset(key_field=...) gives.'
      )
    return self._unmark_fn(state, keys)

  def set_state(self, state: State) -> None:
    self._parent.set_state(state)
    self._forget()


def _log_short(name, num_short, config):
  """Logs the number of too short records, if any."""
  if num_short:
    logging.info(
      '%s: %d records left out: fewer than min_support=%d rows and a query'
      ' row.',
      name,
      num_short,
      config.min_support,
    )


def iter_episode_batches(
  records: Iterable[episodes_lib.Record], config: EpisodeConfig
) -> Iterator[episodes_lib.Batch]:
  """Yields batches of records in memory, e.g. for an evaluation.

  The last ones may be partly empty. Records (see `episodes.block_of`) are keyed
  by their index, which seeds their random split.
  """
  packer = Packer(config)
  num_short, records, key = 0, iter(records), 0
  while group := list(itertools.islice(records, _GROUP)):
    keys = range(key, key + len(group))
    tasks = task_block.split(episodes_lib.block_of(group, config, keys), config)
    num_short += len(group) - tasks.num_tasks
    key += len(group)
    packer.add(tasks)
    while packer.ready():
      yield episodes_lib.make_batch(packer.take(), config)
  _log_short('iter_episode_batches', num_short, config)
  while packer.pending:
    yield episodes_lib.make_batch(packer.take(), config)
