# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Episodes: task records become batches of support and query rows.

A record holds all rows of one task (a user). An episode is a support and a
query drawn from it. Episodes are packed into batches of one fixed layout, so
that a step compiles once and processes need not agree on shapes:

    {'ids': {bucket: {'support': {feature: int32 [T, S] or [T, S, K]},
                      'query': {feature: int32 [T, Q] or [T, Q, K]}}},
     'episodes': {bucket: {'support': {'label': [T, S], 'mask': [T, S]},
                           'query': {'label': [T, Q], 'mask': [T, Q]},
                           'task': int32 [T], 'weight': float32 [T]}}}

A bucket has T slots for tasks of up to S support rows. A task may sit in a
larger slot than it needs; an empty slot has weight 0. Padding is id -1, mask 0.
The aim is that of G-Meta's Meta-IO (Xiao et al. 2023), batches consistent with
tasks; the layout is our own: a batch never mixes rows of a task
with another's, and the reader does all grouping off the device.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Literal

import numpy as np

from antjax.meta import task_block

Record = Mapping[str, Any]
Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Bucket:
  """Task slots of one size.

  Attributes:
    support_size: support rows a slot holds, S.
    num_slots: slots in a batch of this process, T; a multiple of its devices
      times the micro-batches.
  """

  support_size: int
  num_slots: int

  @property
  def name(self) -> str:
    """The bucket's key in a batch."""
    return f's{self.support_size}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
  """How records become batches.

  Attributes:
    buckets: the slots, by rising support size.
    features: feature -> the most values it has (1 = one id a row, more = a list
      of ids, padded with -1). A record's scalar feature holds for all its rows.
    numeric: names of float columns, joined to the input 'numeric' [T, S, N].
    label: name of the label column.
    query_size: query rows of an episode, Q; fewer where a task is short.
    split: 'random', or 'time': the support before the query in `time`.
    time: name of the column by which 'time' splits; it need be no feature.
    min_support: a training record too short for this many support rows and one
      query row is left out (counted and logged).
    id_dropout: feature -> share of training rows whose id becomes 0, the
      unknown id, so that the model learns to do without it.
    task_id_dropout: feature -> share of training tasks that lose all their ids
      of it, as in a task of new items only.
    seed: of the splits and the dropout; with the record's key it fixes an
      episode, wherever and whenever it is made.
    with_keys: features hold the keys of `Trainer(vocabularies=...)`, int64,
      which become ids in its steps. Dropout needs ids.
  """

  buckets: tuple[Bucket, ...]
  features: Mapping[str, int]
  numeric: tuple[str, ...] = ()
  label: str = 'rating'
  query_size: int = 10
  min_support: int = 3
  split: Literal['random', 'time'] = 'random'
  time: str = 'timestamp'
  id_dropout: Mapping[str, float] = dataclasses.field(default_factory=dict)
  task_id_dropout: Mapping[str, float] = dataclasses.field(default_factory=dict)
  seed: int = 0
  with_keys: bool = False

  def __post_init__(self):
    sizes = [bucket.support_size for bucket in self.buckets]
    if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
      raise ValueError(
        f'EpisodeConfig(buckets={self.buckets}): at least one bucket is'
        ' needed, by rising support_size.'
      )
    if min(bucket.num_slots for bucket in self.buckets) < 1:
      raise ValueError(
        f'EpisodeConfig(buckets={self.buckets}): num_slots must be positive.'
      )
    if self.query_size < 1 or not 0 <= self.min_support <= sizes[-1]:
      raise ValueError(
        f'EpisodeConfig(query_size={self.query_size}, min_support='
        f'{self.min_support}): a query needs a row, and min_support must be'
        f' 0 to {sizes[-1]}, the largest bucket.'
      )
    if self.split not in ('random', 'time'):
      raise ValueError(
        f"EpisodeConfig(split={self.split!r}): needed: 'random' or 'time'."
      )
    for field in ('id_dropout', 'task_id_dropout'):
      shares = getattr(self, field)
      unknown = set(shares) - set(self.features)
      if unknown:
        raise ValueError(
          f'EpisodeConfig({field}=...): {sorted(unknown)} are not features; the'
          f' features are {sorted(self.features)}.'
        )
      if self.with_keys and any(shares.values()):
        raise ValueError(
          f'EpisodeConfig({field}={dict(shares)}, with_keys=True): id 0 is'
          ' unknown, key 0 is a key like others; leave the dropout out.'
        )
      if not all(0 <= share <= 1 for share in shares.values()):
        raise ValueError(
          f'EpisodeConfig({field}={dict(shares)}): a share is 0 to 1.'
        )

  @property
  def num_tasks(self) -> int:
    """Task slots in a batch of this process."""
    return sum(bucket.num_slots for bucket in self.buckets)

  @property
  def id_type(self) -> type[np.signedinteger]:
    """Type of ids in a batch."""
    return np.int64 if self.with_keys else np.int32


