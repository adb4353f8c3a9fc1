# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Differences between two exports, and how to apply them.

A delta holds the rows that differ, the dense parameters and whatever else is
new. Rows are matched by the keys of their vocabulary, so that a row which only
has another id is not sent again. Applied to the old export it gives the new one
bit for bit. Rows are read block by block: tables may be larger than memory.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from antjax import paths
from antjax.serving import exporter, loader

DELTA = 'delta.json'
FORMAT = 'antjax.serving.delta'
FORMAT_VERSION = 1
_BLOCK = 1 << 16  # Rows compared or copied at once.


def write(
  base: str | os.PathLike[str],
  new: str | os.PathLike[str],
  out: str | os.PathLike[str],
) -> dict[str, Any]:
  """Writes the delta that `apply` needs to turn one full export into another.

  Args:
    base: Folder of the export that is served now.
    new: Folder of the export to be served.
    out: Folder to make; must not exist.

  Returns:
    What delta.json says: for each table its 'rows', how many are 'changed' and
    whether rows have 'moved' to other ids.

  Raises:
    ValueError: A table is stored in two ways.
  """
  base, new = paths.fetched(base, 'base'), pathlib.Path(new)
  old_manifest = loader.read_manifest(base)
  manifest = loader.read_manifest(new)
  description: dict[str, Any] = {
    'format': FORMAT,
    'format_version': FORMAT_VERSION,
    'base': exporter.sha256(base / loader.MANIFEST),
    'tables': {},
  }
  with exporter.new_folder(out) as stage:
    (stage / 'tables').mkdir()
    shutil.copyfile(new / loader.MANIFEST, stage / loader.MANIFEST)
    for name, table in manifest['tables'].items():
      old = old_manifest['tables'].get(name)
      _check_storage(name, old, table)
      source = _sources(name, (base, old_manifest), (new, manifest))
      changed, parts = _changed(base, new, old, table, source)
      is_moved = not np.array_equal(source, np.arange(len(source)))
      if is_moved:
        parts['source'] = source
      np.savez(stage / _path(name), **parts)
      description['tables'][name] = {
        'rows': table['rows'],
        'changed': changed,
        'moved': is_moved,
      }
    for path in _plain_files(manifest):
      if old_manifest['files'].get(path) != manifest['files'][path]:
        target = stage / 'files' / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(new / path, target)
    text = json.dumps(description, indent=2) + '\n'
    (stage / DELTA).write_text(text, encoding='utf-8')
  return description


def apply(
  base: str | os.PathLike[str],
  delta: str | os.PathLike[str],
  out: str | os.PathLike[str],
) -> None:
  """Makes the new export of the old one and a delta.

  Args:
    base: Folder of the old full export; it is kept.
    delta: Folder that `write` made.
    out: Folder to make; must not exist.

  Raises:
    FileNotFoundError: There is no delta.
    ValueError: The delta is of another base, or its files are damaged.
  """
  base, delta = paths.fetched(base, 'base'), paths.fetched(delta, 'delta')
  if not (delta / DELTA).is_file():
    raise FileNotFoundError(
      f'{delta} holds no {DELTA}; launch/export_gmeta.py --since writes one.'
    )
  description = json.loads((delta / DELTA).read_text(encoding='utf-8'))
  if description.get('format_version') != FORMAT_VERSION:
    raise ValueError(
      f'{delta} is of version {description.get("format_version")}; this code'
      f' applies {FORMAT_VERSION}. Use the same release of antjax.'
    )
  old_manifest = loader.read_manifest(base)
  if exporter.sha256(base / loader.MANIFEST) != description['base']:
    raise ValueError(
      f'{delta} does not follow {base}: it was made for another full export.'
      ' Apply deltas in the order of their days, or take a full export.'
    )
  text = (delta / loader.MANIFEST).read_text(encoding='utf-8')
  manifest = json.loads(text)
  with exporter.new_folder(out) as stage:
    for path in manifest['files']:
      (stage / path).parent.mkdir(parents=True, exist_ok=True)
    for path in _plain_files(manifest):
      sent = delta / 'files' / path
      shutil.copyfile(sent if sent.exists() else base / path, stage / path)
    for name, table in manifest['tables'].items():
      old = old_manifest['tables'].get(name)
      with np.load(delta / _path(name)) as parts:
        source = parts['source'] if 'source' in parts else None
        if source is None:
          source = np.arange(table['rows'])
        for part, path in _parts(table):
          was = None if old is None else _open(base / old[part])
          values = parts[part]
          _rebuild(stage / path, was, source, parts['changed'], values)
    for path, facts in manifest['files'].items():
      if exporter.sha256(stage / path) != facts['sha256']:
        raise ValueError(
          f'{path} made of {base} and {delta} is not what was exported: one of'
          ' them is damaged; copy them again.'
        )
    (stage / loader.MANIFEST).write_text(text, encoding='utf-8')


