# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder of prepared data that is either whole or not there.

The folder's `dataset.json` names its configuration and its files. Data are
written to a hidden folder beside it, which takes its name only at the end.
"""

from collections.abc import Callable, Iterable, Mapping
import json
import os
import pathlib
import re
import shutil
from typing import Any

from etils import epath

from antjax import paths
from antjax.data import record_schema, records

DESCRIPTION = 'dataset.json'
REJECTED = 'rejected.csv'


def load_description(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads the `dataset.json` of a prepared folder.

  Raises:
    FileNotFoundError: The folder holds no prepared data.
    ValueError: `dataset.json` is not one of ours.
  """
  path = paths.fetched(folder, 'data') / DESCRIPTION
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is missing: {folder} holds no prepared data;'
      ' launch/prepare_data.py (antjax-prepare-data) writes it.'
    )
  try:
    description = json.loads(path.read_text(encoding='utf-8'))
    if not {'config', 'files'} <= description.keys():
      raise ValueError('no config and files')
  except (AttributeError, ValueError) as e:
    raise ValueError(
      f'{path} was not written by launch/prepare_data.py ({e}).'
    ) from e
  return description


def find_view(folder: str | os.PathLike[str], view: str) -> pathlib.Path:
  """Returns the folder of a view (tasks, examples or sequences) of a data set.

  `folder` is that of the data set, with a folder for each view, or the view's.

  Raises:
    FileNotFoundError: The data set is there, but not this view.
  """
  paths.check(folder, 'data')
  root = epath.Path(folder)  # Of a URL only the view is copied.
  if (root / view / DESCRIPTION).exists():
    return paths.fetched(root / view)
  if (root / 'events' / DESCRIPTION).exists():
    raise FileNotFoundError(
      f'{folder} has no {view}; launch/prepare_data.py --views={view}'
      f' --out={folder} makes them, with the source as before.'
    )
  return paths.fetched(root)


def open_view(
  folder: str | os.PathLike[str], view: str
) -> tuple[pathlib.Path, dict[str, Any]]:
  """The folder of a view, see `find_view`, and the content of its description.

  Raises:
    ValueError: The folder holds something else.
  """
  found = find_view(folder, view)
  description = load_description(found)
  if view == 'examples' and description.get('kind') != 'behaviors':
    raise ValueError(
      f'data={folder} holds {description.get("name")}, no clicks;'
      f' launch/prepare_data.py --views={view} makes them.'
    )
  return found, description


def beside(
  folder: str | os.PathLike[str], view: str, name: str
) -> pathlib.Path:
  """A folder in a data set's; of a URL in the local copy of its view."""
  if paths.is_url(folder):
    return find_view(folder, view) / name
  return pathlib.Path(folder) / name


def check_files(
  folder: str | os.PathLike[str], description: Mapping[str, Any], under: str
) -> None:
  """Refuses files, whose paths begin with `under`, that are not as written.

  Raises:
    ValueError: Some are gone or of another size; the message names them.
  """
  sizes = {f['path']: f['bytes'] for f in description['files'].values()}
  damaged = _damaged(
    pathlib.Path(folder),
    {p: n for p, n in sizes.items() if p.startswith(under)},
  )
  if damaged:
    raise ValueError(
      f'data={folder} is damaged: {"; ".join(damaged)}; copy the folder again,'
      ' or make it again with launch/prepare_data.py --overwrite.'
    )


def _damaged(folder: pathlib.Path, sizes: Mapping[str, int]) -> list[str]:
  """What is wrong with each file that is not there as it was written."""
  found = []
  for path, size in sizes.items():
    file = folder / path
    if not file.is_file():
      found.append(f'{path} is gone')
    elif file.stat().st_size != size:
      found.append(f'{path} has {file.stat().st_size} bytes of {size}')
  return found


def open_split(
  folder: str | os.PathLike[str], split: str, *, as_blocks: bool = False
) -> records.Source:
  """Opens the records of a split as the `dataset.json` of the folder says.

  For `as_blocks`, see `records.open_source`.

  Raises:
    FileNotFoundError: The folder holds no prepared data.
    ValueError: It has no such split, or was prepared by an older version.
  """
  description = load_description(folder)
  splits = description.get('splits', {})
  if split not in splits:
    raise ValueError(
      f'open_split: {folder} has no split {split!r}; it has'
      f' {", ".join(splits)}.'
    )
  if 'schema' not in description:
    raise ValueError(
      f'open_split: {folder}/{DESCRIPTION} has no schema: it was made by an'
      ' older version; make it again with --overwrite.'
    )
  return records.open_source(
    split_files(paths.fetched(folder), description, split),
    record_schema.schema_from_json(description['schema']),
    as_blocks=as_blocks,
  )


def split_files(
  folder: pathlib.Path, description: Mapping[str, Any], split: str
) -> list[pathlib.Path]:
  """Returns the files of a split, in order; none where there is no such split.

  Many records are in train-00000-of-00008.arrow, ..., few in train.arrow.
  """
  part = re.compile(re.escape(split) + r'(-[0-9]{5}-of-[0-9]{5})?\.[a-z_]+')
  found = (entry['path'] for entry in description['files'].values())
  return [folder / path for path in sorted(found) if part.fullmatch(path)]


