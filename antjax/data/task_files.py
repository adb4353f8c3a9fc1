# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes sorted rows of tasks: record files of splits, files of ids."""

from collections.abc import Mapping
import dataclasses
import pathlib
import re
from typing import Any

from absl import logging
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import (
  output_folder,
  record_schema,
  record_writer,
  task_spans,
  task_states,
  view,
)
from antjax.data.record_schema import Field
from antjax.data.task_spans import TaskConfig

TASK_VALUES = 'task_values'  # Entry of 'files'.


@dataclasses.dataclass(frozen=True)
class SortedRows:
  """Coded rows, sorted by state, task and rank."""

  # Parquet file or folder: 'task', 'timestamp', and the columns of the schema,
  # features as ids from 1 (0: not in training); of a feature with many values
  # how many they are.
  path: pathlib.Path
  # Feature with many values -> Parquet file or folder with the ids of all rows,
  # one after another.
  values: Mapping[str, pathlib.Path]
  widths: Mapping[str, int]  # Feature with many values -> the most of a row.
  states: tuple[str, ...]  # Names of the splits to evaluate.
  # Task of each part, the rows of one task in one state, int32 [N].
  task: np.ndarray
  state: np.ndarray  # Its state, a place in `task_states.NAMES`, [N].
  num_rows: np.ndarray  # Its rows, [N].
  num_test: np.ndarray  # How many of its last rows are queries, [N].
  is_trained: np.ndarray  # Whether it is trained on, [N].
  # Feature -> table (feature, id), in memory or the engine's.
  vocabularies: Mapping[str, ir.Table | pa.Table]


def write_splits(
  rows: SortedRows, config: TaskConfig, job: view.ViewJob
) -> dict[str, Any]:
  """Writes the splits; returns 'schema', 'splits' and 'files'."""
  schema = job.schema
  fields = {
    'task': Field('int32'),
    'num_query': Field('int32'),
    'timestamp': Field('int64', 1),
    schema.label_column: Field('float32', 1),
    **{name: Field('int32', 1) for name in rows.vocabularies},
    **{name: Field('int32', 2, n) for name, n in rows.widths.items()},
    **{name: Field('float32', 1) for name in schema.all_numeric},
  }
  columns = [name for name, field in fields.items() if field.ndim]
  sizes = rows.num_rows, rows.num_test
  spans = {'train': task_spans.training(*sizes, rows.is_trained, config)}
  for name in rows.states:
    is_chosen = rows.state == task_states.NAMES.index(name)
    spans[name] = task_spans.evaluation(*sizes, is_chosen, config)
    if schema.split_column:
      left = int(rows.num_rows[is_chosen & (rows.num_test == 0)].sum())
      logging.log_if(
        logging.WARNING,
        '%s: %d rows are of tasks with too few or too many rows to be scored;'
        ' see min_rows and max_eval_rows.',
        left > 0,
        name,
        left,
      )
  splits, files = {}, {}
  for split, chosen in spans.items():
    if not len(chosen):
      logging.warning('No task for the split %s: it is left out.', split)
      continue
    job.progress(f'writing {split}')
    path = job.stage / f'{split}.{job.file_format}'
    chosen = dataclasses.replace(chosen, task=rows.task[chosen.task])
    batches = task_spans.record_batches(rows.path, chosen, columns, rows.values)
    record_writer.write(path, batches, fields)
    splits[split] = {
      'tasks': len(np.unique(chosen.task)),
      'records': len(chosen),
      'rows': int((chosen.stop - chosen.start).sum()),
    }
    files[split] = output_folder.file_entry(job.stage, path)
  written = record_schema.schema_to_json(fields)
  return {'schema': written, 'splits': splits, 'files': files}


def write_values(tasks: ir.Table, folder: pathlib.Path) -> dict[str, Any]:
  """Writes 'task' and what the data call it; returns an entry of 'files'."""
  path = folder / f'{TASK_VALUES}.parquet'
  table = tasks.distinct().order_by('task').to_pyarrow()
  # Engines differ in chunks and in which columns may be NULL.
  pq.write_table(
    pa.table({n: table[n].combine_chunks() for n in table.column_names}), path
  )
  return {TASK_VALUES: output_folder.file_entry(folder, path)}


def write_ids(
  rows: SortedRows, folder: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Writes (feature, id) files; returns 'features' and their 'files'."""
  features, files = {}, {}
  for number, (name, ids) in enumerate(rows.vocabularies.items()):
    table = ids
    if not isinstance(ids, pa.Table):
      table = ids.order_by('id').to_pyarrow()
    # Engines differ in chunks and in which columns may be NULL.
    columns = {n: table[n].combine_chunks() for n in table.column_names}
    # No plain name begins so: a feature may be called '0'.
    stem = f'ids_{name}' if re.fullmatch(r'[\w.-]+', name) else f'ids-{number}'
    path = folder / f'{stem}.parquet'
    pq.write_table(pa.table(columns), path)
    features[name] = {
      'num_ids': table.num_rows + 1,
      'max_values': rows.widths.get(name, 1),
    }
    files[f'ids_{name}'] = output_folder.file_entry(folder, path)
  return features, files
