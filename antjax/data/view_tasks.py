# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events become sorted, coded rows by task, as ibis expressions.

The same expressions run on DuckDB and on Spark, with equal results. Each step
is written to a Parquet file or folder and read back, which works out of core on
both, and lets nothing be computed twice.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Annotated, Literal

from absl import logging
import ibis
from ibis.expr import types as ir
import numpy as np

from antjax.data import prepare, task_spans
from antjax.data.events import Events, ROW
from antjax.data.schema import Schema

# Columns of our own beside those of the rows; a schema has no such names.
_RANK, _IS_TRAIN, _NUM_TEST = '__rank', '__is_train', '__num_test'
_KEY, _NUM_ROWS, _IS_WARM = '__key', '__num_rows', '__is_warm'
_PLACE = '__place'
# Fields of a record beside those of the rows. Engines do not tell names apart
# by case.
_RESERVED = ('task', 'timestamp', 'num_query', 'first_row', 'num_rows')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
  """How rows become tasks."""

  seed: Annotated[int, 'Seed of the choice of cold tasks and of orders.'] = 0
  order: Annotated[
    Literal['time', 'random'],
    "Order of a task's rows; queries are the last ones.",
  ] = 'time'
  cold_share: Annotated[
    float, 'Share of the tasks that are never trained on.'
  ] = 0.1
  query_size: Annotated[int, 'Rows of a query of an evaluation record.'] = 10
  max_support: Annotated[int, 'Most support rows of an evaluation record.'] = (
    128
  )
  min_rows: Annotated[int, 'Fewest rows of a task that is evaluated.'] = 13
  test_share: Annotated[
    float,
    "Share of a task's rows, its last ones, that are queries; at least"
    ' query_size rows.',
  ] = 0.2
  max_rows: Annotated[
    int, 'Most rows of a training record; longer tasks are cut.'
  ] = 512
  min_count: Annotated[
    int, 'Training rows that a value needs for an id of its own; 0 is the rest.'
  ] = 1
  max_values: Annotated[
    int,
    'Most values in a row of a feature that has many; of longer lists the first'
    ' ones stay. Records are as wide as the longest list.',
  ] = 50

  def __post_init__(self) -> None:
    if not (0 <= self.cold_share < 1 and 0 <= self.test_share < 1):
      raise ValueError(
        'needed 0 <= cold_share, test_share < 1; got'
        f' {self.cold_share}, {self.test_share}.'
      )
    if not 0 < self.query_size < self.min_rows or self.max_support < 1:
      raise ValueError(
        'needed 0 < query_size < min_rows and max_support > 0; got'
        f' {self.query_size}, {self.min_rows}, {self.max_support}.'
      )
    if min(self.max_rows, self.min_count, self.max_values) < 1:
      raise ValueError(
        'max_rows, min_count and max_values must be positive; got'
        f' {self.max_rows}, {self.min_count}, {self.max_values}.'
      )

  def spans(self) -> task_spans.SpanConfig:
    """Returns the part that is about spans."""
    fields = dataclasses.fields(task_spans.SpanConfig)
    return task_spans.SpanConfig(
      **{f.name: getattr(self, f.name) for f in fields}
    )


@dataclasses.dataclass(frozen=True)
class SortedRows:
  """Coded rows, sorted by task and rank.

  Attributes:
    path: Parquet file or folder: 'task', 'timestamp', and the columns of
      the schema, features as ids from 1 (0: not in training); of a feature with
      many values how many they are.
    values: Feature with many values -> Parquet file or folder with the ids of
      all rows, one after another.
    widths: Feature with many values -> the most of a row.
    num_rows: Rows of each task, [N].
    is_warm: Whether a task is trained on, [N].
    vocabularies: Feature -> table (feature, id).
  """

  path: pathlib.Path
  values: Mapping[str, pathlib.Path]
  widths: Mapping[str, int]
  num_rows: np.ndarray
  is_warm: np.ndarray
  vocabularies: Mapping[str, ir.Table]