@dataclasses.dataclass(frozen=True)
class Episode:
  """One task: rows of its record, the support before the query.

  Attributes:
    task: id of the task.
    columns: column -> array [rows, ...].
    num_support: how many of the rows are support.
    key: the key of its record, which names the epoch too, or -1.
  """

  task: int
  columns: dict[str, np.ndarray]
  num_support: int
  key: int = -1

  @property
  def num_tasks(self) -> int:
    """1: an episode is one task."""
    return 1


# What a batch is made of: single episodes, or tasks of a block.
Piece = Episode | task_block.Tasks


def make_episode(
  record: Record, config: EpisodeConfig, *, key: int = -1
) -> Episode | None:
  """Splits a record into support and query.

  A record with `num_query` > 0 keeps its split: its last rows are the query.
  Otherwise the split is random, anew in each epoch, or in time: the latest rows
  are the query, and of rows of equal time those that stand later. A record with
  more support rows than the largest bucket gives a random subset of them, or
  in time the latest.

  Args:
    record: {'task': int, 'num_query': int, label: [n], features: [n], [n, K]
      or scalar}.
    config: what to make of it.
    key: what draws a random split: another one in each epoch for another split.

  Returns:
    The episode, or None if the record is too short for one.

  Raises:
    ValueError: If a column is missing or its length is not the label's.
  """
  columns = _columns(record, config)
  num_rows = len(columns[config.label])
  num_query = int(record.get('num_query', 0))
  rng = np.random.default_rng([config.seed, key + 1, int(record['task']) + 1])
  max_support = config.buckets[-1].support_size
  if num_query:
    order = np.arange(num_rows)
    support, query = order[:-num_query], order[-num_query:]
    query = query[-config.query_size :]
  else:
    num_query = min(config.query_size, num_rows - config.min_support)
    if num_query < 1:
      return None
    if config.split == 'time':
      order = np.argsort(_time(record, config, num_rows), kind='stable')
      support, query = order[:-num_query], order[-num_query:]
    else:
      order = rng.permutation(num_rows)
      query, support = order[:num_query], order[num_query:]
  if len(support) > max_support or len(query) < num_query:
    task_block.log_cut(record['task'], len(support), num_query, config)
  if len(support) > max_support and config.split == 'time':
    support = support[-max_support:]
  elif len(support) > max_support:
    support = np.sort(rng.permutation(support)[:max_support])
  rows = np.concatenate([support, query])
  columns = {name: column[rows] for name, column in columns.items()}
  if not record.get('num_query', 0):
    for name, width in config.features.items():
      share = config.id_dropout.get(name, 0.0)
      if rng.random() < config.task_id_dropout.get(name, 0.0):
        share = 1.0
      if share:
        dropped = rng.random(len(rows)) < share
        columns[name] = columns[name].copy()
        columns[name][dropped] = task_block.unknown(width)
  return Episode(int(record['task']), columns, len(support), key)


def _time(record, config, num_rows):
  time = np.asarray(record.get(config.time))
  if time.shape != (num_rows,):
    raise ValueError(
      f'make_episode: split=time needs the times {config.time!r} of the'
      f' {num_rows} rows of task {record["task"]}; the record has'
      f' {", ".join(sorted(record))}. Name the column in EpisodeConfig.time.'
    )
  return time


def _columns(record, config):
  names = [*config.features, *config.numeric, config.label]
  missing = [name for name in ('task', *names) if name not in record]
  if missing:
    raise ValueError(
      f'make_episode: the record has no {", ".join(missing)}; it has'
      f' {", ".join(sorted(record))}. Name its columns in EpisodeConfig.'
    )
  num_rows = len(record[config.label])
  columns = {}
  for name in names:
    column = np.asarray(record[name])
    if column.ndim == 0:
      column = np.broadcast_to(column, (num_rows,))
    width = config.features.get(name, 1)
    shape = (num_rows,) if width == 1 else (num_rows, width)
    if column.shape != shape:
      raise ValueError(
        f'make_episode: column {name!r} of task {record["task"]} has shape'
        f' {column.shape}; {shape} is needed (rows of'
        f' {config.label!r} x values of the feature in EpisodeConfig).'
      )
    if name in config.features:
      task_block.check_ids(name, column, config)
      columns[name] = column.astype(config.id_type)
    else:
      columns[name] = column.astype(np.float32)
  return columns


