# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Amazon's Food and Kitchen, as LLMCDSR ships them, as events.

Source: https://github.com/xhran2010/LLMCDSR, data/food-kitchen. A folder holds
`items_A.jsonl` (Food) and `items_B.jsonl` (Kitchen), a JSON object a line with
asin, index and title, and `train_A`, `train_B`, `train_overlap`, `valid` and
`test`, each `.txt` with a line a user: a number, a tab, and the items in time,
parted by commas. Items of B are numbered after those of A. Each file may be
packed as `.xz`. The data set splits its users; there are no times.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import json
import lzma
import os
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import event_amazon, prepare
from antjax.data.events import EventWriter, ITEM, ROW, Source
from antjax.data.rejects import BadRow

DOMAINS = ('Food', 'Kitchen')
_ITEMS = ('items_A.jsonl', 'items_B.jsonl')
# File -> part of its users.
_USERS = {
  'train_A.txt': 'train',
  'train_B.txt': 'train',
  'train_overlap.txt': 'train',
  'valid.txt': 'validation',
  'test.txt': 'test',
}
_TEXTS = ('user', 'item', 'title', 'domain', 'split')
SCHEMA = dataclasses.replace(
  event_amazon.SCHEMA,
  name='amazon-food-kitchen',
  columns={**dict.fromkeys(_TEXTS, 'string'), 'time': 'int64'},
  split='split',
)
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


def source(path: str | os.PathLike[str]) -> Source:
  """Names the events; see `find_files`."""
  files = find_files(path)
  made_of = {'data': prepare.fingerprint(list(files.values()))}
  return Source(SCHEMA, made_of, functools.partial(_write, path, files))


def _write(
  path: str | os.PathLike[str],
  files: dict[str, pathlib.Path],
  step: EventWriter,
) -> dict[str, Any]:
  num_bad = 0
  keys, items = _items(files, step.progress)
  parts: list[pa.Table] = []
  num_lines = num_rows = 0
  for name, split in _USERS.items():
    step.progress(f'reading {files[name].name}')
    users: list[str] = []
    rows: list[np.ndarray] = []
    for number, line in enumerate(_lines(files[name]), 1):
      num_lines += 1
      ids = _ids(line, len(keys))
      if isinstance(ids, str):
        step.rejects.add(path, [BadRow(number, 'items', 'line', ids, line)])
        num_bad += 1
        continue
      users.append(f'{name.removesuffix(".txt")}:{line.split()[0]}')
      rows.append(ids)
    if rows:
      parts.append(_events(users, rows, keys, split, num_rows))
      num_rows += parts[-1].num_rows
  step.rejects.check(path, num_bad, num_lines)
  pq.write_table(pa.concat_tables(parts), step.part('rows') / 'rows.parquet')
  pq.write_table(items, step.part('items') / 'items.parquet')
  return {
    'acknowledgement': event_amazon.ACKNOWLEDGEMENT,
    'domains': list(DOMAINS),
    'counts': {'lines': num_lines, 'rejected_lines': num_bad},
  }


def _items(
  files: dict[str, pathlib.Path], progress: Callable[[str], None]
) -> tuple[list[str], pa.Table]:
  """Returns the items' names in the order of their numbers, and their table."""
  columns: dict[str, list[Any]] = {ITEM: [], 'domain': [], 'title': []}
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
      columns[ITEM].append(str(item))
      columns['domain'].append(domain)
      columns['title'].append(str(title or ''))
  keys = columns[ITEM]
  return keys, pa.table(
    {name: pa.array(values, pa.string()) for name, values in columns.items()}
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
  users: list[str],
  rows: list[np.ndarray],
  keys: list[str],
  split: str,
  first_row: int,
) -> pa.Table:
  """Events of users; the place in the line is the time."""
  lengths = np.array([len(ids) for ids in rows])
  ends = np.cumsum(lengths)
  place = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
  of = np.repeat(np.arange(len(users)), lengths)
  items = np.concatenate(rows)
  return pa.table(
    {
      'user': pa.array(users, pa.string()).take(pa.array(of)),
      'item': pa.array(keys, pa.string()).take(pa.array(items)),
      'time': pa.array(place.astype(np.int64)),
      'split': pa.array([split] * len(place), pa.string()),
      ROW: pa.array(np.arange(first_row, first_row + len(place))),
    }
  )


def _lines(path: pathlib.Path) -> Iterator[str]:
  """Yields the lines that are not empty, without their ends."""
  opened = lzma.open if path.suffix == '.xz' else open
  with opened(path, 'rt', encoding='utf-8') as file:
    for line in file:
      if line.strip():
        yield line.rstrip('\r\n')
