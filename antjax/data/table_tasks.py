# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a table become sorted, coded rows by task, as ibis expressions.

The same expressions run on DuckDB and on Spark, with equal results. Each step
is written to a Parquet file or folder and read back, which works out of core on
both, and lets nothing be computed twice.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Annotated, Any, Literal

from absl import logging
import ibis
from ibis.expr import types as ir
import numpy as np

from antjax.data import prepare, task_spans
from antjax.data.table_schema import TableSchema

# Columns of our own beside those of a table: the number of a row of the source,
# its place in its task, and so on; `table_schema` keeps others from the names.
ROW = '__row'
_RANK, _IS_TRAIN, _NUM_TEST = '__rank', '__is_train', '__num_test'
_KEY, _NUM_ROWS, _IS_WARM = '__key', '__num_rows', '__is_warm'
_PLACE = '__place'


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig:
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
  con: ibis.BaseBackend,
  rows: ir.Table,
  schema: TableSchema,
  config: TableConfig,
  folder: pathlib.Path,
  progress: Callable[[str], None] = lambda text: None,
) -> SortedRows:
  """Codes and sorts rows.

  Args:
    con: Backend that holds `rows`: DuckDB or Spark.
    rows: The used columns of the schema, those with a separator as lists, and
      `ROW`, without NULLs.
    schema: What they mean.
    config: How they become tasks.
    folder: Empty folder for intermediate files; it outlives the result.
    progress: Called with a text at the start of each step.

  Raises:
    ValueError: A number is too large for a float32.
  """

  def stored(name: str, table: ir.Table) -> ir.Table:
    path = folder / f'{name}.parquet'
    table.to_parquet(str(path))
    return prepare.read_parquet(con, path)

  _check_numbers(rows, schema)
  rows, widths = _cut_lists(rows, schema, config)
  progress('counting tasks')
  tasks = stored('tasks', _tasks(rows, schema, config))
  progress('ranking rows')
  ranked = stored('ranked', _rank(rows, tasks, schema, config))
  vocabularies, values = {}, {}
  coded = ranked
  for number, name in enumerate(schema.features):
    progress(f'ids of {name}')
    vocabularies[name] = stored(
      f'ids_{number}', _vocabulary(ranked, name, schema, config)
    )
    if name in schema.separator:
      # Not put back into lists: engines collect these in memory.
      each = _each_value(ranked, name, vocabularies[name])
      values[name] = folder / f'values_{number}.parquet'
      each.to_parquet(str(values[name]))
      coded = coded.mutate(**{name: coded[name].length().cast('int32')})
    else:
      coded = prepare.to_ids(coded, name, vocabularies[name])
  progress('sorting rows')
  path = folder / 'sorted.parquet'
  _numbers(coded, schema).order_by(['task', _RANK]).drop(_RANK).to_parquet(
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


def _check_numbers(rows: ir.Table, schema: TableSchema) -> None:
  """Refuses numbers that a record cannot hold."""
  most = float(np.finfo(np.float32).max)
  wide = [
    name
    for name in (schema.label, *schema.numeric)
    if schema.columns[name] == 'float64' and name not in schema.log
  ]
  if not wide:
    return
  largest = rows.agg(**{name: rows[name].abs().max() for name in wide})
  for name, value in largest.to_pyarrow().to_pylist()[0].items():
    if value > most:
      raise ValueError(
        f'column {name!r} of {schema.name} has a number of magnitude'
        f' {value:g}; records hold float32, up to {most:.2g}: list it under'
        ' log, or scale it.'
      )


def _cut_lists(
  rows: ir.Table, schema: TableSchema, config: TableConfig
) -> tuple[ir.Table, dict[str, int]]:
  """Cuts long lists; returns the rows and the longest of each feature."""
  names, most = list(schema.separator), config.max_values
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
  # Of a feature with a width of 1, readers expect an id and no list.
  return rows, {n: max(2, min(w, most)) for n, w in widths.items()}


def _tasks(
  rows: ir.Table, schema: TableSchema, config: TableConfig
) -> ir.Table:
  """Returns key, task, number of rows and is_warm, one row a task."""
  tasks = rows.group_by(**{_KEY: rows[schema.task]}).agg(
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
  schema: TableSchema,
  config: TableConfig,
) -> ir.Table:
  """Adds task, rank in it, timestamp and is_train to the rows."""
  joined = rows.join(tasks, rows[schema.task] == tasks[_KEY])
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
  names = [schema.label, *schema.features, *schema.numeric]
  return ranked.mutate(**{_IS_TRAIN: is_train}).select(
    'task', _RANK, 'timestamp', _IS_TRAIN, *names
  )


def _vocabulary(
  ranked: ir.Table, name: str, schema: TableSchema, config: TableConfig
) -> ir.Table:
  """Returns (name, id) of the values that training has often enough."""
  train = ranked.filter(ranked[_IS_TRAIN])
  if name in schema.separator:
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


def _numbers(coded: ir.Table, schema: TableSchema) -> ir.Table:
  """Casts label and numbers to float32, takes logarithms, orders columns."""
  changed: dict[str, Any] = {}
  for name in (schema.label, *schema.numeric):
    value = coded[name].cast('float64')
    if name in schema.log:
      value = value.sign() * (value.abs() + 1).ln()
    changed[name] = value.cast('float32')
  names = [schema.label, *schema.features, *schema.numeric]
  return coded.mutate(**changed).select('task', _RANK, 'timestamp', *names)
