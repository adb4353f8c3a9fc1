# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores with an exported model; needs numpy, jax and flatbuffers, no more.

This file is self-contained: it imports nothing of antjax and may be copied to
where a model is served. What it reads is described in docs/delivery.md.

  model = Model('model')
  items = model.ids('item', ['Toy Story (1995)', 'Heat (1995)'])
  model.adapt_user({'item': items, ...}, [5.0, 2.0], {'item': others, ...})
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
from typing import Any, Literal

import jax
from jax import export
import numpy as np

MANIFEST = 'manifest.json'
FORMAT = 'antjax.serving'
FORMAT_VERSION = 1
PARAMS = 'params.npz'
# What a label may be, by the kind in a manifest; older exports name none.
LABELS = {'click': (0, 1), 'rating': (1, 2, 3, 4, 5)}
_MAX_KEY = np.iinfo(np.int64).max

# Shape suffixes: T = tasks (users), R = rows, support or query, K = values of a
# multi-hot feature.

Features = Mapping[str, Any]


class Model:
  """An exported model; its tables stay on disk and are mapped into memory.

  Attributes:
    manifest: what manifest.json says: features, tables, sizes, step.
    params: Dense parameters by name.
    tables: Tables by name.
    vocabularies: Feature -> 'values', rising, and their 'ids'.
    unknown: Feature -> id of what its vocabulary does not have.
    revision: Changes that a live model has had.
  """

  def __init__(self, folder: str | os.PathLike[str], is_live: bool = False):
    """Opens a folder that launch/export_gmeta.py wrote.

    A live model's memory may be changed; its files stay as they are.

    Raises:
      FileNotFoundError: It holds no model.
      ValueError: The model is not whole, or of another format.
    """
    folder = pathlib.Path(folder)
    self.manifest = read_manifest(folder)
    self._functions = {
      name: jax.jit(export.deserialize((folder / path).read_bytes()).call)
      for name, path in self.manifest['functions'].items()
    }
    with np.load(folder / PARAMS) as arrays:
      self.params = jax.device_put(dict(arrays))
    self.tables = {
      name: Table(folder, table, 'c' if is_live else 'r')
      for name, table in self.manifest['tables'].items()
    }
    self.vocabularies = {
      name: {part: np.load(folder / path) for part, path in files.items()}
      for name, files in self.manifest['vocabularies'].items()
    }
    self.unknown = {
      name: 0 if files['ids'].min(initial=1) > 0 else -1
      for name, files in self.vocabularies.items()
    } | self.manifest.get('unknown', {})
    self._added: dict[str, dict[Any, int]] = {}  # Keys that came later.
    self.revision = 0

  def ids(self, feature: str, values: Any) -> np.ndarray:
    """Ids int32 of a feature's values, texts or integers.

    What is unknown is 0 or, where 0 is the id of a value, -1: left out.

    Raises:
      ValueError: The feature has no vocabulary, or values of another type.
    """
    values = self.checked(feature, values)
    keys, ids = self.vocabularies[feature].values()
    unknown = self.unknown[feature]
    if not len(keys) or not values.size:
      return np.full(values.shape, unknown, np.int32)
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    found = np.where(keys[at] == values, ids[at], unknown).astype(np.int32)
    if added := self._added.get(feature):
      for place in zip(*np.nonzero(found == unknown), strict=True):
        found[place] = added.get(values[place].item(), unknown)
    return found

  def checked(self, feature: str, values: Any) -> np.ndarray:
    """A feature's values as its vocabulary has them; see `ids`."""
    if feature not in self.vocabularies:
      raise ValueError(
        f'Model.ids: there is no vocabulary of {feature!r}, only of'
        f' {sorted(self.vocabularies)}.'
      )
    values = np.asarray(values)
    if values.dtype.kind == 'U':
      values = np.strings.encode(values, 'utf-8')
    if not values.size or not len(self.vocabularies[feature]['values']):
      return values
    # Numpy would compare numbers with texts, digit by digit, and integers with
    # floats, or of other types, as floats: not exact above 2**53.
    kind = self.vocabularies[feature]['values'].dtype.kind
    kinds, needed = {
      'S': ('S', 'texts'),
      'f': ('iuf', 'numbers'),
    }.get(kind, ('iu', 'integers below 2**63'))
    is_large = values.dtype.kind == 'u' and values.max() > _MAX_KEY
    if values.dtype.kind not in kinds or (kind == 'i' and is_large):
      raise ValueError(
        f'Model.ids: the values of {feature!r} are {needed}; got'
        f' {values.ravel()[0]!r}, in an array of {values.dtype}.'
      )
    return values.astype(np.int64) if kind == 'i' else values

  def set_ids(self, feature: str, values: np.ndarray, ids: np.ndarray) -> None:
    """Gives values of a live model other ids, or `unknown` to delete them."""
    keys, own = self.vocabularies[feature].values()
    at = np.minimum(np.searchsorted(keys, values), max(len(keys) - 1, 0))
    is_old = keys[at] == values if len(keys) else np.zeros(len(values), bool)
    own[at[is_old]] = ids[is_old]
    added = self._added.setdefault(feature, {})
    for value, new in zip(values[~is_old].tolist(), ids[~is_old].tolist()):
      added[value] = new

  def keys(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys that a feature has now, rising, and their ids int32."""
    keys, ids = self.vocabularies[feature].values()
    if added := self._added.get(feature):
      keys = np.concatenate([keys, np.array([*added])])
      ids = np.concatenate([ids, np.array([*added.values()], np.int32)])
    is_kept = ids != self.unknown[feature]
    keys, ids = keys[is_kept], ids[is_kept]
    if added:
      order = np.argsort(keys)
      keys, ids = keys[order], ids[order]
    return keys, ids

  def forget(self) -> None:
    """Drops what was made of an earlier state."""
    self.revision += 1

  def predict(self, query: Features) -> dict[str, np.ndarray]:
    """Scores rows of many users, unadapted.

    Args:
      query: Feature -> int ids [T, R], or [T, R, K] if multi-hot, -1 is
        padding; numeric input -> float [T, R]. [T] for what is the same in all
        rows of a user.

    Returns:
      Column, such as 'prediction', -> float32 [T, R].
    """
    rows, shape = self._rows('query', query)
    arguments = self._arguments(rows, self._padded(shape))
    return _cut(self._functions['predict'](self.params, arguments), shape)

  def adapt_and_predict(
    self,
    support: Features,
    labels: Any,
    query: Features,
    mask: Any = None,
  ) -> dict[str, np.ndarray]:
    """Adapts the model to each of many users and scores their rows.

    Args:
      support: What the users have rated, as `query` of `predict`.
      labels: float [T, S], their ratings.
      query: What is to be scored.
      mask: [T, S], 0 for padding of users with fewer ratings; None: no padding.

    Returns:
      Column -> float32 [T, R] of the query.

    Raises:
      ValueError: Shapes that do not fit, ids beyond their table, labels of
        another kind, or more support rows than the model was exported for.
    """
    rows, shape = self._rows('support', support)
    labels = np.asarray(labels, np.float32)
    mask = np.ones(shape) if mask is None else np.asarray(mask)
    for name, array in (('labels', labels), ('mask', mask)):
      if array.shape != shape:
        raise ValueError(
          f'Model.adapt_and_predict: {name} has shape {array.shape}; the'
          f' support has {shape} (users, rows).'
        )
    self._check_labels(labels[mask > 0])
    sizes = self.manifest['support_sizes']
    size = next((n for n in sizes if n >= shape[1]), None)
    if size is None:
      raise ValueError(
        f'Model.adapt_and_predict: {shape[1]} support rows; this model takes'
        f' up to {sizes[-1]}. Choose some, or export it for more.'
      )
    query_rows, query_shape = self._rows('query', query)
    if query_shape[0] != shape[0]:
      raise ValueError(
        f'Model.adapt_and_predict: support of {shape[0]} users, query of'
        f' {query_shape[0]}.'
      )
    num_tasks, num_rows = self._padded(query_shape)
    arguments = self._arguments(rows, (num_tasks, size))
    arguments |= {
      'label': _pad(labels, (num_tasks, size), 0),
      'mask': _pad(mask.astype(np.float32), (num_tasks, size), 0),
    }
    queries = self._arguments(query_rows, (num_tasks, num_rows))
    run = self._functions[f'adapt_{size}']
    return _cut(run(self.params, arguments, queries), query_shape)

  def adapt_user(
    self, support: Features, labels: Any, query: Features
  ) -> dict[str, np.ndarray]:
    """Adapts to one user: as `adapt_and_predict` without the dim of users.

    A scalar holds for all rows of the support or the query.
    """
    support, query = (
      {name: np.asarray(x)[None] for name, x in rows.items()}
      for rows in (support, query)
    )
    columns = self.adapt_and_predict(support, np.asarray(labels)[None], query)
    return {name: column[0] for name, column in columns.items()}

  def _check_labels(self, labels: np.ndarray) -> None:
    """Refuses labels that training cannot have had."""
    needed = LABELS.get(self.manifest.get('kind', ''), ())
    is_bad = ~(np.isin(labels, needed) if needed else np.isfinite(labels))
    if is_bad.any():
      known = ', '.join(map(str, needed)) or 'numbers'
      raise ValueError(
        f'Model.adapt_and_predict: a label is {labels[is_bad][0]:g}; this model'
        f' takes {known}.'
      )

  def _rows(self, what: str, given: Features):
    """Checks ids; returns them at full shape, and (users, rows)."""
    features, numeric = self.manifest['features'], self.manifest['numeric']
    names = [*features, *numeric]
    if set(given) != set(names):
      raise ValueError(
        f'Model: the {what} has {sorted(given)}; needed are {sorted(names)}.'
      )
    widths = {n: f['max_values'] for n, f in features.items()}
    tails = {n: (widths[n],) if widths.get(n, 1) > 1 else () for n in names}
    arrays = {name: np.asarray(given[name]) for name in names}
    full = [
      x.shape[:2] for n, x in arrays.items() if x.ndim == 2 + len(tails[n])
    ]
    if not full:
      raise ValueError(
        f'Model: nothing in the {what} has a dim of rows; needed is [users,'
        ' rows] at least once.'
      )
    for name, array in arrays.items():
      if array.ndim == 1 + len(tails[name]):
        array = np.expand_dims(array, 1)
      shape = (*full[0], *tails[name])
      try:
        arrays[name] = np.broadcast_to(array, shape)
      except ValueError as error:
        raise ValueError(
          f'Model: {name!r} of the {what} has shape {np.shape(given[name])};'
          f' needed is {shape}.'
        ) from error
    for name, feature in features.items():
      array = arrays[name]
      if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
          f'Model: {name!r} of the {what} is {array.dtype}; ids are integers'
          ' (see Model.ids).'
        )
      if array.max(initial=-1) >= feature['num_ids']:
        raise ValueError(
          f'Model: {name!r} of the {what} has id {array.max()}; the model'
          f' knows {feature["num_ids"]} ids. Give 0 for what it does not know.'
        )
    return arrays, full[0]

  def _padded(self, shape):
    """Users and query rows, rounded up: few shapes, so few compilations."""
    num_tasks, num_rows = (1 << max(n - 1, 0).bit_length() for n in shape)
    query_size = self.manifest['query_size']
    return num_tasks, query_size if shape[1] <= query_size else num_rows

  def _arguments(self, rows, shape):
    """Ids, their vectors and numeric inputs, padded to a compiled shape."""
    ids, vectors = {}, {}
    for name, feature in self.manifest['features'].items():
      ids[name] = _pad(rows[name].astype(np.int32), shape, -1)
      vectors[name] = self.tables[feature['table']].read(ids[name])
    parts: dict[str, Any] = {'ids': ids, 'vectors': vectors}
    if numeric := [rows[name] for name in self.manifest['numeric']]:
      columns = np.stack(numeric, axis=-1).astype(np.float32)
      parts['numeric'] = _pad(columns, shape, 0)
    return parts


class Table:
  """A table in a model's folder, float32 or int8 with a scale a row."""

  def __init__(
    self,
    folder: pathlib.Path,
    description: Mapping[str, Any],
    mode: Literal['r', 'c'] = 'r',
  ) -> None:
    """Maps its files into memory, read-only or copied on write."""
    # As an array: a memmap's own indexing takes longer.
    self.values = np.asarray(
      np.load(folder / description['values'], mmap_mode=mode)
    )
    self.scale: np.ndarray | None = None
    if description['scale']:
      self.scale = np.load(folder / description['scale'], mmap_mode=mode)

  def read(self, ids: np.ndarray) -> np.ndarray:
    """Vectors float32 [..., D] of ids; zero where an id is negative."""
    is_there = ids >= 0
    if not is_there.all():  # Most of a history may be padding.
      vectors = np.zeros((*ids.shape, self.values.shape[1]), np.float32)
      vectors[is_there] = self.read(ids[is_there])
      return vectors
    values, scale = self.stored(ids)
    vectors = values.astype(np.float32, copy=False)
    if scale is not None:
      vectors *= scale[..., None]
    return vectors

  def stored(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Copies of rows and, of int8, their scales, as they are stored."""
    return self.values[ids], None if self.scale is None else self.scale[ids]


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a model's manifest.json, and looks whether its files are there."""
  folder = pathlib.Path(folder)
  path = folder / MANIFEST
  if not path.is_file():
    raise FileNotFoundError(
      f'{folder} holds no {MANIFEST}; launch/export_gmeta.py writes a model.'
    )
  manifest: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
  version = (manifest.get('format'), manifest.get('format_version'))
  if version != (FORMAT, FORMAT_VERSION):
    raise ValueError(
      f'{path} is of format {version[0]} {version[1]}; this code reads {FORMAT}'
      f' {FORMAT_VERSION}. Export the model with the same release of antjax.'
    )
  for name, facts in manifest['files'].items():
    file = folder / name
    if not file.is_file() or file.stat().st_size != facts['bytes']:
      raise ValueError(
        f'{file} is missing or not of {facts["bytes"]} bytes: the model is not'
        ' whole; copy it again.'
      )
  return manifest


def _pad(array: np.ndarray, shape: Sequence[int], value: float) -> np.ndarray:
  widths = [(0, n - have) for n, have in zip(shape, array.shape)]
  widths += [(0, 0)] * (array.ndim - len(widths))
  return np.pad(array, widths, constant_values=value)


def _cut(columns: Mapping[str, Any], shape: Sequence[int]):
  return {
    name: np.asarray(column)[: shape[0], : shape[1]]
    for name, column in columns.items()
  }
