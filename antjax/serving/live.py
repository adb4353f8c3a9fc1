# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model in memory that deltas change, and the deltas between two states.

Arrays of a delta, by name:

| name | content |
|---|---|
| `rows/T`, `values/T`, `scale/T` | ids of changed or added rows of table T |
| `params/P` | a dense parameter |
| `arrays/A` | another array, whole |
| `at/A`, `to/A` | rows of it; behind its end they are added |
| `keys/V`, `ids/V` | keys added to a vocabulary, or moved to another id |
| `gone/V` | keys deleted from it: they are unknown |

Files are mapped copy-on-write: they stay as they are.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from antjax.serving import feed, loader
from antjax.serving.exporter import quantize_rows

_Array = np.ndarray


class LiveTable(loader.Table):
  """A table whose rows change, and which grows."""

  def __init__(self, table: loader.Table):
    """Takes the memory of a table that was opened for it."""
    self.values, self.scale = table.values, table.scale
    self._more = np.zeros((0, self.width), self.values.dtype)
    self._more_scale = np.zeros(0, np.float32)
    self.num_rows = len(self.values)

  @property
  def width(self) -> int:
    """Numbers of a row."""
    return self.values.shape[1]

  def stored(self, ids: _Array) -> tuple[_Array, _Array | None]:
    first = len(self.values)
    values, scale = super().stored(np.minimum(ids, first - 1))
    if first < self.num_rows and (is_new := ids >= first).any():
      values[is_new] = self._more[ids[is_new] - first]
      if scale is not None:
        scale[is_new] = self._more_scale[ids[is_new] - first]
    return values, scale

  def write(self, ids: _Array, values: _Array, scale: _Array | None) -> None:
    """Sets rows; those behind the end are added."""
    first = len(self.values)
    num_rows = max(self.num_rows, int(ids.max(initial=-1)) + 1)
    if num_rows - first > len(self._more):
      room = np.zeros((2 * (num_rows - first), self.width), self.values.dtype)
      room[: len(self._more)] = self._more
      scales = np.zeros(len(room), np.float32)
      scales[: len(self._more)] = self._more_scale
      self._more, self._more_scale = room, scales
    old = ids < first
    self.values[ids[old]] = values[old]
    self._more[ids[~old] - first] = values[~old]
    if self.scale is not None and scale is not None:
      self.scale[ids[old]] = scale[old]
      self._more_scale[ids[~old] - first] = scale[~old]
    self.num_rows = num_rows


