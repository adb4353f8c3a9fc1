# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Keys in batches: vocabularies that all processes of a job share.

In each step the distinct keys of all processes are counted together, so every
process makes the same updates and has the same vocabularies. A single process
sends nothing; several need two small all-gathers between hosts.
"""

from collections.abc import Mapping
import io
from typing import Any

import jax
import numpy as np

from antjax.embedding.key_index import to_keys
from antjax.embedding.vocabulary import Vocabulary
from antjax.mesh.gather import gather_arrays
from antjax.train.sparse_tables import SparseTables

PyTree = Any
# Distinct keys of a table, ascending, and their counts.
Counts = tuple[np.ndarray, np.ndarray]


class Keys:
  """Converts keys to ids, and tells which rows were reassigned."""

  def __init__(
    self,
    vocabularies: Mapping[str, Vocabulary],
    tables: SparseTables | None,
    row_staleness: int = 0,
  ):
    """Takes vocabularies by table name, and all tables, if any.

    Raises:
      ValueError: A table is unknown or has another size, or rows are brought
        before their step.
    """
    if vocabularies and (tables is None or row_staleness):
      raise ValueError(
        'Trainer(vocabularies=...): needs tables, and row_staleness=0, as the'
        ' rows of a key are not known before its step.'
      )
    shapes = {} if tables is None else tables.canonical_shapes()
    num_rows = {name: x['table'].shape[0] for name, x in shapes.items()}
    for table, vocabulary in vocabularies.items():
      if num_rows.get(table) != vocabulary.config.num_ids:
        raise ValueError(
          f'Trainer(vocabularies=...): the vocabulary of {table!r} has'
          f' num_ids={vocabulary.config.num_ids}; the rows of the tables are'
          f' {num_rows}.'
        )
    self.vocabularies = dict(vocabularies)
    self._features = {} if tables is None else tables.features
    self._num_updates = 0

  def read(self, ids: PyTree) -> PyTree:
    """Converts integers or texts to int64 keys, negative for padding.

    Args:
      ids: batch['ids']: nested dict whose innermost keys are feature names. A
        negative integer or an empty text is padding. Features of tables without
        a vocabulary have ids and do not change.

    Raises:
      ValueError: A key is 2^63 or more, which would become negative.
    """

    def one(path, x):
      x = np.asarray(x)
      if not self._columns(path):
        return x
      if x.dtype == np.uint64 and x.max(initial=0) >= 2**63:
        raise ValueError(
          f"batch['ids']{jax.tree_util.keystr(path)}: key {x.max()}; keys must"
          ' be below 2^63, as negative ones are padding. Drop a bit of a hash:'
          ' keys >> 1.'
        )
      is_text = not np.issubdtype(x.dtype, np.integer)
      is_padding = np.strings.str_len(x) == 0 if is_text else x < 0
      return np.where(is_padding, -1, to_keys(x))

    return jax.tree.map_with_path(one, ids)

  def ids(
    self, keys: PyTree, *, is_training: bool
  ) -> tuple[PyTree, dict[str, np.ndarray]]:
    """Looks up keys of `read`; in training, counts and admits them first.

    A collective call in training.

    Returns:
      (ids, int32 with -1 for padding; table -> reassigned rows, to be reset
      before the ids are used).
    """
    by_path, treedef = jax.tree.flatten_with_path(keys)
    leaves = [x for _, x in by_path]
    places: dict[str, list[tuple[int, Any]]] = {}
    for i, (path, _) in enumerate(by_path):
      for table, column in self._columns(path):
        places.setdefault(table, []).append((i, column))
    found, counts = {}, {}
    for table, where in places.items():
      flat = np.concatenate([leaves[i][column].ravel() for i, column in where])
      distinct, position, count = np.unique(
        flat, return_inverse=True, return_counts=True
      )
      first = np.searchsorted(distinct, 0)  # Padding comes before it.
      found[table] = distinct[first:], position - first
      counts[table] = distinct[first:], count[first:]
    reset = self._count(counts) if is_training else {}
    for i in {i for where in places.values() for i, _ in where}:
      leaves[i] = leaves[i].astype(np.int64)  # Other columns have ids.
    for table, where in places.items():
      distinct, position = found[table]
      # The last entry is for padding, whose position is negative.
      rows = np.append(self.vocabularies[table].lookup(distinct), np.int32(-1))
      flat = rows[np.maximum(position, -1)]
      for i, column in where:
        shape = leaves[i][column].shape
        part, flat = np.split(flat, [int(np.prod(shape))])
        leaves[i][column] = part.reshape(shape)
    return jax.tree.unflatten(treedef, leaves), reset

  def _columns(self, path) -> list[tuple[str, Any]]:
    """(table, index into the leaf) for columns of keys."""
    feature = self._features.get(getattr(path[-1], 'key', ''))
    if feature is None:
      return []  # `prepare` reports the error.
    return [
      (table, (..., j) if feature.has_columns else ...)
      for j, table in enumerate(feature.tables)
      if table in self.vocabularies
    ]

  def _count(self, counts: dict[str, Counts]) -> dict[str, np.ndarray]:
    self._num_updates += 1
    reset = {
      table: self.vocabularies[table].count(*both, self._num_updates)
      for table, both in _of_all_processes(counts).items()
    }
    return {table: rows for table, rows in reset.items() if len(rows)}

  # In checkpoints: one byte array per table.

  def state(self) -> dict[str, np.ndarray]:
    """Table name -> its vocabulary as bytes, uint8."""
    saved = {}
    for table, vocabulary in self.vocabularies.items():
      file = io.BytesIO()
      vocabulary.write(file, num_updates=self._num_updates)
      saved[table] = np.frombuffer(file.getvalue(), np.uint8)
    return saved

  def set_state(self, saved: Mapping[str, np.ndarray]) -> None:
    """Restores the result of `state`.

    Raises:
      ValueError: Tables or settings of vocabularies differ.
    """
    if set(saved) != set(self.vocabularies):
      raise ValueError(
        f'Trainer.fit: the checkpoint has vocabularies of {sorted(saved)}, this'
        f' Trainer of {sorted(self.vocabularies)}: rows would be taken for'
        ' others. Pass the same tables in Trainer(vocabularies=...).'
      )
    for table, data in saved.items():
      with np.load(io.BytesIO(np.asarray(data).tobytes())) as arrays:
        vocabulary = Vocabulary.from_state(arrays)
        num_updates = int(arrays['num_updates'])
      mine = self.vocabularies[table].config
      if vocabulary.config != mine:
        raise ValueError(
          f'Trainer.fit: the vocabulary of {table!r} in the checkpoint is'
          f' {vocabulary.config}, that of this Trainer {mine}.'
        )
      self.vocabularies[table] = vocabulary
      self._num_updates = num_updates


def _of_all_processes(counts: dict[str, Counts]) -> dict[str, Counts]:
  """Sums the counts of all processes; a collective call."""
  if jax.process_count() == 1:
    return counts
  every = gather_arrays(
    {
      f'{name}/{table}': x
      for table, both in counts.items()
      for name, x in zip(('keys', 'count'), both)
    }
  )
  united = {}
  for table in counts:
    keys, count = (
      np.concatenate([arrays[f'{name}/{table}'] for arrays in every])
      for name in ('keys', 'count')
    )
    distinct, position = np.unique(keys, return_inverse=True)
    united[table] = distinct, np.bincount(position, count).astype(np.int64)
  return united
