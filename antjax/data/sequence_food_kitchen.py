# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads sequences over Amazon's Food and Kitchen as LLMCDSR ships them.

Source: https://github.com/xhran2010/LLMCDSR, data/food-kitchen. A folder holds
`items_A.jsonl` (Food) and `items_B.jsonl` (Kitchen), a JSON object a line with
asin, index and title, and `train_A`, `train_B`, `train_overlap`, `valid` and
`test`, each `.txt` with a line a user: a number, a tab, and the items in time,
parted by commas. Items of B are numbered after those of A. Each file may be
packed as `.xz`. The data set splits its users; there are no times.
"""

from collections.abc import Callable, Iterator
import json
import lzma
import os
import pathlib
import re
from typing import Any, IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import rejected_lines, sequence_amazon, table_files
from antjax.data.sequence_build import SequenceSource

DOMAINS = ('Food', 'Kitchen')
_ITEMS = ('items_A.jsonl', 'items_B.jsonl')
# File -> place of its users in `sequence_data.SPLITS`.
_USERS = {
  'train_A.txt': 0,
  'train_B.txt': 0,
  'train_overlap.txt': 0,
  'valid.txt': 1,
  'test.txt': 2,
}
_LINE = re.compile(r'[0-9]+\t[0-9]+(,[0-9]+)*')


def find_files(source: str | os.PathLike[str]) -> dict[str, pathlib.Path]:
  """Returns the name of each file -> where it is, packed or not.

  Raises:
    FileNotFoundError: A file is missing.
  """
  folder = pathlib.Path(source)
  found = {}
  for name in (*_ITEMS, *_USERS):
    paths = [p for p in (folder / name, folder / f'{name}.xz') if p.is_file()]
    if not paths:
      raise FileNotFoundError(
        f'source={source} has neither {name} nor {name}.xz; needed is a folder'
        f' with {", ".join((*_ITEMS, *_USERS))}.'
      )
    found[name] = paths[0]
  return found


def fingerprint(source: str | os.PathLike[str]) -> str:
  """Returns a SHA-256 over the content of the files."""
  return table_files.fingerprint(list(find_files(source).values()))


def read(
  source: str | os.PathLike[str],
  work: pathlib.Path,
  rejected: pathlib.Path,
  *,
  max_rejected_share: float,
  progress: Callable[[str], None],
) -> SequenceSource:
  """Writes events, items and users as `SequenceSource` says.

  Args:
    source: The folder.
    work: Folder with the empty folder raw.
    rejected: CSV file for malformed lines, made only if needed.
    max_rejected_share: Largest share of malformed lines to go on with.
    progress: Called with a text at the start of each file.

  Raises:
    ValueError: Too many malformed lines, or items that are not numbered in
      their order.
    FileNotFoundError: A file is missing.
  """
  files = find_files(source)
  bad = rejected_lines.BadLines(rejected)
  keys, items = _items(files, progress)
  events: list[pa.Table] = []
  users: dict[str, list[Any]] = {'user': [], 'split': []}
  num_lines = 0
  for name, split in _USERS.items():
    progress(f'reading {files[name].name}')
    rows: list[np.ndarray] = []
    first = len(users['user'])
    for number, line in enumerate(_lines(files[name]), 1):
      num_lines += 1
      ids = _ids(line, len(keys))
      if isinstance(ids, str):
        bad.add(files[name], number, ids, line)
        continue
      users['user'].append(f'{name.removesuffix(".txt")}:{line.split()[0]}')
      users['split'].append(split)
      rows.append(ids)
    if rows:
      events.append(_events(users['user'][first:], rows, keys))
  bad.close(num_lines, str(source), max_rejected_share)
  folders = [work / 'raw' / name for name in ('events', 'items', 'users')]
  tables = [
    pa.concat_tables(events),
    items,
    pa.table(
      {
        'user': pa.array(users['user'], pa.string()),
        'split': pa.array(users['split'], pa.int8()),
      }
    ),
  ]
  for folder, table in zip(folders, tables, strict=True):
    folder.mkdir()
    pq.write_table(table, folder / 'rows.parquet')
  return SequenceSource(
    folders[0],
    folders[1],
    DOMAINS,
    folders[2],
    {
      'name': 'amazon-food-kitchen',
      'acknowledgement': sequence_amazon.ACKNOWLEDGEMENT,
      'counts': {'lines': num_lines, 'rejected_lines': bad.num_lines},
    },
  )


def _items(
  files: dict[str, pathlib.Path], progress: Callable[[str], None]
) -> tuple[list[str], pa.Table]:
  """Returns the items' names in the order of their numbers, and their table."""
  columns: dict[str, list[Any]] = {'item': [], 'domain': [], 'title': []}
  for name, domain in zip(_ITEMS, DOMAINS, strict=True):
    progress(f'reading {files[name].name}')
    for number, line in enumerate(_lines(files[name])):
      try:
        row = json.loads(line)
        item, index, title = row['asin'], row['index'], row['title']
      except (ValueError, KeyError, TypeError) as e:
        raise ValueError(
          f'{files[name]}, line {number + 1}: no asin, index and title ({e!r});'
          ' the items are numbered by their lines, so none may be left out.'
        ) from e
      if index != number:
        raise ValueError(
          f'{files[name]}, line {number + 1}: index {index}; needed: {number},'
          ' the place of the line.'
        )
      columns['item'].append(str(item))
      columns['domain'].append(domain)
      columns['title'].append(str(title or ''))
  keys = columns['item']
  return keys, pa.table(
    {name: pa.array(values, pa.string()) for name, values in columns.items()}
    | {'row': pa.array(range(len(keys)), pa.int64())}
  )


def _ids(line: str, num_items: int) -> np.ndarray | str:
  """Returns the items of a line, or why they cannot be read."""
  if not _LINE.fullmatch(line):
    return 'needed: a number, a tab, items parted by commas'
  ids = np.array(line.split('\t')[1].split(','), np.int64)
  if ids.max() >= num_items:
    return f'item {ids.max()}; there are {num_items}, counted from 0'
  return ids


def _events(
  users: list[str], rows: list[np.ndarray], keys: list[str]
) -> pa.Table:
  """Events of users; the place in the line is the time."""
  lengths = np.array([len(ids) for ids in rows])
  ends = np.cumsum(lengths)
  place = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
  user = pa.array(users, pa.string()).take(
    pa.array(np.repeat(np.arange(len(users)), lengths))
  )
  item = pa.array(keys, pa.string()).take(pa.array(np.concatenate(rows)))
  return pa.table(
    {
      'user': user,
      'item': item,
      'time': pa.array(place.astype(np.int64)),
      'tie': pa.array(np.zeros(len(place))),
    }
  )


def _lines(path: pathlib.Path) -> Iterator[str]:
  """Yields the lines that are not empty, without their ends."""
  opened: IO[str] = (
    lzma.open(path, 'rt', encoding='utf-8')
    if path.suffix == '.xz'
    else open(path, encoding='utf-8')
  )
  with opened as file:
    for line in file:
      if line.strip():
        yield line.rstrip('\r\n')
