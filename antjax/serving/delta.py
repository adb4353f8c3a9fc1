# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The next ordered delta to a newly trained model, and exports of deltas.

The new model may have ids of its own: rows are matched by the keys of their
vocabulary, so a key keeps its row, and a row which only has another id is not
sent again. See `live.py` for what a delta holds and `feed.py` for its file.
"""

from collections.abc import Iterable, Iterator
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np

from antjax import paths
from antjax.serving import exporter, feed, loader
from antjax.serving.click_loader import ARRAYS, ClickScorer
from antjax.serving.live import Live, LiveTable

_BLOCK = 1 << 16  # Rows copied at once.
# What code and requests depend on: no delta changes it.
_FIXED = ('kind', 'label', 'numeric', 'support_sizes', 'query_size', 'features')


class Replayed(NamedTuple):
  """An export in the state after deltas.

  Attributes:
    folder: Its folder.
    model: The model.
    live: Its state.
    info: What the deltas say, the later ones' words before the earlier ones'.
  """

  folder: pathlib.Path
  model: loader.Model
  live: Live
  info: dict[str, Any]


def opened(
  base: str | os.PathLike[str], deltas: str | os.PathLike[str]
) -> Replayed:
  """Opens an export and takes all deltas of a folder into it.

  Raises:
    ValueError: One of them cannot be taken.
  """
  folder = paths.fetched(base, 'base')
  is_clicks = 'clicks' in loader.read_manifest(folder)
  model = (ClickScorer if is_clicks else loader.Model)(folder, is_live=True)
  digest, sequence = exporter.state_of(folder)
  live, info = Live(model, digest, sequence), dict[str, Any]()
  source = feed.DeltaFeed(deltas, digest, sequence)
  while (delta := source.next()) is not None:
    try:
      live.apply(delta)
    except feed.RefusedDelta as error:
      raise ValueError(f'deltas={deltas}: {error}') from error
    source.took(delta)
    info |= delta.info
  if source.trouble:
    raise ValueError(f'deltas={deltas}: {source.trouble}')
  return Replayed(folder, model, live, info)


def write(
  now: Replayed, new: exporter.Exported, deltas: str | os.PathLike[str]
) -> dict[str, tuple[int, int]]:
  """Writes the delta from a state to a newly trained model.

  Args:
    now: The state that servers have.
    new: The model.
    deltas: Folder of the deltas, which the new one is added to.

  Returns:
    Table -> (rows of the delta, rows of the table).

  Raises:
    ValueError: The models differ in more than rows, keys and parameters, or the
      new one has numbers that are not finite.
  """
  _check(now, new)
  arrays, tables = dict[str, np.ndarray](), {}
  for name, rows in new.tables.items():
    num_old = now.live.tables[name].num_rows
    features = [n for n, f in new.features.items() if f['table'] == name]
    keyed = {
      n: _Keys.of(now.model, n, *new.vocabularies[n])
      for n in features
      if n in new.vocabularies
    }
    ids = np.arange(len(rows))
    if len(features) == 1 and keyed:
      ids = keyed[features[0]].places(num_old, len(rows))
    for feature, one in keyed.items():
      arrays |= one.changes(feature, ids)
    tables[name] = _placed(ids, exporter.blocks(rows))
  arrays |= now.live.changes(new.params, tables)
  now.live.take(arrays)  # Nothing is written that servers would refuse.
  version = now.live.version
  number, digest = version['sequence'] + 1, version['digest']
  made = feed.write(deltas, number, digest, arrays, new.info)
  now.live.version = {'sequence': number, 'digest': made.digest}
  return {
    n: (len(arrays.get(f'rows/{n}', ())), now.live.tables[n].num_rows)
    for n in new.tables
  }


def _placed(
  ids: np.ndarray, blocks: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Rows that have a place in the live table, and which."""
  start = 0
  for rows in blocks:
    part = ids[start : start + len(rows)]
    yield part[part >= 0], rows[part >= 0]
    start += len(rows)


def _check(now: Replayed, new: exporter.Exported) -> None:
  old, is_new = now.model.manifest, dict[str, bool]()
  facts = {**new.info, **vars(new)}
  for name in _FIXED:
    was, given = old.get(name), facts.get(name)
    if name == 'features':
      was, given = (_without_sizes(x) for x in (was, given))
    is_new[name] = was != (list(given) if isinstance(given, tuple) else given)
  files = old['functions'].items()
  code = {name: (now.folder / path).read_bytes() for name, path in files}
  is_new['functions'] = code != dict(new.functions)
  for name, (_, ids) in new.vocabularies.items():
    is_first = 0 if np.min(ids, initial=1) > 0 else -1
    is_new[f'vocabularies/{name}'] = now.model.unknown.get(name) != is_first
  widths = {n: exporter.width(x) for n, x in new.tables.items()}
  is_new['tables'] = widths != {n: x.width for n, x in now.live.tables.items()}
  shapes = {n: np.shape(x) for n, x in new.params.items()}
  is_new['params'] = shapes != {n: x.shape for n, x in now.model.params.items()}
  if differing := [n for n, x in is_new.items() if x]:
    raise ValueError(
      f'{now.folder} and the new model differ in {", ".join(differing)}, which'
      ' no delta changes; write a full export, and deltas after it into another'
      ' folder.'
    )