def is_current(
  folder: str | os.PathLike[str],
  config: Mapping[str, Any],
  *,
  overwrite: bool,
) -> bool:
  """Tells whether a folder already holds the data that `config` describes.

  The config is JSON-able and says all that decides the content; with
  `overwrite` data of ours may be replaced.

  Returns:
    True: there is nothing to do. False: the folder may be written.

  Raises:
    ValueError: The folder holds other data, or files that are not ours.
  """
  folder = paths.local(folder, 'out')
  if not folder.exists():
    return False
  if not folder.is_dir():
    raise ValueError(f'out={folder} is a file; needed: a folder.')
  present = {
    str(p.relative_to(folder)) for p in folder.rglob('*') if not p.is_dir()
  }
  if present <= {REJECTED}:  # Empty, or what a refused run leaves.
    return False
  if DESCRIPTION not in present:
    raise ValueError(
      f'out={folder} is not empty and has no {DESCRIPTION}: it holds no'
      ' prepared data; choose another folder.'
    )
  description = load_description(folder)
  sizes = {f['path']: f['bytes'] for f in description['files'].values()}
  foreign = sorted(present - {DESCRIPTION, REJECTED, *sizes})
  if overwrite and foreign:
    raise ValueError(
      f'out={folder} also holds {", ".join(foreign)}, which overwrite would'
      ' delete; move them or choose another folder.'
    )
  if overwrite:
    return False
  damaged = _damaged(folder, sizes)
  if damaged:
    raise ValueError(
      f'out={folder} is damaged ({", ".join(damaged)}); add --overwrite to'
      ' make it again.'
    )
  if description['config'] != dict(config):
    old, new = description['config'], dict(config)
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    text = ', '.join(f'{k}={old.get(k)} (now {new.get(k)})' for k in changed)
    raise ValueError(
      f'out={folder} holds data made with {text}; add --overwrite to replace'
      ' them, or choose another folder.'
    )
  return True


def make(
  folder: str | os.PathLike[str],
  config: Mapping[str, Any],
  write_fn: Callable[[pathlib.Path, pathlib.Path], Mapping[str, Any]],
  *,
  overwrite: bool,
) -> tuple[dict[str, Any], bool]:
  """Makes a folder of data unless it holds them already.

  Args:
    folder: Folder to make; intermediate files are beside it.
    config: See `is_current`.
    write_fn: (folder to write the data to, folder for intermediate files) ->
      content of `dataset.json` without `config`. Malformed lines go to the
      file `REJECTED` of the second.
    overwrite: Whether data of ours may be replaced.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: The folder holds other data or files that are not ours, or
      `write_fn` raised one; the malformed lines are kept, see `_keep_rejected`.
  """
  with paths.written(folder) as folder:
    if is_current(folder, config, overwrite=overwrite):
      return load_description(folder), False
    with paths.staged(folder) as stage:
      work = stage.with_name('work')
      work.mkdir()
      rejected = work / REJECTED
      try:
        description = {**write_fn(stage, work), 'config': dict(config)}
      except ValueError as e:
        raise ValueError(_keep_rejected(str(e), rejected, folder)) from e
      if rejected.exists():
        shutil.copy(rejected, stage / REJECTED)
      text = json.dumps(description, indent=2, ensure_ascii=False)
      (stage / DESCRIPTION).write_text(text + '\n', encoding='utf-8')
  return description, True


def file_entry(
  folder: pathlib.Path, path: pathlib.Path
) -> Mapping[str, str | int]:
  """What a description says of a file in the folder."""
  return {
    'path': str(path.relative_to(folder)),
    'bytes': path.stat().st_size,
  }


def list_files(
  folder: pathlib.Path, splits: Iterable[str] = ()
) -> dict[str, Mapping[str, str | int]]:
  """Returns the entry 'files' of a description, splits by their names."""
  files = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      name = str(path.relative_to(folder))
      key = path.stem if path.stem in splits and '/' not in name else name
      files[key] = file_entry(folder, path)
  return files


def _keep_rejected(
  message: str, rejected: pathlib.Path, out: str | os.PathLike[str]
) -> str:
  """Keeps the malformed lines of a refused run; returns the message for it.

  They go to `out` where that is new or holds only those of an earlier run, and
  otherwise beside it: data of ours are not changed by a run that is refused.
  """
  if not rejected.exists():
    return message
  folder = pathlib.Path(os.path.abspath(out))
  kept = folder / REJECTED
  if (folder / DESCRIPTION).exists():
    kept = folder.with_name(f'{folder.name}.{REJECTED}')
  kept.parent.mkdir(parents=True, exist_ok=True)
  shutil.copy(rejected, kept)
  if str(rejected) not in message:
    message += f' Malformed lines, perhaps the cause, are listed in {kept}.'
  return message.replace(str(rejected), str(kept))
