# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Episodes: batches of support and query rows from task records.

A record holds all rows of one task (a user). An episode is a support and a
query drawn from it. Episodes are packed into batches of a fixed layout, so that
a step compiles once and processes need not agree on shapes:

    {'ids': {bucket: {'support': {feature: int32 [T, S] or [T, S, K]},
                      'query': {feature: int32 [T, Q] or [T, Q, K]}}},
     'episodes': {bucket: {'support': {'label': [T, S], 'mask': [T, S]},
                           'query': {'label': [T, Q], 'mask': [T, Q]},
                           'task': int32 [T], 'weight': float32 [T]}}}

A bucket has T slots for tasks of up to S support rows. A task may use a larger
slot than it needs; an empty slot has weight 0. Padding has id -1 and mask 0. As
in G-Meta's Meta-IO (Xiao et al. 2023), batches are consistent with tasks; the
layout is our own. A batch never mixes rows of different tasks, and the reader
does all grouping on the host.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from antjax.meta import task_block
from antjax.meta.episode_config import EpisodeConfig

Record = Mapping[str, Any]
Batch = dict[str, Any]


def block_of(
  records: Sequence[Record], config: EpisodeConfig, keys: Sequence[int]
) -> task_block.Block:
  """Converts task records to one block.

  Args:
    records: Dicts {'task': int, 'num_query': int or absent, label: [n],
      features: [n], [n, K] or one value for all rows}.
    config: Settings with the columns to use.
    keys: Keys of the records.

  Raises:
    ValueError: A column is missing or its length is not the label's.
  """
  wanted = list(config.columns)
  for record in records:
    missing = [name for name in ('task', *wanted) if name not in record]
    if missing:
      raise ValueError(
        f'block_of: the record has no {", ".join(missing)}; it has'
        f' {", ".join(sorted(record))}. Name its columns in EpisodeConfig.'
      )
  if config.split == 'time' and all(config.time in r for r in records):
    wanted.append(config.time)
  num_rows = np.array([len(r[config.label]) for r in records], np.int64)
  rows: dict[str, np.ndarray] = {}
  tasks = {
    'task': np.array([r['task'] for r in records]),
    'num_query': np.array([r.get('num_query', 0) for r in records], np.int64),
    'first_row': np.cumsum(num_rows) - num_rows,
    'num_rows': num_rows,
    task_block.KEY: np.array(keys, np.int64),
  }
  for name in dict.fromkeys(wanted):
    columns = [np.asarray(r[name]) for r in records]
    if all(column.ndim == 0 for column in columns):
      tasks[name] = np.stack(columns)
      continue
    width = config.features.get(name, 1)
    for i, size in enumerate(num_rows.tolist()):
      shape = (size,) if width == 1 else (size, width)
      if columns[i].ndim == 0:
        columns[i] = np.broadcast_to(columns[i], shape[:1])
      if columns[i].shape != shape:
        raise ValueError(
          f'block_of: column {name!r} of task {records[i]["task"]} has shape'
          f' {columns[i].shape}; {shape} is needed (rows of {config.label!r} x'
          ' values of the feature in EpisodeConfig).'
        )
    rows[name] = np.concatenate(columns)
  return {'rows': rows, 'tasks': tasks}


def make_batch(
  slots: Mapping[str, Sequence[task_block.SplitTasks]], config: EpisodeConfig
) -> Batch:
  """Lays out tasks, given by bucket, in one batch; see the module."""
  ids, episodes = {}, {}
  for bucket in config.buckets:
    ids[bucket.name], episodes[bucket.name] = task_block.fill(
      slots.get(bucket.name, ()), bucket, config
    )
  return {'ids': ids, 'episodes': episodes}


def with_task_rows(
  batch: Batch,
  *,
  tables: Mapping[str, str] | None = None,
  num_ids: Mapping[str, int] | None = None,
) -> Batch:
  """Groups each task's ids, so that the inner loop can adapt its rows.

  Replaces the ids of support and query by the distinct ids of the task,
  `ids[bucket]['task_rows'][feature]`, [T, U], and positions in them,
  `episodes[bucket][part]['index'][feature][feature]`. Support and query then
  read the same adapted row, and a row that only the query uses does not change.
  U is the maximum that can occur, so that shapes are fixed.

  The input batch is not changed.

  Args:
    batch: Batch of episodes; map this function over their dataset.
    tables: Feature -> its table, for features that share one. They then share
      rows, under the name of the first of them. None: each feature has its own
      table.
    num_ids: Feature -> number of its ids, which bounds U; not for keys.

  Raises:
    ValueError: A task has more distinct ids than `num_ids`.
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
  """Distinct ids per task [T, U], padded with -1, and positions [T, n]."""
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
  """Number of support and query rows in a batch, without padding."""
  return int(
    sum(
      np.sum((part['mask'] > 0) & (episodes['weight'][:, None] > 0))
      for episodes in batch['episodes'].values()
      for part in (episodes['support'], episodes['query'])
    )
  )
