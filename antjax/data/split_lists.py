# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lists of the pairs of user and item that make each split of a log."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib

import pyarrow as pa
from pyarrow import csv as arrow_csv
import pyarrow.parquet as pq

USER, ITEM, SPLIT = '__list_user', '__list_item', '__split'


def find_files(
  folder: str | os.PathLike[str], lists: Mapping[str, Sequence[str]]
) -> dict[pathlib.Path, str]:
  """Returns the files of lists (split -> names) beside a log -> their splits.

  Raises:
    FileNotFoundError: No such file.
  """
  folder = pathlib.Path(folder)
  folder = folder if folder.is_dir() else folder.parent
  found = {folder / n: split for split, names in lists.items() for n in names}
  for path in found:
    if not path.is_file():
      raise FileNotFoundError(
        f'{path}, a list of the split {found[path]}, does not exist; needed are'
        ' JSON files of user: [items], or tables with the columns of both.'
      )
  return found


def read(files: Mapping[pathlib.Path, str], user: str, item: str) -> pa.Table:
  """Reads lists: texts `USER`, `ITEM` and `SPLIT`, each pair once.

  In lists that are tables, `user` and `item` name the columns.

  Raises:
    ValueError: A list is of another form, or a pair is in two splits.
  """
  parts = []
  for path, split in files.items():
    pairs = _pairs(path, user, item)
    named = pa.repeat(pa.scalar(split), len(pairs))
    parts.append(pairs.append_column(SPLIT, named))
  pairs = pa.concat_tables(parts).group_by([USER, ITEM, SPLIT]).aggregate([])
  counts = pairs.group_by([USER, ITEM]).aggregate([([], 'count_all')])
  twice = counts.filter(pa.compute.greater(counts['count_all'], 1))
  if len(twice):
    row = twice.slice(0, 1).to_pylist()[0]
    raise ValueError(
      f'lists: {len(twice)} pairs are in several splits; the first is user'
      f' {row[USER]}, item {row[ITEM]}. Needed: each pair in one split.'
    )
  return pairs


def _pairs(path: pathlib.Path, user: str, item: str) -> pa.Table:
  if path.suffix.lower() == '.json':
    try:
      listed = json.loads(path.read_text(encoding='utf-8'))
      every = [(u, i) for u, items in listed.items() for i in items]
    except (ValueError, AttributeError, TypeError) as e:
      raise ValueError(
        f'{path} is no list of a split ({e}); needed: JSON, user: [items].'
      ) from e
    users, items = zip(*every) if every else ((), ())
    columns = [[str(x) for x in values] for values in (users, items)]
    return pa.table(dict(zip((USER, ITEM), map(_texts, columns))))
  if path.suffix.lower() == '.parquet':
    table = pq.read_table(path)
  else:
    mark = '\t' if path.suffix.lower() == '.tsv' else ','
    kinds = {user: pa.string(), item: pa.string()}
    table = arrow_csv.read_csv(
      path,
      parse_options=arrow_csv.ParseOptions(delimiter=mark),
      convert_options=arrow_csv.ConvertOptions(column_types=kinds),
    )
  if missing := [n for n in (user, item) if n not in table.column_names]:
    raise ValueError(
      f'{path} has no column {", ".join(missing)}; it has'
      f' {", ".join(table.column_names)}.'
    )
  return (
    table.select([user, item])
    .cast(pa.schema({user: pa.string(), item: pa.string()}))
    .rename_columns([USER, ITEM])
  )


def _texts(values: list[str]) -> pa.Array:
  return pa.array(values, pa.string())
