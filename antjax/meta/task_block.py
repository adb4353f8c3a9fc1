# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Splits and lays out blocks of task records, column by column.

A block has many tasks as numpy columns, such as `antjax.data.records` returns
without copies:

    {'rows': {column: [R] or [R, K]},
     'tasks': {'task', 'first_row', 'num_rows': [N], column: [N],
               and if known 'num_query', 'record_key': [N]}}

The rows of a task are adjacent, from `first_row` on; a column of 'tasks'
applies to all rows of a task. Nothing here loops over rows or, except for the
last few of a block, over tasks. Shape suffixes: R = rows of a block, N = its
tasks, T = slots of a bucket, S = rows of a slot, K = values of a feature.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from absl import logging
import numpy as np

from antjax.meta import task_draws
from antjax.meta.episode_config import Bucket, EpisodeConfig

_PARTS = ('support', 'query')
KEY = 'record_key'  # Column of tasks with the keys of their records.

Block = Mapping[str, Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class SplitTasks:
  """Tasks whose rows are split into support and query.

  Attributes:
    rows: Column -> [R] or [R, K].
    values: Column of tasks -> [N].
    task: Ids of the tasks, [N].
    key: Keys of their records, which include the epoch, or -1, [N].
    support, num_support: First row and number of rows of the support, [N].
    query, num_query: The same for the query, [N].
    draws: Seeds of id dropout, uint64 [N]; 0: no dropout.
  """

  rows: Mapping[str, np.ndarray]
  values: Mapping[str, np.ndarray]
  task: np.ndarray
  key: np.ndarray
  support: np.ndarray
  num_support: np.ndarray
  query: np.ndarray
  num_query: np.ndarray
  draws: np.ndarray

  @property
  def num_tasks(self) -> int:
    """Number of tasks, N."""
    return len(self.task)

  def __getitem__(self, chosen: Any) -> 'SplitTasks':
    """Selects tasks by a slice, a mask or indices; keeps all rows."""
    fields = {
      field.name: getattr(self, field.name)[chosen]
      for field in dataclasses.fields(self)
      if field.name not in ('rows', 'values')
    }
    values = {name: column[chosen] for name, column in self.values.items()}
    return dataclasses.replace(self, values=values, **fields)


def is_block(record: Mapping[str, Any]) -> bool:
  """Whether this is a block, not the record of one task."""
  return isinstance(record.get('rows'), Mapping)


def split(block: Block, config: EpisodeConfig) -> SplitTasks:
  """Splits each task of a block into support and query.

  A task with `num_query` > 0 keeps its split: its last rows are the query.
  Otherwise the split is random, drawn from (seed, record key, task), or by
  time: the latest rows are the query, and among rows of equal time the last
  ones. A support larger than the largest bucket is reduced to a random subset,
  or, by time, to the latest rows.

  Tasks that are too short for an episode are left out.

  Raises:
    ValueError: A column is missing or has another shape.
  """
  tasks = block['tasks']
  task, num_rows = tasks['task'], tasks['num_rows'].astype(np.int64)
  given = np.minimum(tasks.get('num_query', 0), num_rows)
  key = tasks.get(KEY, np.full_like(num_rows, -1))
  is_given = given > 0
  rows = _row_columns(block, config, needs_time=not is_given.all())
  max_support = config.buckets[-1].support_size
  room = np.where(is_given, given, num_rows - config.min_support)
  num_query = np.minimum(room, config.query_size)
  held = np.where(is_given, given, num_query)  # Rows outside the support.
  total = num_rows - held
  num_support = np.minimum(total, max_support)
  is_cut = (total > max_support) | (given > config.query_size)
  if is_cut.any():
    i = int(np.argmax(is_cut))
    _log_cut(task[i], total[i], held[i], config)
  draws = task_draws.seeds(config.seed, key, task)
  stop = tasks['first_row'] + num_rows
  if config.split == 'time':
    order = _time_order(rows.get(config.time), tasks, is_given)
  else:
    # All rows of a task, or those of a given support that is too long.
    shuffled = np.where(is_given, total * (total > max_support), num_rows)
    order = task_draws.shuffle(
      len(rows[config.label]), tasks['first_row'], shuffled, draws
    )
  if order is not None:
    rows = {name: _gather(column, order) for name, column in rows.items()}
  return SplitTasks(
    rows,
    {name: tasks[name] for name in config.columns if name not in rows},
    task,
    key,
    support=stop - held - num_support,
    num_support=num_support,
    query=stop - num_query,
    num_query=num_query,
    draws=np.where(is_given, np.uint64(0), draws),
  )[num_query > 0]


def _log_cut(
  task: int, num_support: int, num_query: int, config: EpisodeConfig
) -> None:
  """Logs, once, that a task has more rows than the slots."""
  logging.log_first_n(
    logging.INFO,
    'Episodes: task %d has %d support and %d query rows; slots hold %d and %d.'
    ' A subset of the support is used (random, or the latest rows with'
    ' split=time), and the last rows of the query (logged once; other tasks may'
    ' be cut too).',
    1,
    task,
    num_support,
    num_query,
    config.buckets[-1].support_size,
    config.query_size,
  )


def _row_columns(
  block: Block, config: EpisodeConfig, *, needs_time: bool
) -> dict[str, np.ndarray]:
  """The block's row columns that `config` uses, checked."""
  tasks, rows = block['tasks'], block['rows']
  wanted = list(config.columns)
  if config.split == 'time' and needs_time:
    wanted.append(config.time)
  missing = [name for name in wanted if name not in {**rows, **tasks}]
  if missing:
    raise ValueError(
      f'task_block.split: the block has no {", ".join(missing)}; it has'
      f' {", ".join(sorted({**rows, **tasks}))}. Name its columns in'
      ' EpisodeConfig.'
    )
  for name in wanted:
    width = config.features.get(name, 1)
    needed = () if width == 1 else (width,)
    column = {**tasks, **rows}[name]
    found = column.shape[1:]
    if name in config.features:
      _check_ids(name, column, config)
    if found != needed or (name == config.label and name not in rows):
      raise ValueError(
        f'task_block.split: column {name!r} holds values of shape'
        f' {found}; needed: {needed}, as EpisodeConfig says, and one label a'
        ' row.'
      )
  return {name: rows[name] for name in dict.fromkeys(wanted) if name in rows}


def _check_ids(name: str, column: np.ndarray, config: EpisodeConfig) -> None:
  """Raises ValueError if ids are not integers, or would overflow."""
  if not column.size or np.can_cast(column.dtype, config.id_type):
    return
  wrong = column.ravel()[:1]
  if np.issubdtype(column.dtype, np.integer):
    most = np.iinfo(config.id_type).max
    wrong = column[abs(column) > most]
  if len(wrong):
    raise ValueError(
      f'Episodes: feature {name!r} holds {wrong[0]} ({column.dtype}); ids are'
      f' {np.dtype(config.id_type).name}. Map values to ids first, or, for'
      ' integer keys of a vocabulary, use EpisodeConfig(with_keys=True).'
    )


def _time_order(time, tasks, is_given):
  """Order of rows by task and time, or None if they are in this order."""
  if time is None:
    return None
  first, num_rows = tasks['first_row'][~is_given], tasks['num_rows'][~is_given]
  is_first = np.zeros(len(time), bool)
  is_first[tasks['first_row'][tasks['num_rows'] > 0]] = True
  if not ((time[1:] < time[:-1]) & ~is_first[1:]).any():
    return None
  # Rows of other tasks, or of a given split, do not move.
  group = np.arange(len(time))
  group[task_draws.ranges(first, num_rows)] = np.repeat(first, num_rows)
  return np.lexsort((time, group))


def _gather(column, order):
  """column[order], moving the values of a row together."""
  whole = _as_scalars(column)
  if whole is None:
    return column[order]
  moved = np.take(whole, order, mode='clip')
  return moved.view(column.dtype).reshape(column.shape)


def _as_scalars(array):
  """Views the last dim of [R, K] as one value; None if impossible."""
  if array.ndim == 1:
    return array
  if not array.flags.c_contiguous:
    return None
  whole = np.dtype((np.void, array.shape[-1] * array.itemsize))
  return array.view(whole)[..., 0]


def fill(
  pieces: Sequence[SplitTasks], bucket: Bucket, config: EpisodeConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Lays out at most `bucket.num_slots` tasks in the slots of a bucket.

  Returns:
    ids[bucket] and episodes[bucket], see `antjax.meta.episodes`.
  """
  ids: dict[str, Any] = {}
  laid: dict[str, Any] = {}
  for part, size in zip(_PARTS, (bucket.support_size, config.query_size)):
    ids[part], laid[part] = _fill_part(
      pieces, part, (bucket.num_slots, size), config
    )
  num_tasks = sum(piece.num_tasks for piece in pieces)
  laid['task'] = np.full(bucket.num_slots, -1, np.int32)
  laid['weight'] = np.zeros(bucket.num_slots, np.float32)
  if num_tasks:
    laid['task'][:num_tasks] = np.concatenate([p.task for p in pieces])
    laid['weight'][:num_tasks] = 1
  return ids, laid


def _fill_part(pieces, part, shape, config):
  # Features of one id form one array, so that one call blanks them all.
  single = [name for name, width in config.features.items() if width == 1]
  stack = np.empty((len(single), *shape), config.id_type)
  ids = dict(zip(single, stack))
  for name, width in config.features.items():
    if width > 1:
      ids[name] = np.empty((*shape, width), config.id_type)
  label = np.empty(shape, np.float32)
  numeric = np.empty((*shape, len(config.numeric)), np.float32)
  targets = {**ids, config.label: label}
  targets |= {n: numeric[..., i] for i, n in enumerate(config.numeric)}
  sizes = np.zeros(shape[0], np.int32)
  start = 0
  for tasks in pieces:
    slots = slice(start, start + tasks.num_tasks)
    start = slots.stop
    first, sizes[slots] = getattr(tasks, part), getattr(tasks, f'num_{part}')
    has_window = first + shape[1] <= len(tasks.rows[config.label])
    if has_window.all():
      has_window = None
    for name, array in targets.items():
      _fill_column(array[slots], tasks, name, first, sizes[slots], has_window)
    _drop_ids(ids, slots, tasks, part, config)
  is_filled = np.arange(shape[1], dtype=np.int32) < sizes[:, None]
  is_empty = ~is_filled
  np.copyto(stack, -1, where=is_empty)
  np.copyto(label, 0, where=is_empty)
  for name, width in config.features.items():
    if width > 1:  # As one value, since a broadcast mask is slow.
      blank = _as_scalars(np.full((1, width), -1, config.id_type))
      np.copyto(_as_scalars(ids[name]), blank, where=is_empty)
  laid = {'label': label, 'mask': is_filled.astype(np.float32)}
  if config.numeric:
    numeric[is_empty] = 0
    laid['numeric'] = numeric
  return {name: ids[name] for name in config.features}, laid


def _fill_column(out, tasks, name, first, size, has_window):
  """Fills out [T, S] or [T, S, K] with rows from `first` [T] on.

  A full slot of rows is copied, even beyond its task: the caller blanks rows
  after `size`. So all slots are one copy of windows. Those without a full
  window, the last ones of a block, are filled one by one.
  """
  if name in tasks.values:
    out[:] = tasks.values[name][:, None]
    return
  column = tasks.rows[name]
  length = out.shape[1]
  if has_window is None:
    out[:] = _windows(column, length)[first]
    return
  for slot in np.flatnonzero(~has_window):
    rows = slice(first[slot], first[slot] + size[slot])
    out[slot, : size[slot]] = column[rows]
  if has_window.any():
    out[has_window] = _windows(column, length)[first[has_window]]


def _windows(column, length):
  """Views [R] or [R, K] as its windows, [R - S + 1, S] or [.., S, K]."""
  # Same as numpy's sliding_window_view, at a tenth of its fixed cost.
  column = np.ascontiguousarray(column)
  return np.ndarray(
    (len(column) - length + 1, length, *column.shape[1:]),
    column.dtype,
    column,
    strides=(column.strides[0], *column.strides),
  )


def _drop_ids(ids, slots, tasks, part, config):
  """Applies the id dropout of `EpisodeConfig` to tasks with draws."""
  if not tasks.draws.any():
    return
  drawn = tasks.draws[:, None]
  for number, (name, width) in enumerate(config.features.items(), 1):
    share = config.id_dropout.get(name, 0.0)
    task_share = config.task_id_dropout.get(name, 0.0)
    if not (share or task_share):
      continue
    # Separate ranges of random numbers: 2**32 per feature, 2**30 per part.
    base = number << 32
    places = base + (_PARTS.index(part) << 30) + np.arange(ids[name].shape[1])
    whole = task_draws.uniform(drawn, np.array([base + (3 << 30)])) < task_share
    dropped = whole | (task_draws.uniform(drawn, places) < share)
    # The unknown id 0, as a single value of a multi-valued feature.
    unknown: Any = 0 if width == 1 else np.r_[0, np.full(width - 1, -1)]
    ids[name][slots][dropped & (drawn > 0)] = unknown
