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
  is a query only, and is scored unadapted. If there are more support rows than
  the model takes, the last ones are used.

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
    if not 0 <= num_query <= num_rows:
      raise ValueError(
        f'score: task {record["task"]} has num_query={num_query} of its'
        f' {num_rows} rows (by {label!r}); needed is 0 to {num_rows}: the last'
        ' num_query rows are the query. Correct the record.'
      )
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
    self.columns = {
      name: _column(model, record, name, num_rows) for name in names
    }

  def fill(self, arrays: Columns, at: int, rows: slice) -> None:
    """Puts rows of the features into line `at` of padded arrays."""
    for name, array in arrays.items():
      column = self.columns[name]
      if column.ndim:  # Else a scalar, which holds for all rows.
        column = column[rows]
      array[at, : rows.stop - rows.start] = column


def _column(model, record, name, num_rows):
  """A column at the model's width, [n], [n, K], or a scalar for all rows."""
  column = np.asarray(record[name])
  width = model.manifest['features'].get(name, {}).get('max_values', 1)
  if column.shape not in ((), (num_rows,)) and (
    column.ndim != 2 or len(column) != num_rows
  ):
    needed = (num_rows,) if width == 1 else (num_rows, width)
    raise ValueError(
      f'score: task {record["task"]}: {name!r} has shape {column.shape}; needed'
      f' is {needed}, the rows of the record and, of a list, its values.'
    )
  if column.ndim < 2 and width == 1:
    return column
  if column.ndim < 2:  # One value a row.
    column = np.broadcast_to(column, num_rows)[:, None]
  if column.shape[1] > width:
    raise ValueError(
      f'score: task {record["task"]}: {name!r} has {column.shape[1]} values a'
      f' row; the model takes up to {width}, as the data that it was trained on'
      f' had. Give at most {width}, or train and export a model on data as'
      ' wide.'
    )
  if width == 1:
    return column.reshape(num_rows)
  padding = ((0, 0), (0, width - column.shape[1]))
  return np.pad(column, padding, constant_values=-1)


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
  """Ids of one user's rows, given by values, as `Model.adapt_user` takes them.

  Args:
    model: The model.
    values: Feature -> value, or a list with a value for each row; for a
      multi-hot feature a list of lists. Features without a vocabulary are given
      by ids. Numeric inputs come back as they are.

  Raises:
    ValueError: A feature is missing, unknown to the model, or its values are
      not of the kind, shape or width that it needs.
  """
  features, numeric = model.manifest['features'], model.manifest['numeric']
  names = [*features, *numeric]
  if missing := [name for name in names if name not in values]:
    raise ValueError(f'user_ids: {missing} missing; needed are {names}.')
  if unknown := [name for name in values if name not in names]:
    raise ValueError(
      f'user_ids: {unknown} is not among the inputs of the model; needed are'
      f' {names}, no more.'
    )
  ids = {}
  for name in numeric:
    ids[name] = _values(name, values[name], 'one number a row, or one for all')
    if ids[name].size and ids[name].dtype.kind not in 'iuf':
      raise ValueError(
        f'user_ids: {name!r} holds {ids[name].ravel()[0]!r}; needed are'
        ' numbers.'
      )
  for name, feature in features.items():
    if feature['max_values'] > 1:
      ids[name] = _lists(model, name, values[name], feature['max_values'])
    else:
      array = _values(name, values[name], 'one value a row, or one for all')
      ids[name] = _ids(model, name, array)
  return ids


def _lists(model, name, given, width):
  """Ids int32 [n, width] of a list of lists, padded with -1."""
  needed = 'a list of values for each row, as in [["a", "b"], ["c"]]'
  if isinstance(given, str | bytes) or not isinstance(given, Iterable):
    raise ValueError(f'user_ids: {name!r} is {given!r}; needed is {needed}.')
  lines = list(given)
  rows = np.full((len(lines), width), -1, np.int32)
  for row, line in zip(rows, lines, strict=True):
    if not isinstance(line, list | tuple | np.ndarray):
      raise ValueError(
        f'user_ids: a row of {name!r} is {line!r}; needed is {needed}.'
      )
    array = _values(name, line, needed)
    if len(array) > width:
      raise ValueError(
        f'user_ids: a row of {name!r} has {len(array)} values; the model takes'
        f' up to {width}. Leave some out, or train and export a model on data'
        ' with as many.'
      )
    row[: len(array)] = _ids(model, name, array)
  return rows


def _ids(model, name, array):
  """Ids int32 of values or, without a vocabulary, the ids given, checked."""
  if name in model.manifest['vocabularies']:
    return model.ids(name, array)
  num_ids = model.manifest['features'][name]['num_ids']
  if array.size and array.dtype.kind not in 'iu':
    raise ValueError(
      f'user_ids: {name!r} holds {array.ravel()[0]!r} (as {array.dtype}); it'
      ' has no vocabulary, and needed are ids: integers.'
    )
  for wrong in array[(array < -1) | (array >= num_ids)]:
    raise ValueError(
      f'user_ids: {name!r} has id {wrong}; the model has ids 0 to'
      f' {num_ids - 1}, and -1 for none. Give 0 for what it does not know.'
    )
  return array.astype(np.int32)


def _values(name, given, needed):
  """One value or one a row, [] or [n], all texts or all numbers."""
  try:
    array = np.asarray(given)
  except ValueError as error:  # Lists of unequal lengths.
    raise ValueError(
      f'user_ids: {name!r} holds lists among values, or of unequal lengths;'
      f' needed is {needed}.'
    ) from error
  if array.ndim > 1:
    raise ValueError(
      f'user_ids: {name!r} has shape {array.shape}; needed is {needed}.'
    )
  # An array may have become one of texts, or of floats, by one of its values.
  values = given if isinstance(given, list | tuple) else array.ravel().tolist()
  for value in values:
    is_text = isinstance(value, str | bytes)
    is_number = isinstance(value, int | float | np.number)
    if isinstance(value, bool) or not (is_text or is_number):
      raise ValueError(
        f'user_ids: {name!r} holds {value!r}; needed is {needed}, a text or a'
        ' number.'
      )
    if is_text != isinstance(values[0], str | bytes):
      raise ValueError(
        f'user_ids: {name!r} holds {values[0]!r} and {value!r}; needed are'
        ' texts only or numbers only.'
      )
  return array