class Live:
  """A model that deltas change; not while it scores.

  Attributes:
    version: Number and digest of its state, JSON-able.
    tables: Its tables by name.
  """

  def __init__(self, model: loader.Model, digest: str, sequence: int = 0):
    """Takes a model over that was opened with `is_live`, and is at a state."""
    self._model = model
    self.tables = {n: LiveTable(t) for n, t in model.tables.items()}
    model.tables = {**self.tables}
    self._arrays: dict[str, _Array] = getattr(model, 'arrays', {})
    self.version: dict[str, Any] = {'sequence': sequence, 'digest': digest}

  def apply(self, delta: feed.Delta) -> None:
    """Makes the state after a delta; all of it or, if it is refused, nothing.

    Raises:
      feed.RefusedDelta: It is not of this model.
    """
    try:
      changes = self._planned(delta.arrays)
    except (KeyError, ValueError, TypeError, IndexError) as error:
      name = feed.name_of(delta.sequence)
      raise feed.RefusedDelta('content', f'{name}: {error}') from error
    self._do(changes)
    self.version = {'sequence': delta.sequence, 'digest': delta.digest}

  def take(self, arrays: Mapping[str, _Array]) -> None:
    """Takes arrays of a delta that is not written yet; see `apply`."""
    self._do(self._planned(arrays))

  def _do(self, changes: list[Callable[[], None]]) -> None:
    for change in changes:
      change()
    for feature in self._model.manifest['features'].values():
      feature['num_ids'] = self.tables[feature['table']].num_rows
    self._model.forget()

  def _planned(self, arrays: Mapping[str, _Array]) -> list[Callable[[], None]]:
    """Checks all of a delta; what is to be done then."""
    changes: list[Callable[[], None]] = []
    params = dict(self._model.params)
    for full, array in arrays.items():
      kind, _, name = full.partition('/')
      if kind == 'rows':
        table = self.tables[name]
        values, scale = arrays[f'values/{name}'], arrays.get(f'scale/{name}')
        _need(full, values.shape == (len(array), table.width), values.shape)
        _check_rows(full, array, table.num_rows)
        kept = table.stored(array[:0])[0].dtype
        _need(full, values.dtype == kept, values.dtype)
        _need(full, (scale is None) == (table.scale is None), 'another storage')
        _need_finite(full, values if scale is None else scale)
        changes.append(_later(table.write, array, values, scale))
      elif kind == 'params':
        old = params[name]
        got = array.shape, array.dtype
        _need(full, got == (old.shape, old.dtype), got)
        _need_finite(full, array)
        params[name] = jax.device_put(array)
      elif kind == 'arrays':
        old = self._arrays[name]
        same = array.dtype == old.dtype and array.shape[1:] == old.shape[1:]
        _need(full, same, array.shape)
        changes.append(_later(self._arrays.__setitem__, name, array))
      elif kind == 'at':
        old, to = self._arrays[name], arrays[f'to/{name}']
        same = to.dtype == old.dtype and to.shape[1:] == old.shape[1:]
        _need(full, same and len(to) == len(array), to.shape)
        _check_rows(full, array, len(old))
        changes.append(_later(self._set_rows, name, array, to))
      elif kind == 'keys':
        ids = arrays[f'ids/{name}']
        same = self._model.vocabularies[name]['values'].dtype.kind
        _need(full, array.dtype.kind == same, array.dtype)
        _need(full, ids.dtype.kind == 'i' and ids.ndim == 1, ids.dtype)
        _need(full, ids.shape == array.shape, ids.shape)
        changes.append(_later(self._model.set_ids, name, array, ids))
      elif kind == 'gone':
        gone = np.full(len(array), self._model.unknown[name], np.int32)
        changes.append(_later(self._model.set_ids, name, array, gone))
      else:
        _need(full, kind in ('values', 'scale', 'to', 'ids'), 'no such part')
    changes.append(_later(setattr, self._model, 'params', params))
    return changes

  def _set_rows(self, name: str, at: _Array, to: _Array) -> None:
    old = self._arrays[name]
    num_rows = max(len(old), int(at.max(initial=-1)) + 1)
    if num_rows > len(old):
      new = np.zeros((num_rows, *old.shape[1:]), old.dtype)
      new[: len(old)] = old
      self._arrays[name] = old = new
    old[at] = to

  # --- What a trainer asks. ---------------------------------------------------

  def changes(
    self,
    params: Mapping[str, _Array],
    tables: Mapping[str, Iterable[tuple[_Array, _Array]]],
  ) -> dict[str, _Array]:
    """Arrays of the delta from this state to another one's.

    Args:
      params: Dense parameters by name.
      tables: Name -> parts of the rows that may differ: distinct ids [n], and
        float32 [n, D].
    """
    found: dict[str, _Array] = {}
    for name, array in params.items():
      if not _same(np.asarray(self._model.params[name]), array):
        found[f'params/{name}'] = np.asarray(array)
    for name, parts in tables.items():
      table = self.tables[name]
      changed = [self._changed(table, *part) for part in parts]
      if sum(len(ids) for ids, *_ in changed):
        rows, values, scale = map(np.concatenate, zip(*changed))
        if not _is_rising(rows):
          order = np.argsort(rows)
          rows, values, scale = (x[order] for x in (rows, values, scale))
        found[f'rows/{name}'], found[f'values/{name}'] = rows, values
        if table.scale is not None:
          found[f'scale/{name}'] = scale
    return found

  def _changed(
    self, table: LiveTable, ids: _Array, new: _Array
  ) -> tuple[_Array, _Array, _Array]:
    values = np.ascontiguousarray(new, np.float32)
    scale = np.zeros(len(ids), np.float32)
    if table.scale is not None:
      values, scale = quantize_rows(values)
    old, old_scale = table.stored(np.minimum(ids, table.num_rows - 1))
    differs = ~(_bits(values) == _bits(old)).all(axis=1)
    if old_scale is not None:
      differs |= scale != old_scale
    differs |= ids >= table.num_rows
    return ids[differs], values[differs], scale[differs]


def _later(call: Callable[..., None], *arguments: Any) -> Callable[[], None]:
  return lambda: call(*arguments)


def _need(name: str, is_good: bool, got: Any) -> None:
  if not is_good:
    raise ValueError(f'{name} does not fit this model: {got}')


def _need_finite(name: str, array: _Array) -> None:
  """A trainer that has diverged must not reach those who ask."""
  _need(name, bool(np.isfinite(array).all()), 'NaN or infinity')


def _check_rows(name: str, ids: _Array, num_rows: int) -> None:
  """Ids are distinct, and those behind the end follow it."""
  _need(name, ids.dtype.kind == 'i' and ids.ndim == 1, ids.dtype)
  if len(ids):
    new = ids if _is_rising(ids) else np.sort(ids)
    _need(name, _is_rising(new) and new[0] >= 0, 'ids twice or below 0')
    added = new[new >= num_rows]
    ends = not len(added) or added[-1] - num_rows + 1 == len(added)
    _need(name, ends, f'a row behind the end, {num_rows}, is left out')


def _is_rising(ids: _Array) -> bool:
  return bool((ids[1:] > ids[:-1]).all())


def _bits(array: _Array) -> _Array:
  array = np.ascontiguousarray(array)
  return array.view(np.uint8).reshape(len(array), -1)


def _same(one: _Array, other: _Array) -> bool:
  return one.tobytes() == np.asarray(other).tobytes()