def _without_sizes(features: Any) -> Any:
  return {n: {**f, 'num_ids': None} for n, f in (features or {}).items()}


class _Keys(NamedTuple):
  """Keys of a feature in the new model, and where the live one has them.

  Attributes:
    keys: Keys of the new model [n].
    ids: Their ids, int [n].
    at: Where `old` has them, int [n]; -1: nowhere.
    old: Keys of the live model, rising.
    old_ids: Their ids.
    unknown: Id of what has none in the live model.
  """

  keys: np.ndarray
  ids: np.ndarray
  at: np.ndarray
  old: np.ndarray
  old_ids: np.ndarray
  unknown: int

  @classmethod
  def of(
    cls, model: loader.Model, feature: str, keys: np.ndarray, ids: np.ndarray
  ) -> '_Keys':
    """Finds the keys of a vocabulary in a live model."""
    keys = np.asarray(keys)
    if keys.dtype.kind == 'U':  # As vocabularies have them.
      keys = np.strings.encode(keys, 'utf-8')
    old, old_ids = model.keys(feature)
    at = _found(old, model.checked(feature, keys))
    return cls(keys, np.asarray(ids), at, old, old_ids, model.unknown[feature])

  def places(self, num_old: int, num_new: int) -> np.ndarray:
    """Row of the live table for each new one [num_new]; -1: it has no key.

    New keys take rows without a key, then rows behind the end.
    """
    places = _sources(self.at, self.old_ids, self.ids, num_old, num_new)
    has_key, is_free = np.zeros(num_new, bool), np.ones(num_old, bool)
    has_key[self.ids] = True
    is_free[places[places >= 0]] = False
    new = np.flatnonzero(has_key & (places < 0))
    free = np.flatnonzero(is_free)[: len(new)]
    places[new] = np.append(free, num_old + np.arange(len(new) - len(free)))
    return places

  def changes(self, feature: str, places: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of added, moved and deleted keys."""
    ids, had = places[self.ids], np.append(self.old_ids, self.unknown)[self.at]
    differs, is_kept = had != ids, np.zeros(len(self.old), bool)
    is_kept[self.at[self.at >= 0]] = True
    found = {'keys': self.keys[differs], 'gone': self.old[~is_kept]}
    found = {f'{n}/{feature}': x for n, x in found.items() if len(x)}
    if differs.any():
      found[f'ids/{feature}'] = ids[differs].astype(np.int32)
    return found


def _found(old: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Where each of some keys is in rising ones, int [n]; -1: nowhere.

  A search of keys in order takes a fifth of one in disorder.
  """
  found = np.full(len(new), -1)
  if len(old):
    order = np.argsort(new)
    keys = new[order]
    at = np.minimum(np.searchsorted(old, keys), len(old) - 1)
    found[order] = np.where(old[at] == keys, at, -1)
  return found


def match_rows(old, new, num_old: int, num_new: int) -> np.ndarray:
  """The old row of the same key for each new row, int32 [num_new].

  `old` and `new` are (keys [n], ids [n]) of the vocabularies of tables of so
  many rows. A key that is new has -1. Row 0, which stands for what is unknown,
  stays where no key has it.
  """
  order = np.argsort(old[0])
  at = _found(old[0][order], new[0])
  return _sources(at, old[1][order], new[1], num_old, num_new)


def _sources(
  at: np.ndarray, old: np.ndarray, new: np.ndarray, num_old: int, num_new: int
) -> np.ndarray:
  """See `match_rows`: `at` says where in `old` the key of a `new` id is."""
  source = np.full(num_new, -1, np.int32)
  source[new[at >= 0]] = old[at[at >= 0]]
  if 0 not in old and 0 not in new:
    source[0] = 0
  if source.max(initial=-1) >= num_old:
    raise ValueError(
      f'match_rows: a key has id {source.max()} in the old vocabulary, whose'
      f' table has {num_old} rows; they are not of one model.'
    )
  return source


def apply(now: Replayed, out: str | os.PathLike[str]) -> None:
  """Writes a state as a full export, which the deltas to come follow.

  Raises:
    ValueError: The folder exists.
  """
  model, manifest = now.model, now.model.manifest | now.info | now.live.version
  manifest['unknown'] = model.unknown
  with exporter.new_folder(out) as stage:
    for path in manifest['files']:
      (stage / path).parent.mkdir(parents=True, exist_ok=True)
    for path in manifest['functions'].values():
      shutil.copyfile(now.folder / path, stage / path)
    np.savez(stage / loader.PARAMS, **model.params)
    if isinstance(model, ClickScorer):
      np.savez(stage / ARRAYS, **model.arrays)
    for name, table in now.live.tables.items():
      facts = manifest['tables'][name]
      facts['rows'] = table.num_rows
      exporter.write_rows(stage, facts, _blocks(table))
    for name, files in manifest['vocabularies'].items():
      for part, array in zip(('values', 'ids'), model.keys(name), strict=True):
        np.save(stage / files[part], array)
    exporter.seal(stage, manifest)


def _blocks(table: LiveTable) -> Iterator[list[np.ndarray]]:
  for start in range(0, table.num_rows, _BLOCK):
    ids = np.arange(start, min(start + _BLOCK, table.num_rows))
    yield [x for x in table.stored(ids) if x is not None]
