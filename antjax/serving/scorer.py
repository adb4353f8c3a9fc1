# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores task records, or one user given by values, with an exported model."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import logging
import numpy as np

from antjax.serving.loader import Model

Record = Mapping[str, Any]
Columns = dict[str, np.ndarray]


def score(
  model: Model,
  records: Iterable[Record],
  *,
  label: str = 'rating',
  batch_size: int = 64,
) -> Iterator[Columns]:
  """Scores the query rows of records, users of equal support size together.

  The last 'num_query' rows of a record are its query and the others its
  support, to which the model adapts. A record without 'num_query', or with 0,
  is a query whole, and is scored unadapted. Of more support rows than the
  model takes the last ones are used.

  Args:
    model: The model.
    records: 'task', 'num_query', the label, features [n], [n, K] or scalar.
    label: Name of the label.
    batch_size: Users scored together; a power of two wastes nothing.

  Yields:
    'task' int64 [m], 'row' int64 [m] in the record, and the model's columns
    float32 [m], of all query rows of a batch.

  Raises:
    ValueError: A record lacks a column, or its ids are beyond the model's.
  """
  sizes = model.manifest['support_sizes']
  waiting: dict[int, list[_Task]] = {}
  for record in records:
    task = _Task(model, record, label, sizes[-1])
    size = next(n for n in (0, *sizes) if n >= task.num_support)
    queue = waiting.setdefault(size, [])
    queue.append(task)
    if len(queue) == batch_size:
      yield _score(model, queue, size, batch_size)
      waiting[size] = []
  for size, queue in waiting.items():
    if queue:
      yield _score(model, queue, size, batch_size)


class _Task:
  """A record, cut into support and query."""

  def __init__(self, model: Model, record: Record, label: str, most: int):
    names = [*model.manifest['features'], *model.manifest['numeric']]
    missing = [n for n in ('task', label, *names) if n not in record]
    if missing:
      raise ValueError(
        f'score: a record has no {", ".join(missing)}; it has'
        f' {", ".join(sorted(record))}.'
      )
    num_rows = len(record[label])
    num_query = int(record.get('num_query', 0)) or num_rows
    self.start = num_rows - num_query
    self.num_rows = num_rows
    self.num_support = min(self.start, most)
    if self.start > most:
      logging.log_first_n(
        logging.INFO,
        'score: task %d has %d support rows; its last %d are used, as the model'
        ' takes no more (said once).',
        1,
        int(record['task']),
        self.start,
        most,
      )
    self.task = int(record['task'])
    self.label = np.asarray(record[label], np.float32)
    self.columns = {name: np.asarray(record[name]) for name in names}

  def fill(self, arrays: Columns, at: int, rows: slice) -> None:
    """Puts rows of the features into line `at` of padded arrays."""
    for name, array in arrays.items():
      column = self.columns[name]
      if column.ndim:  # Else a scalar, which holds for all rows.
        column = column[rows]
      array[at, : rows.stop - rows.start] = column


def _score(model, tasks, size, num_tasks):
  """Scores tasks in `num_tasks` places: one compilation a support size."""
  starts = np.zeros(num_tasks, np.int64)
  starts[: len(tasks)] = [task.start for task in tasks]
  counts = np.zeros(num_tasks, np.int64)
  counts[: len(tasks)] = [task.num_rows - task.start for task in tasks]
  query = _empty(model, num_tasks, counts.max())
  support = _empty(model, num_tasks, size)
  labels, mask = np.zeros((2, num_tasks, size), np.float32)
  for i, task in enumerate(tasks):
    task.fill(query, i, slice(task.start, task.num_rows))
    used = slice(task.start - task.num_support, task.start)
    task.fill(support, i, used)
    labels[i, : task.num_support] = task.label[used]
    mask[i, : task.num_support] = 1
  if size:
    columns = model.adapt_and_predict(support, labels, query, mask)
  else:
    columns = model.predict(query)
  place = np.arange(counts.max())
  shown = place < counts[:, None]
  return {
    'task': np.repeat([t.task for t in tasks], counts[: len(tasks)]),
    'row': (starts[:, None] + place)[shown],
    **{name: column[shown] for name, column in columns.items()},
  }


def _empty(model, num_tasks, num_rows):
  arrays = {}
  for name, feature in model.manifest['features'].items():
    values = feature['max_values']
    shape = (num_tasks, num_rows, values)[: 2 + (values > 1)]
    arrays[name] = np.full(shape, -1, np.int32)
  for name in model.manifest['numeric']:
    arrays[name] = np.zeros((num_tasks, num_rows), np.float32)
  return arrays


def user_ids(model: Model, values: Mapping[str, Any]) -> Columns:
  """Ids of one user's rows, given by values.

  Args:
    model: The model.
    values: feature -> value, or a list with a value for each row; for a
      multi-hot feature a list of lists. Features without a vocabulary are given
      by ids.

  Returns:
    feature -> int32 [], [n] or [n, K], as `Model.adapt_user` takes them;
    numeric inputs as they are.
  """
  names = [*model.manifest['features'], *model.manifest['numeric']]
  if missing := [name for name in names if name not in values]:
    raise ValueError(f'user_ids: {missing} missing; needed are {names}.')
  ids = {n: np.asarray(values[n]) for n in model.manifest['numeric']}
  for name, feature in model.manifest['features'].items():
    given, width = values[name], feature['max_values']
    known = name in model.manifest['vocabularies']
    if width > 1:
      rows = np.full((len(given), width), -1, np.int32)
      for i, row in enumerate(given):
        row = row[:width]
        rows[i, : len(row)] = model.ids(name, row) if known else row
      ids[name] = rows
    else:
      array = model.ids(name, given) if known else np.asarray(given, np.int32)
      ids[name] = array
  return ids