def make_batch(
  slots: Mapping[str, Sequence[Piece]], config: EpisodeConfig
) -> Batch:
  """Lays out tasks, given by bucket, as one batch; see the module."""
  ids, episodes = {}, {}
  for bucket in config.buckets:
    pieces = slots.get(bucket.name, [])
    tasks = [p for p in pieces if isinstance(p, task_block.Tasks)]
    single = [p for p in pieces if isinstance(p, Episode)]
    if single:
      tasks.append(_as_tasks(single, config))
    ids[bucket.name], episodes[bucket.name] = task_block.fill(
      tasks, bucket, config
    )
  return {'ids': ids, 'episodes': episodes}


def _as_tasks(episodes, config):
  """Returns episodes, at least one, as tasks of a block of their own."""
  sizes = np.array([len(e.columns[config.label]) for e in episodes])
  num_support = np.array([e.num_support for e in episodes])
  first = np.cumsum(sizes) - sizes
  return task_block.Tasks(
    rows={
      name: np.concatenate([e.columns[name] for e in episodes])
      for name in episodes[0].columns
    },
    values={},
    task=np.array([e.task for e in episodes]),
    key=np.array([e.key for e in episodes]),
    support=first,
    num_support=num_support,
    query=first + num_support,
    num_query=sizes - num_support,
    draws=np.zeros(len(episodes), np.uint64),  # The ids are dropped already.
  )


def with_task_rows(
  batch: Batch,
  *,
  tables: Mapping[str, str] | None = None,
  num_ids: Mapping[str, int] | None = None,
) -> Batch:
  """Groups each task's ids, so that the inner loop can adapt its rows.

  Replaces the ids of support and query by the distinct ids of the task,
  ids[bucket]['task_rows'][feature] [T, U], and positions in them,
  episodes[bucket][part]['index'][feature][feature]. Support and query then read
  the same adapted row, and a row that only the query uses stays as it is. U is
  the most that can occur, so that shapes stay fixed.

  Args:
    batch: a batch of episodes; map this function over their dataset.
    tables: feature -> its table, for features that share one: they share their
      rows, which stand under the name of the first of them. None: each feature
      has a table of its own.
    num_ids: feature -> the number of its ids, which bounds U; not of keys.

  Returns:
    The new batch; the old one is not changed.

  Raises:
    ValueError: A task has more distinct ids than `num_ids` says there are.
  """
  ids, episodes = {}, {}
  for bucket, parts in batch['ids'].items():
    groups: dict[str, list[str]] = {}
    for name in parts['support']:
      groups.setdefault((tables or {}).get(name, name), []).append(name)
    rows = {}
    index: dict[str, Any] = {'support': {}, 'query': {}}
    for names in groups.values():
      first = names[0]
      pieces = [(part, name) for part in index for name in names]
      arrays = [parts[part][name] for part, name in pieces]
      flat = np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)
      distinct, position = _distinct(flat)
      most = (num_ids or {}).get(first, flat.shape[1])
      if position.max(initial=-1) >= most:
        raise ValueError(
          f'with_task_rows(num_ids=...): a task has {position.max() + 1}'
          f' distinct ids of {first!r}, more than the {most} that there are.'
        )
      rows[first] = distinct[:, :most]
      offset = 0
      for (part, name), array in zip(pieces, arrays, strict=True):
        size = array[0].size
        piece = position[:, offset : offset + size].reshape(array.shape)
        index[part].setdefault(first, {})[name] = piece
        offset += size
    ids[bucket] = {'task_rows': rows}
    old = batch['episodes'][bucket]
    new = {part: {**old[part], 'index': index[part]} for part in index}
    episodes[bucket] = {**old, **new}
  return {'ids': ids, 'episodes': episodes}


def _distinct(ids):
  """Returns distinct ids a line [T, U], padded by -1, and positions [T, n]."""
  num_tasks, width = ids.shape
  order = np.argsort(ids, axis=1, kind='stable')
  ordered = np.take_along_axis(ids, order, axis=1)
  new = np.ones((num_tasks, width), bool)
  new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
  new &= ordered >= 0
  rank = np.cumsum(new, axis=1) - 1
  distinct = np.full((num_tasks, width), -1, ids.dtype)
  lines, columns = np.nonzero(new)
  distinct[lines, rank[lines, columns]] = ordered[lines, columns]
  position = np.empty((num_tasks, width), np.int32)
  np.put_along_axis(position, order, np.where(ordered >= 0, rank, -1), axis=1)
  return distinct, position


def count_rows(batch: Batch) -> int:
  """Number of support and query rows in a batch, padding left out."""
  return int(
    sum(
      np.sum((part['mask'] > 0) & (episodes['weight'][:, None] > 0))
      for episodes in batch['episodes'].values()
      for part in (episodes['support'], episodes['query'])
    )
  )
