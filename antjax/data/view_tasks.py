# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events become tasks: record files of coded rows, sorted by task.

Splits: `train` has the rows of the warm tasks but their last ones; `warm` has
queries from those, with the rows before them as support; `task_cold` has the
same of tasks that are not trained on. `task_states` has the splits of data that
come split, and of cold items. Ids come from `train` alone; 0 stands for what it
lacks.

Rows are coded and sorted by ibis expressions, which run on DuckDB and on Spark
with equal results. Each step is written to a Parquet file or folder and read
back, which works out of core on both, and lets nothing be computed twice.
"""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any, ClassVar

from absl import logging
import ibis
from ibis.expr import types as ir
import numpy as np

from antjax.data import (
  coded_rows,
  prepare,
  task_files,
  task_states,
  view,
)
from antjax.data.events import Events, ROW
from antjax.data.schema import Schema
from antjax.data.task_spans import TaskConfig
from antjax.data.task_states import IS_GIVEN, STATE

# Columns of our own beside those of the rows; a schema has no such names.
_RANK, _IS_TRAIN, _NUM_TEST = '__rank', '__is_train', '__num_test'
_KEY, _NUM_ROWS, _PLACE = '__key', '__num_rows', '__place'
# Fields from which on rows are ranked apart from them.
_WIDE = 64
# Fields of a record beside those of the rows. Engines do not tell names apart
# by case.
_RESERVED = ('task', 'timestamp', 'num_query', 'first_row', 'num_rows')


@dataclasses.dataclass(frozen=True)
class TaskView:
  """Tasks of any labelled events, as a `view.View`."""

  config: TaskConfig = TaskConfig()
  version: ClassVar[int] = 1

  def check(self, schema: Schema) -> None:
    """Refuses a schema that says nothing of tasks."""

    def refuse(why: str) -> None:
      raise ValueError(f'schema of {schema.name}: {why}.')

    task, features = schema.task_column, _features(schema)
    if not (task and schema.label_column):
      refuse('tasks need a task or a user, and a label or a rating')
    if schema.columns[task].startswith('float'):
      refuse(
        f'the task {task!r} is a {schema.columns[task]}; text or an integer is'
        ' needed, as engines write floats in several ways'
      )
    if not features:
      refuse('no column is a feature')
    if self.config.cold_item_share and not schema.item:
      refuse('cold_item_share needs an item')
    empty = {**schema.empty, **(schema.items.empty if schema.items else {})}
    if missing := [name for name, number in empty.items() if number is None]:
      refuse(
        f'{", ".join(missing)} may be missing (empty: null), which tasks cannot'
        ' say; give the number that empty stands for'
      )
    taken = [name for name in _fields(schema) if name.lower() in _RESERVED]
    # Files of ids have the columns (feature, id).
    taken += [name for name in features if name.lower() == 'id']
    if taken:
      refuse(f'{", ".join(taken)} is the name of a field of our own; rename it')

  def settings(
    self, out: str | os.PathLike[str], schema: Schema
  ) -> dict[str, Any]:
    del out
    told = dataclasses.asdict(self.config)
    for name in ('cold_item_share', 'max_eval_rows'):
      if not told[name]:  # Older folders do not name them.
        del told[name]
    return {f'tasks.{k}': v for k, v in told.items()}

  def build(self, job: view.ViewJob) -> dict[str, Any]:
    """Writes a record file a split and a file of ids a feature."""
    schema = job.schema
    with job.opened() as events:
      rows, files = _sorted_rows(events, self.config, job)
      features, id_files = task_files.write_ids(rows, job.stage)
    # The engine has given its memory back.
    written = task_files.write_splits(rows, self.config, job)
    written['files'] |= id_files | files
    task = schema.task_column
    return {
      'kind': 'rating' if schema.rating else 'click',
      'label': schema.label_column,
      'numeric': list(schema.all_numeric),
      'task_feature': task if task in schema.features else None,
      'item_feature': schema.item or None,
      'scenarios': [split for split in written['splits'] if split != 'train'],
      'seed': self.config.seed,
      'query_size': self.config.query_size,
      'counts': {
        'tasks': len(np.unique(rows.task)),
        'cold_tasks': len(np.setdiff1d(rows.task, rows.task[rows.is_trained])),
      },
      'features': features,
      **written,
    }

  def tables(self, description: Mapping[str, Any]) -> list[view.Table]:
    return [view.split_counts('split,tasks,records,rows', description)]


def _features(schema: Schema) -> tuple[str, ...]:
  """Columns whose values become ids."""
  return schema.features + (schema.items.ids if schema.items else ())


def _fields(schema: Schema) -> list[str]:
  """Columns that end up in records."""
  return [schema.label_column, *_features(schema), *schema.all_numeric]


def _sorted_rows(
  events: Events, config: TaskConfig, job: view.ViewJob
) -> tuple[task_files.SortedRows, dict[str, Any]]:
  schema = events.schema
  stored = prepare.Steps(events.con, job.work / 'steps')
  rows = events.joined()
  _check_ratings(rows, schema)
  rows, widths = _cut_lists(rows, schema, config)
  job.progress('counting tasks')
  rows = task_states.with_states(rows, schema, config)
  tasks = stored('tasks', _tasks(rows, schema, config))
  names = tasks.select('task', **{schema.task_column: tasks[_KEY]})
  files = task_files.write_values(names, job.stage)
  job.progress('ranking rows')
  if len(_fields(schema)) <= _WIDE:
    ranked = stored('ranked', _rank(rows, tasks, schema, config).drop(ROW))
  else:  # A sort of few columns, whose result joins all others.
    own = [schema.task_column, schema.time, ROW, STATE, IS_GIVEN]
    few = rows.select(*dict.fromkeys(n for n in own if n in rows.columns))
    ranks = stored('ranks', _rank(few, tasks, schema, config))
    by = [ROW, STATE] if STATE in rows.columns else [ROW]
    ranked = rows.select(*by, *_fields(schema)).join(ranks, by)
    ranked = stored('ranked', ranked.drop(ROW))
  features = _features(schema)
  job.progress(f'ids of {len(features)} features')
  single = [name for name in features if name not in widths]
  vocabularies: dict[str, Any] = dict(
    coded_rows.vocabularies(
      stored.path('ranked'),
      single,
      _IS_TRAIN,
      min_count=config.min_count,
      max_values=coded_rows.MAX_VALUES,
    )
  )
  coded_rows.write(stored.path('ranked'), stored.path('coded'), vocabularies)
  coded, values = stored.again('coded'), {}
  for number, name in enumerate(features):
    if name in vocabularies:
      continue
    job.progress(f'ids of {name}')
    ids = stored(f'ids_{number}', _vocabulary(ranked, name, config))
    vocabularies[name] = ids
    if name in widths:
      # Not put back into lists: engines collect these in memory.
      each = ranked.select(STATE, 'task', _RANK, name)
      each = each.unnest(name, offset=_PLACE)
      each = prepare.to_ids(each, {name: ids})
      each = each.order_by([STATE, 'task', _RANK, _PLACE]).select(name)
      values[name] = stored.path(f'values_{number}')
      each.to_parquet(str(values[name]))
      coded = coded.mutate(**{name: coded[name].length().cast('int32')})
    else:
      coded = stored(f'coded_{number}', prepare.to_ids(coded, {name: ids}))
  vocabularies = {name: vocabularies[name] for name in features}
  job.progress('sorting rows')
  path = stored.path('sorted')
  numbers = (schema.label_column, *schema.all_numeric)
  coded = coded.mutate(**{name: events.number(coded, name) for name in numbers})
  coded = coded.order_by([STATE, 'task', _RANK])
  coded.select('task', 'timestamp', *_fields(schema)).to_parquet(str(path))
  names = (STATE, 'task', _NUM_ROWS, _NUM_TEST)
  found = tasks.select(*names).to_pyarrow()
  counts = [found[name].to_numpy().astype(np.int64) for name in names]
  order = np.lexsort((counts[1], counts[0]))
  state, task, num_rows, num_test = (x[order] for x in counts)
  rows_of_tasks = task_files.SortedRows(
    path,
    values,
    widths,
    task_states.evaluated(state, schema, config),
    task.astype(np.int32),
    state,
    num_rows,
    num_test,
    state == task_states.trained(schema),
    vocabularies,
  )
  return rows_of_tasks, files


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
  names = [n for n in _features(schema) if n in rows.columns]
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
    logging.warning(
      '%s: %d rows have more than max_values=%d values, up to %d; the first %d'
      ' of them stay.',
      name,
      prepare.count(rows.filter(lengths[name] > most)),
      most,
      widths[name],
      most,
    )
    rows = rows.mutate(**{name: rows[name][:most]})
  # For a feature of width 1, readers expect an id, not a list.
  return rows, {n: max(2, min(w, most)) for n, w in widths.items()}


def _tasks(rows: ir.Table, schema: Schema, config: TaskConfig) -> ir.Table:
  """Returns key, state, task, numbers of rows and queries, one row a part."""
  by = {_KEY: rows[schema.task_column]}
  given: ir.Value = ibis.literal(0)
  if STATE in rows.columns:
    by[STATE] = rows[STATE]
  if IS_GIVEN in rows.columns:
    given = rows[IS_GIVEN].sum()
  tasks = rows.group_by(**by).agg(**{_NUM_ROWS: rows.count(), IS_GIVEN: given})
  if STATE not in rows.columns:
    tasks = task_states.drawn(tasks, _KEY, config)
  num_rows = tasks[_NUM_ROWS]
  share = (num_rows * config.test_share).floor().cast('int64')
  is_scored = num_rows >= config.min_rows
  if config.max_eval_rows:
    is_scored &= num_rows <= config.max_eval_rows
  test = is_scored.ifelse(ibis.greatest(share, config.query_size), 0)
  # All rows are queries that have others for support.
  test = (tasks[IS_GIVEN] > 0).ifelse(num_rows - tasks[IS_GIVEN], test)
  if schema.split_column:
    is_train = tasks[STATE] == task_states.trained(schema)
    test = is_train.ifelse(0, test)
  position = ibis.dense_rank().over(ibis.window(order_by=tasks[_KEY]))
  return tasks.mutate(
    task=position.cast('int32'), **{_NUM_TEST: test.cast('int64')}
  ).drop(IS_GIVEN)


def _rank(
  rows: ir.Table, tasks: ir.Table, schema: Schema, config: TaskConfig
) -> ir.Table:
  """Returns row, state, task, rank in it, timestamp, is_train, and fields."""
  on = [rows[schema.task_column] == tasks[_KEY]]
  if STATE in rows.columns:
    on.append(rows[STATE] == tasks[STATE])
  joined = rows.join(tasks, on)
  timestamp = joined[schema.time or ROW]
  first = task_states.order(joined, schema, config)
  if IS_GIVEN in rows.columns:
    first = [joined[IS_GIVEN].desc(), *first]
  in_order = ibis.window(group_by=[STATE, 'task'], order_by=first)
  if timestamp.type().is_floating():
    timestamp = timestamp.floor()  # Engines cast by other roundings.
  ranked = joined.mutate(
    timestamp=timestamp.cast('int64'),
    **{_RANK: ibis.row_number().over(in_order)},
  )
  is_train = (ranked[STATE] == task_states.trained(schema)) & (
    ranked[_RANK] < ranked[_NUM_ROWS] - ranked[_NUM_TEST]
  )
  fields = _fields(schema)
  fields = fields if {*fields} <= {*rows.columns} else []
  return ranked.mutate(**{_IS_TRAIN: is_train}).select(
    ROW, STATE, 'task', _RANK, 'timestamp', _IS_TRAIN, *fields
  )


def _vocabulary(ranked: ir.Table, name: str, config: TaskConfig) -> ir.Table:
  """Returns (name, id) of the values that training has often enough."""
  train = ranked.filter(ranked[_IS_TRAIN])
  if train[name].type().is_array():
    train = train.select(**{name: train[name].unique().unnest()})
  counts = train.group_by(name).agg(__count=train.count())
  return prepare.dense_ids(
    counts.filter(counts['__count'] >= config.min_count), name, first=1
  )
