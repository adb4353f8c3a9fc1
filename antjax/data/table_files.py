# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the tasks of a table of labelled rows and their `dataset.json`.

Splits: `train` has the rows of the warm tasks but their last ones; `warm` has
queries from those, with the rows before them as support; `task_cold` has the
same of tasks that are not trained on. Ids come from `train` alone; 0 stands for
what it lacks.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any, Literal

from absl import logging
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import engine as engine_lib
from antjax.data import (
  output_folder,
  prepare,
  record_schema,
  record_writer,
  table_raw,
  table_tasks,
  task_spans,
)
from antjax.data.engine import Engine as Engine
from antjax.data.record_schema import Field
from antjax.data.table_schema import TableSchema
from antjax.data.table_tasks import TableConfig

_FORMAT_VERSION = 1


def prepare_table(
  out: str | os.PathLike[str],
  source: str | os.PathLike[str],
  schema: TableSchema,
  config: TableConfig,
  *,
  engine: Engine | None = None,
  file_format: Literal['arrow', 'parquet', 'array_record'] = 'arrow',
  max_rejected_share: float = 0.001,
  overwrite: bool = False,
  progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], bool]:
  """Makes a folder with one record file a split and a `dataset.json`.

  Args:
    out: Folder to make; intermediate files are beside it.
    source: See `table_raw.find_files`.
    schema: Columns of the source.
    config: How rows become tasks.
    engine: What does the work; the files do not depend on it.
    file_format: Format of the record files.
    max_rejected_share: Largest share of malformed rows to go on with.
    overwrite: Replace data made with another configuration.
    progress: Called with a text at the start of each step.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or the source does not fit the
      schema.
    FileNotFoundError: No such source.
  """
  engine = engine or Engine()
  files = table_raw.find_files(source)
  made_of = {
    'format_version': _FORMAT_VERSION,
    'data': fingerprint(files),
    'format': file_format,
    'max_rejected_share': max_rejected_share,
    **json.loads(json.dumps(dataclasses.asdict(schema))),
    **{f'tasks.{k}': v for k, v in dataclasses.asdict(config).items()},
  }
  return output_folder.make(
    out,
    made_of,
    lambda stage, work: _make(
      stage,
      work,
      files,
      schema,
      config,
      engine,
      file_format,
      max_rejected_share,
      progress,
    ),
    overwrite=overwrite,
  )


def _make(
  stage: pathlib.Path,
  work: pathlib.Path,
  files: list[pathlib.Path],
  schema: TableSchema,
  config: TableConfig,
  engine: Engine,
  file_format: str,
  max_rejected_share: float,
  progress: Callable[[str], None],
) -> dict[str, Any]:
  """Writes all files; returns the description."""
  for name in ('raw', 'steps', 'spill'):
    (work / name).mkdir()
  with engine_lib.duckdb(work, engine) as con:
    num_rows, num_rejected = table_raw.write_rows(
      con,
      files,
      schema,
      work / 'raw',
      max_rejected_share=max_rejected_share,
      rejected_path=work / output_folder.REJECTED,
      progress=progress,
    )
  with engine_lib.backend(work, engine) as con:
    rows = prepare.read_parquet(con, work / 'raw', '*.parquet')
    sorted_rows = table_tasks.build(
      con, rows, schema, config, work / 'steps', progress
    )
    features, id_files = _write_ids(sorted_rows, stage)
  # The engine has given its memory back.
  written = _write(sorted_rows, stage, schema, config, file_format, progress)
  written['files'] |= id_files
  scenarios = [split for split in written['splits'] if split != 'train']
  return {
    'name': schema.name,
    'kind': schema.kind,
    'label': schema.label,
    'numeric': list(schema.numeric),
    'task_feature': schema.task if schema.task in schema.features else None,
    'scenarios': scenarios,
    'seed': config.seed,
    'query_size': config.query_size,
    'counts': {
      'rows': num_rows,
      'tasks': len(sorted_rows.num_rows),
      'cold_tasks': int((~sorted_rows.is_warm).sum()),
      'rejected_lines': num_rejected,
    },
    'format': file_format,
    'features': features,
    **written,
  }


def _write(
  rows: table_tasks.SortedRows,
  folder: pathlib.Path,
  schema: TableSchema,
  config: TableConfig,
  file_format: str,
  progress: Callable[[str], None],
) -> dict[str, Any]:
  """Writes the splits; returns 'schema', 'splits' and 'files'."""
  fields = {
    'task': Field('int32'),
    'num_query': Field('int32'),
    'timestamp': Field('int64', 1),
    schema.label: Field('float32', 1),
    **{name: Field('int32', 1) for name in schema.features},
    **{name: Field('int32', 2, n) for name, n in rows.widths.items()},
    **{name: Field('float32', 1) for name in schema.numeric},
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
  rows: table_tasks.SortedRows, folder: pathlib.Path
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


def fingerprint(files: list[pathlib.Path]) -> str:
  """Returns a SHA-256 over the content of the files."""
  result = hashlib.sha256()
  for path in files:
    with open(path, 'rb') as file:
      result.update(hashlib.file_digest(file, 'sha256').digest())
  return f'sha256:{result.hexdigest()}'


def counts_table(description: Mapping[str, Any]) -> list[list[str]]:
  """Returns the counts of each split, the first row is the heading."""
  table = [['split', 'tasks', 'records', 'rows']]
  for split, counts in description['splits'].items():
    table.append([split, *(f'{n:,}' for n in counts.values())])
  return table
