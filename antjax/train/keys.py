# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Keys in batches: vocabularies that all processes of a job share.

In each step the distinct keys of all processes are counted together. Every
process makes the same updates of a `Vocabulary`, and has it whole; this takes
two all-gathers of the distinct keys between hosts. The keys of a `KeyStore` go
to the processes that hold them, and their ids come back: two all-to-alls of 16
bytes and of 4 per distinct key. Both wait for the step that runs. A single
process sends nothing.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.embedding.key_index import to_keys
from antjax.embedding.key_store import KeyStore
from antjax.embedding.vocabulary import Vocabulary
from antjax.mesh.gather import gather_arrays, process_mesh, swap_trees
from antjax.train.sparse_tables import home_of, SparseTables

PyTree = Any
# Distinct keys of a table, ascending, and their counts.
Counts = tuple[np.ndarray, np.ndarray]
_NO_KEYS: Counts = np.zeros(0, np.int64), np.zeros(0, np.int64)


class Keys:
  """Converts keys to ids, and tells which rows were reassigned."""

  def __init__(
    self,
    vocabularies: Mapping[str, Vocabulary | KeyStore],
    tables: SparseTables | None,
    row_staleness: int = 0,
  ):
    """Takes vocabularies by table name, and all tables, if any.

    Raises:
      ValueError: A table is unknown or has another size, a key store is of
        other processes, or rows are brought before their step.
    """
    if vocabularies and (tables is None or row_staleness):
      raise ValueError(
        'Trainer(vocabularies=...): needs tables, and row_staleness=0, as the'
        ' rows of a key are not known before its step.'
      )
    if vocabularies and home_of(tables):
      raise ValueError(
        'Trainer(vocabularies=...): tables with a home have none; hash the'
        ' keys (antjax.embedding.vocabulary.hash_ids), or leave out home.'
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
      if (
        isinstance(vocabulary, KeyStore)
        and vocabulary.num_processes != jax.process_count()
      ):
        raise ValueError(
          f'Trainer(vocabularies=...): the key store of {table!r} is spread'
          f' over {vocabulary.num_processes} processes, and there are'
          f' {jax.process_count()}; make KeyStore(config) in each of them.'
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

    A collective call in training, and always with a `KeyStore`.

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
    positions, counts = {}, dict.fromkeys(self.vocabularies, _NO_KEYS)
    for table, where in places.items():
      flat = np.concatenate([leaves[i][column].ravel() for i, column in where])
      distinct, position, count = np.unique(
        flat, return_inverse=True, return_counts=True
      )
      first = np.searchsorted(distinct, 0)  # Padding comes before it.
      positions[table] = position - first
      counts[table] = distinct[first:], count[first:]
    self._num_updates += is_training
    rows_of, reset = self._whole(counts, is_training)
    for results, more in zip(
      (rows_of, reset), self._of_owners(counts, is_training), strict=True
    ):
      results |= more
    for i in {i for where in places.values() for i, _ in where}:
      leaves[i] = leaves[i].astype(np.int64)  # Other columns have ids.
    for table, where in places.items():
      # The last entry is for padding, whose position is negative.
      rows = np.append(rows_of[table], np.int32(-1))
      flat = rows[np.maximum(positions[table], -1)]
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

  def _whole(
    self, counts: dict[str, Counts], is_training: bool
  ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(rows of the keys, reassigned rows) by `Vocabulary` of every table."""
    mine = {
      table: vocabulary
      for table, vocabulary in self.vocabularies.items()
      if isinstance(vocabulary, Vocabulary)
    }
    reset: dict[str, np.ndarray] = {}
    if is_training and mine:
      every = _of_all_processes({table: counts[table] for table in mine})
      for table, both in every.items():
        rows = mine[table].count(*both, self._num_updates)
        reset |= {table: rows} if len(rows) else {}
    return {t: mine[t].lookup(counts[t][0]) for t in mine}, reset

  def _of_owners(
    self, counts: dict[str, Counts], is_training: bool
  ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Like `_whole` for tables with a `KeyStore`."""
    stores = self._stores()
    if not stores:
      return {}, {}
    asked: list[dict[str, Any]] = [{} for _ in range(jax.process_count())]
    orders = {}
    for table, store in stores.items():
      keys, count = counts[table]
      owner = store.owner(keys)
      orders[table] = np.argsort(owner, kind='stable')
      ends = np.cumsum(np.bincount(owner, minlength=len(asked)))[:-1]
      for part, *pair in zip(
        asked,
        np.split(keys[orders[table]], ends),
        np.split(count[orders[table]], ends),
        strict=True,
      ):
        part[table] = pair
    got = swap_trees(asked)
    answers: list[dict[str, Any]] = [{} for _ in got]
    for table, store in stores.items():
      new = np.zeros(0, np.int32)
      if is_training:
        united = _united([part[table] for part in got])
        new = store.count(*united, self._num_updates)
      for part, answer in zip(got, answers, strict=True):
        answer[table] = store.lookup(part[table][0]), new
    said = swap_trees(answers)
    rows: dict[str, np.ndarray] = {}
    reset: dict[str, np.ndarray] = {}
    for table, order in orders.items():
      rows[table] = np.empty(len(order), np.int32)
      rows[table][order] = np.concatenate([x[table][0] for x in said])
      # Parts of consecutive processes have rising ids.
      new = np.concatenate([x[table][1] for x in said])
      reset |= {table: new} if len(new) else {}
    return rows, reset

  def _stores(self) -> dict[str, KeyStore]:
    return {
      table: vocabulary
      for table, vocabulary in self.vocabularies.items()
      if isinstance(vocabulary, KeyStore)
    }

  # In checkpoints: a byte array of a `Vocabulary`, or the slots of a `KeyStore`
  # as arrays [parts, slots, 4] to which each process contributes its parts.

  def state(self) -> dict[str, PyTree]:
    """Table name -> its vocabulary as arrays."""
    saved: dict[str, PyTree] = {}
    mesh = process_mesh()
    for table, vocabulary in self.vocabularies.items():
      if isinstance(vocabulary, KeyStore):
        saved[table] = {
          name: jax.make_array_from_process_local_data(
            _by_process(mesh), x.copy()
          )
          for name, x in vocabulary.state().items()
        }
        continue
      file = io.BytesIO()
      vocabulary.write(file, num_updates=self._num_updates)
      saved[table] = np.frombuffer(file.getvalue(), np.uint8)
    return saved

  def about(self) -> dict[str, Any]:
    """Table name -> JSON-able: what `state` says besides arrays."""
    stores = self._stores()
    return {
      table: {
        'config': dataclasses.asdict(stores[table].config),
        'num_updates': self._num_updates,
      }
      if table in stores
      else {}
      for table in self.vocabularies
    }

  def targets(self) -> dict[str, PyTree]:
    """Table name -> what to restore: None for a byte array of any size."""
    mesh, targets = process_mesh(), dict.fromkeys(self.vocabularies)
    for table, store in self._stores().items():
      targets[table] = {
        name: jax.ShapeDtypeStruct(
          (store.num_processes * x.shape[0], *x.shape[1:]),
          x.dtype,
          sharding=_by_process(mesh),
        )
        for name, x in store.state().items()
      }
    return targets

  def check(self, about: Mapping[str, Any]) -> None:
    """Raises ValueError if `about` is of other tables or settings."""
    if set(about) != set(self.vocabularies):
      raise ValueError(
        f'Trainer.fit: the checkpoint has vocabularies of {sorted(about)}, this'
        f' Trainer of {sorted(self.vocabularies)}: rows would be taken for'
        ' others. Pass the same tables in Trainer(vocabularies=...).'
      )
    for table, mine in self.about().items():
      was, now = about[table].get('config'), mine.get('config')
      if was != now:
        raise ValueError(
          f'Trainer.fit: the key store of {table!r} in the checkpoint is {was},'
          f' that of this Trainer {now} (None: a Vocabulary). Pass one with the'
          ' same settings; the number of processes may be another.'
        )

  def set_state(
    self, saved: Mapping[str, PyTree], about: Mapping[str, Any]
  ) -> None:
    """Restores the results of `state` and `about`.

    Raises:
      ValueError: Tables or settings of vocabularies differ.
    """
    self.check(about)
    for table, data in saved.items():
      store = self.vocabularies[table]
      if isinstance(store, KeyStore):
        store.set_state(
          {n: x.addressable_shards[0].data for n, x in data.items()}
        )
        self._num_updates = about[table]['num_updates']
        continue
      with np.load(io.BytesIO(np.asarray(data).tobytes())) as arrays:
        vocabulary = Vocabulary.from_state(arrays)
        num_updates = int(arrays['num_updates'])
      mine = store.config
      if vocabulary.config != mine:
        raise ValueError(
          f'Trainer.fit: the vocabulary of {table!r} in the checkpoint is'
          f' {vocabulary.config}, that of this Trainer {mine}.'
        )
      self.vocabularies[table] = vocabulary
      self._num_updates = num_updates


def _by_process(mesh: Mesh) -> NamedSharding:
  """Parts of an array on a device of each process."""
  return NamedSharding(Mesh(mesh.devices[:, :1], mesh.axis_names), P('process'))


def _united(counts: Sequence[Sequence[np.ndarray]]) -> Counts:
  """Counts of several processes together."""
  keys, count = map(np.concatenate, zip(*counts, strict=True))
  distinct, position = np.unique(keys, return_inverse=True)
  return distinct, np.bincount(position, count).astype(np.int64)


def _of_all_processes(counts: dict[str, Counts]) -> dict[str, Counts]:
  """Sums the counts of all processes; a collective call."""
  if jax.process_count() == 1:
    return counts
  every = gather_arrays(
    {table: np.stack(both) for table, both in counts.items()}
  )
  return {table: _united([list(x[table]) for x in every]) for table in counts}
