# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes tasks of labelled events, record files with a `dataset.json`.

Splits: `train` has the rows of the warm tasks but their last ones; `warm` has
queries from those, with the rows before them as support; `task_cold` has the
same of tasks that are not trained on. Ids come from `train` alone; 0 stands for
what it lacks.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
import pathlib
import re
from typing import Any

from absl import logging
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import (
  output_folder,
  record_schema,
  record_writer,
  task_spans,
  view,
  view_tasks,
)
from antjax.data.record_schema import Field
from antjax.data.schema import Schema
from antjax.data.view_tasks import TaskConfig

_VERSION = 1


def write_tasks(
  out: str | os.PathLike[str],
  events: str | os.PathLike[str],
  schema: Schema,
  config: TaskConfig,
  **options: Any,
) -> tuple[dict[str, Any], bool]:
  """Makes a folder with one record file a split and a `dataset.json`.

  Args:
    out: Folder to make.
    events: Folder of the events.
    schema: Schema of their columns.
    config: Settings of the tasks.
    **options: See `view.make`.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or the schema says nothing of tasks.
  """
  view_tasks.check(schema)
  settings = {f'tasks.{k}': v for k, v in dataclasses.asdict(config).items()}
  return view.make(
    out,
    events,
    schema,
    _VERSION,
    settings,
    lambda job: _build(job, config),
    **options,
  )


def _build(job: view.ViewWork, config: TaskConfig) -> dict[str, Any]:
  """Writes all files; returns the description."""
  schema = job.schema
  with job.opened() as events:
    rows = view_tasks.build(events, config, job.work / 'steps', job.progress)
    features, id_files = _write_ids(rows, job.stage)
  # The engine has given its memory back.
  written = _write(
    rows, job.stage, schema, config, job.file_format, job.progress
  )
  written['files'] |= id_files
  task = schema.task_column
  return {
    'kind': 'rating' if schema.rating else 'click',
    'label': schema.label_column,
    'numeric': list(schema.all_numeric),
    'task_feature': task if task in schema.features else None,
    'scenarios': [split for split in written['splits'] if split != 'train'],
    'seed': config.seed,
    'query_size': config.query_size,
    'counts': {
      'tasks': len(rows.num_rows),
      'cold_tasks': int((~rows.is_warm).sum()),
    },
    'features': features,
    **written,
  }


def _write(
  rows: view_tasks.SortedRows,
  folder: pathlib.Path,
  schema: Schema,
  config: TaskConfig,
  file_format: str,
  progress: Callable[[str], None],
) -> dict[str, Any]:
  """Writes the splits; returns 'schema', 'splits' and 'files'."""
  fields = {
    'task': Field('int32'),
    'num_query': Field('int32'),
    'timestamp': Field('int64', 1),
    schema.label_column: Field('float32', 1),
    **{name: Field('int32', 1) for name in rows.vocabularies},
    **{name: Field('int32', 2, n) for name, n in rows.widths.items()},
    **{name: Field('float32', 1) for name in schema.all_numeric},
  }
  names = {name: name for name in fields if fields[name].ndim}
  spans = {
    'train': task_spans.training(rows.num_rows, rows.is_warm, config.spans()),
    'warm': task_spans.evaluation(rows.num_rows, rows.is_warm, config.spans()),
    'task_cold': task_spans.evaluation(
      rows.num_rows, ~rows.is_warm, config.spans()
    ),
  }
  splits, files = {}, {}
  for split, chosen in spans.items():
    if not len(chosen):
      logging.warning('No task for the split %s: it is left out.', split)
      continue
    progress(f'writing {split}')
    path = folder / f'{split}.{file_format}'
    record_writer.write(
      path,
      task_spans.record_batches(rows.path, chosen, names, rows.values),
      fields,
    )
    splits[split] = {
      'tasks': len(np.unique(chosen.task)),
      'records': len(chosen),
      'rows': int((chosen.stop - chosen.start).sum()),
    }
    files[split] = output_folder.file_entry(folder, path)
  return {
    'schema': record_schema.schema_to_json(fields),
    'splits': splits,
    'files': files,
  }


def _write_ids(
  rows: view_tasks.SortedRows, folder: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Writes (feature, id) files; returns 'features' and their 'files'."""
  features, files = {}, {}
  for number, (name, ids) in enumerate(rows.vocabularies.items()):
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


def counts_table(description: Mapping[str, Any]) -> list[list[str]]:
  """Returns the counts of each split, the first row is the heading."""
  table = [['split', 'tasks', 'records', 'rows']]
  for split, counts in description['splits'].items():
    table.append([split, *(f'{n:,}' for n in counts.values())])
  return table