def _path(table: str) -> str:
  return f'tables/{exporter.file_stem(table)}.npz'


def _parts(table: Mapping[str, Any]) -> list[tuple[str, str]]:
  """(part, file) of a table: its values, and the scale if it has one."""
  return [(n, table[n]) for n in ('values', 'scale') if table[n]]


def _plain_files(manifest: Mapping[str, Any]) -> list[str]:
  """Files that are no tables: sent whole where they differ."""
  tables = {p for t in manifest['tables'].values() for _, p in _parts(t)}
  return [path for path in manifest['files'] if path not in tables]


def _open(path: pathlib.Path) -> np.ndarray:
  return np.load(path, mmap_mode='r')


def _check_storage(name, old, table):
  if old is None:
    return
  ways = [(t['dim'], 'int8' if t['scale'] else 'float32') for t in (old, table)]
  if ways[0] != ways[1]:
    raise ValueError(
      f'table {name} has width {ways[0][0]} as {ways[0][1]} in the base and'
      f' width {ways[1][0]} as {ways[1][1]} in the new export; a delta needs'
      ' the same of both. Give --quantize as for the base, or take a full'
      ' export.'
    )


def _sources(name, old, new):
  """For each row of the new table the same key's row in the old one, or -1."""
  (base, old_manifest), (folder, manifest) = old, new
  num_rows = manifest['tables'][name]['rows']
  source = np.full(num_rows, -1, np.int32)
  if name not in old_manifest['tables']:
    return source
  num_old = old_manifest['tables'][name]['rows']
  keyed = [
    f
    for f, facts in manifest['features'].items()
    if facts['table'] == name
    and f in manifest['vocabularies']
    and f in old_manifest['vocabularies']
  ]
  if not keyed:
    same = min(num_rows, num_old)
    source[:same] = np.arange(same)
    return source
  olds, news = (
    [np.load(where / path) for path in m['vocabularies'][keyed[0]].values()]
    for where, m in ((base, old_manifest), (folder, manifest))
  )
  source = match_rows(olds, news, num_old, num_rows)
  # Rows without a key: each is compared with its like.
  is_unused = np.ones(num_rows, bool)
  is_unused[news[1]] = False
  unused = np.flatnonzero(is_unused[:num_old])
  source[unused] = unused
  return source


def match_rows(old, new, num_old: int, num_new: int) -> np.ndarray:
  """The old row of the same key for each new row, int32 [num_new].

  `old` and `new` are (keys [n], ids [n]) of the vocabularies of tables of so
  many rows. A key that is new has -1. Row 0, which stands for what is unknown,
  stays where no key has it.
  """
  source = np.full(num_new, -1, np.int32)
  _, at_old, at_new = np.intersect1d(
    old[0], new[0], assume_unique=True, return_indices=True
  )
  source[new[1][at_new]] = old[1][at_old]
  if 0 not in old[1] and 0 not in new[1]:
    source[0] = 0
  if source.max(initial=-1) >= num_old:
    raise ValueError(
      f'match_rows: a key has id {source.max()} in the old vocabulary, whose'
      f' table has {num_old} rows; they are not of one model.'
    )
  return source


def _blocks(num_rows: int) -> list[slice]:
  starts = range(0, num_rows, _BLOCK)
  return [slice(start, min(start + _BLOCK, num_rows)) for start in starts]


def _changed(base, new, old, table, source):
  """Number of rows that differ from their source, and the arrays to send."""
  differs = source < 0
  for part, path in _parts(table) if old is not None else ():
    was, now = _open(base / old[part]), _open(new / path)
    for rows in _blocks(len(source)):
      same = _bits(now[rows]) == _bits(was[np.maximum(source[rows], 0)])
      differs[rows] |= ~same.all(axis=1)
  changed = np.flatnonzero(differs)
  arrays = {part: _open(new / path)[changed] for part, path in _parts(table)}
  return len(changed), {'changed': changed, **arrays}


def _bits(array: np.ndarray) -> np.ndarray:
  """Bytes of each row: nan equals itself, and -0 is not 0."""
  array = np.ascontiguousarray(array)
  return array.view(np.uint8).reshape(len(array), -1)


def _rebuild(path, was, source, changed, values):
  """Writes a table: old rows where they belong now, changed ones over them."""
  shape = (len(source), *values.shape[1:])
  now = np.lib.format.open_memmap(path, 'w+', values.dtype, shape)
  if was is not None:
    for rows in _blocks(len(source)):
      now[rows] = was[np.maximum(source[rows], 0)]
  now[changed] = values
  now.flush()