def build(
  events: Events,
  config: TaskConfig,
  folder: pathlib.Path,
  progress: Callable[[str], None] = lambda text: None,
) -> SortedRows:
  """Codes and sorts rows.

  Args:
    events: Rows to make tasks of.
    config: Settings of the tasks.
    folder: Empty folder for intermediate files; it outlives the result.
    progress: Function called with a text at the start of each step.

  Raises:
    ValueError: The schema names no task or no label, or labels are neither
      clicks nor ratings.
  """
  schema = events.schema
  check(schema)

  stored = prepare.Steps(events.con, folder)
  rows = events.joined()
  _check_ratings(rows, schema)
  rows, widths = _cut_lists(rows, schema, config)
  progress('counting tasks')
  tasks = stored('tasks', _tasks(rows, schema, config))
  progress('ranking rows')
  ranked = stored('ranked', _rank(rows, tasks, schema, config))
  vocabularies, values = {}, {}
  coded = ranked
  for number, name in enumerate(features_of(schema)):
    progress(f'ids of {name}')
    vocabularies[name] = stored(
      f'ids_{number}', _vocabulary(ranked, name, config)
    )
    if name in widths:
      # Not put back into lists: engines collect these in memory.
      each = _each_value(ranked, name, vocabularies[name])
      values[name] = folder / f'values_{number}.parquet'
      each.to_parquet(str(values[name]))
      coded = coded.mutate(**{name: coded[name].length().cast('int32')})
    else:
      coded = prepare.to_ids(coded, name, vocabularies[name])
  progress('sorting rows')
  path = folder / 'sorted.parquet'
  _numbers(events, coded).order_by(['task', _RANK]).drop(_RANK).to_parquet(
    str(path)
  )
  counts = tasks.select('task', _NUM_ROWS, _IS_WARM).to_pyarrow()
  order = np.argsort(counts['task'].to_numpy())
  return SortedRows(
    path,
    values,
    widths,
    counts[_NUM_ROWS].to_numpy()[order].astype(np.int64),
    counts[_IS_WARM].to_numpy(zero_copy_only=False)[order],
    vocabularies,
  )


def features_of(schema: Schema) -> tuple[str, ...]:
  """Columns whose values become ids."""
  return schema.features + (schema.items.ids if schema.items else ())


def check(schema: Schema) -> None:
  """Refuses a schema that says nothing of tasks.

  Raises:
    ValueError: What is lacking, or wrong.
  """

  def refuse(why: str) -> None:
    raise ValueError(f'schema of {schema.name}: {why}.')

  task, features = schema.task_column, features_of(schema)
  if not (task and schema.label_column):
    refuse('tasks need a task or a user, and a label or a rating')
  if schema.columns[task].startswith('float'):
    refuse(
      f'the task {task!r} is a {schema.columns[task]}; text or an integer is'
      ' needed, as engines write floats in several ways'
    )
  if not features:
    refuse('no column is a feature')
  fields = (schema.label_column, *features, *schema.all_numeric)
  taken = [name for name in fields if name.lower() in _RESERVED]
  # Files of ids have the columns (feature, id).
  taken += [name for name in features if name.lower() == 'id']
  if taken:
    refuse(f'{", ".join(taken)} is the name of a field of our own; rename it')


def _check_ratings(rows: ir.Table, schema: Schema) -> None:
  """Refuses ratings that are off the levels."""
  if not schema.rating:
    return
  is_level = rows[schema.rating].isin([1, 2, 3, 4, 5])
  bad = rows.filter(~is_level).select(schema.rating).limit(1)
  for row in bad.to_pyarrow().to_pylist():
    raise ValueError(
      f'{schema.name}: the rating {schema.rating!r} is {row[schema.rating]};'
      ' tasks need 1 to 5, and whole: round it, or scale it, before.'
    )


def _cut_lists(
  rows: ir.Table, schema: Schema, config: TaskConfig
) -> tuple[ir.Table, dict[str, int]]:
  """Cuts long lists; returns the rows and the longest of each feature."""
  names = [n for n in features_of(schema) if n in rows.columns]
  names = [n for n in names if rows[n].type().is_array()]
  most = config.max_values
  if not names:
    return rows, {}
  lengths = {name: rows[name].length() for name in names}
  longest = rows.agg(**{n: length.max() for n, length in lengths.items()})
  widths = longest.to_pyarrow().to_pylist()[0]
  for name in names:
    if widths[name] <= most:
      continue
    num_cut = rows.filter(lengths[name] > most).count().to_pyarrow().as_py()
    logging.warning(
      '%s: %d rows have more than max_values=%d values, up to %d; the first %d'
      ' of them stay.',
      name,
      num_cut,
      most,
      widths[name],
      most,
    )
    rows = rows.mutate(**{name: rows[name][:most]})
  # For a feature of width 1, readers expect an id, not a list.
  return rows, {n: max(2, min(w, most)) for n, w in widths.items()}


def _tasks(rows: ir.Table, schema: Schema, config: TaskConfig) -> ir.Table:
  """Returns key, task, number of rows and is_warm, one row a task."""
  tasks = rows.group_by(**{_KEY: rows[schema.task_column]}).agg(
    **{_NUM_ROWS: rows.count()}
  )
  position = ibis.row_number().over(ibis.window(order_by=tasks[_KEY]))
  is_cold = prepare.in_first_share(
    tasks, _KEY, share=config.cold_share, seed=config.seed, salt='cold'
  )
  return tasks.mutate(task=position.cast('int32'), **{_IS_WARM: ~is_cold})


def _rank(
  rows: ir.Table,
  tasks: ir.Table,
  schema: Schema,
  config: TaskConfig,
) -> ir.Table:
  """Adds task, rank in it, timestamp and is_train to the rows."""
  joined = rows.join(tasks, rows[schema.task_column] == tasks[_KEY])
  timestamp = joined[schema.time or ROW]
  if config.order == 'time':
    keys = [timestamp, joined[ROW]]
  else:
    keys = [prepare.digest(config.seed, 'row', joined[ROW]), joined[ROW]]
  rank = ibis.row_number().over(ibis.window(group_by='task', order_by=keys))
  # As `task_spans.num_test` has it.
  num_rows = joined[_NUM_ROWS]
  share = (num_rows * config.test_share).floor().cast('int64')
  test = (num_rows >= config.min_rows).ifelse(
    ibis.greatest(share, config.query_size), 0
  )
  if timestamp.type().is_floating():
    timestamp = timestamp.floor()  # Engines cast by other roundings.
  ranked = joined.mutate(
    timestamp=timestamp.cast('int64'), **{_RANK: rank, _NUM_TEST: test}
  )
  is_train = ranked[_IS_WARM] & (
    ranked[_RANK] < ranked[_NUM_ROWS] - ranked[_NUM_TEST]
  )
  return ranked.mutate(**{_IS_TRAIN: is_train}).select(
    'task', _RANK, 'timestamp', _IS_TRAIN, *_fields(schema)
  )


def _fields(schema: Schema) -> list[str]:
  """Columns that end up in records."""
  return [schema.label_column, *features_of(schema), *schema.all_numeric]


def _vocabulary(ranked: ir.Table, name: str, config: TaskConfig) -> ir.Table:
  """Returns (name, id) of the values that training has often enough."""
  train = ranked.filter(ranked[_IS_TRAIN])
  if train[name].type().is_array():
    train = train.select(**{name: train[name].unique().unnest()})
  counts = train.group_by(name).agg(__count=train.count())
  return prepare.dense_ids(
    counts.filter(counts['__count'] >= config.min_count), name, first=1
  )


def _each_value(ranked: ir.Table, name: str, ids: ir.Table) -> ir.Table:
  """Returns the ids of the lists of all rows, sorted as the rows will be."""
  each = ranked.select('task', _RANK, name).unnest(name, offset=_PLACE)
  coded = prepare.to_ids(each, name, ids)
  return coded.order_by(['task', _RANK, _PLACE]).select(name)


def _numbers(events: Events, coded: ir.Table) -> ir.Table:
  """Casts label and numbers to float32, takes logarithms, orders columns."""
  schema = events.schema
  numbers = {
    name: events.number(coded, name)
    for name in (schema.label_column, *schema.all_numeric)
  }
  names = _fields(schema)
  return coded.mutate(**numbers).select('task', _RANK, 'timestamp', *names)
