# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables larger than the devices: rows in files, those in use on devices.

The tables on the devices have a fixed number of places. Before a step, the rows
of its batch that have none are brought from their file (`row_file`), or
initialized if they are new, and rows that make room (`row_cache`) are written
there with their optimizer slots. The numbers are those of tables that are whole
on the devices.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import copy
import dataclasses
import functools
import json
import math
import pathlib
from typing import Any
import urllib.parse
import uuid

from absl import logging
import jax
import numpy as np

from antjax import paths
from antjax.embedding import rows as rows_lib
from antjax.embedding.layout import new_rows, TableSpec
from antjax.embedding.routing import PAD
from antjax.embedding.row_cache import RowCache, RowMove
from antjax.embedding.row_file import NOTHING, RowFile
from antjax.embedding.stream import HomeRows, RowStream
from antjax.mesh.paro import Level

_BLOCK = 1 << 16  # Rows that are written home, or read, at once.
_MAX_WAITING = 8  # Blocks of rows on their way to a file.
_ABOUT = 'home.json'


@dataclasses.dataclass(frozen=True, kw_only=True)
class HomeConfig:
  """Where rows are that are not on the devices.

  Attributes:
    folder: Folder on a local disk, which takes the rows that were trained, and
      up to as much again for checkpoints.
    device_rows: Number of rows of each table on all devices together; smaller
      tables are there as a whole.
    lookahead: Number of coming batches that are read ahead, whose rows are
      fetched from the disk and are evicted last.
  """

  folder: str
  device_rows: int
  lookahead: int = 8

  def __post_init__(self) -> None:
    if self.device_rows < 1 or self.lookahead < 0:
      raise ValueError(
        f'HomeConfig(device_rows={self.device_rows}, lookahead='
        f'{self.lookahead}): needed are at least 1 row, and 0 batches or more.'
      )
    if paths.is_url(self.folder):
      raise ValueError(
        f'HomeConfig(folder={self.folder!r}): files are memory-mapped; give a'
        ' folder on a local disk.'
      )


class Home:
  """The rows of large tables, by table; one process and one live state."""

  def __init__(self, config: HomeConfig, specs: Sequence[TableSpec]):
    """Opens no file yet.

    Raises:
      ValueError: There are several processes, or rows of another dtype.
    """
    self.config, self._folder = config, pathlib.Path(config.folder)
    self.specs = {
      spec.name: spec
      for spec in specs
      if spec.num_embeddings > config.device_rows
      and spec.resolved_level() is not Level.NONE
    }
    if self.specs and jax.process_count() > 1:
      raise ValueError(
        'EmbeddingTables(home=...): the job has'
        f' {jax.process_count()} processes, and a home belongs to one. Train in'
        ' one process, or without home.'
      )
    for spec in self.specs.values():
      if spec.dtype != 'float32' or spec.num_embeddings >= 2**31:
        raise ValueError(
          f'EmbeddingTables(home=...): table {spec.name!r} has'
          f' {spec.num_embeddings} rows of {spec.dtype}; needed are float32 and'
          f' at most {2**31 - 1} rows. Set the dtype of the rows to float32 and'
          ' split larger tables, or leave out home.'
        )
    self.caches: dict[str, RowCache] = {}
    self._files: dict[str, RowFile] = {}
    self._moves: list[tuple[str, RowMove]] = []
    self._is_settled = False
    self._key: Any = None
    # Blocks of rows on their way home: (table, ids, when done).
    self._waiting: list[tuple[str, np.ndarray, futures.Future[None]]] = []
    # One, so that the blocks of a row arrive in order.
    self._writer = futures.ThreadPoolExecutor(1, 'rows_home')
    self._readers = futures.ThreadPoolExecutor(4, 'rows_ahead')

  @classmethod
  def of(
    cls, config: HomeConfig | None, specs: Sequence[TableSpec]
  ) -> 'Home | None':
    """A home, if there are rows for it."""
    home = None if config is None else cls(config, specs)
    return home if home is not None and home.specs else None

  def on_devices(self, spec: TableSpec) -> TableSpec:
    """The table that the devices hold of a table."""
    if spec.name not in self.specs:
      return spec
    level: Any = spec.resolved_level().name.lower()
    return dataclasses.replace(
      spec, num_embeddings=self.config.device_rows, level=level
    )

  def _fields(self, name: str) -> Any:
    """A row and its slots as a tree of ShapeDtypeStructs [1, ...]."""
    spec = self.specs[name]
    slots = jax.eval_shape(lambda: spec.optimizer.init(1, spec.embedding_dim))
    row = jax.ShapeDtypeStruct((1, spec.embedding_dim), np.float32)
    return {'table': row, 'slots': slots}

  # Life of the files.

  def start(self, key: jax.Array) -> None:
    """All rows are new from now on; called with each new state.

    The files change with the first row that is written. `key` initialized the
    tables.

    Raises:
      ValueError: Another process uses the folder, or it has other tables.
    """
    self._key = key
    self.wait()
    self._moves.clear()
    self._is_settled = False
    for name, spec in self.specs.items():
      rows = self.config.device_rows
      self.caches[name] = RowCache(name, spec.num_embeddings, rows)
      if name not in self._files:
        sizes = jax.tree.leaves(self._fields(name))
        words = sum(math.prod(x.shape) for x in sizes)
        folder = self._folder / urllib.parse.quote(name, safe='')
        self._files[name] = RowFile(folder, spec.num_embeddings, words)
      self._files[name].return_to(0, NOTHING)

  def save(
    self, tables: Any, state: Any, step: int, checkpoints: str, oldest: int
  ) -> dict[str, Any]:
    """Begins the log of a checkpoint; what `restore` needs, as arrays.

    `checkpoints` is their folder; `oldest` the step of the first one that is
    kept, 0 if there is none.
    """
    self.flush(tables, state)  # A restored state can be read without a write.
    self.settle()
    about = self._about()
    run = about.get('run') or uuid.uuid4().hex
    about = {'run': run, 'checkpoints': checkpoints, 'oldest': oldest}
    with paths.replaced(self._folder / _ABOUT) as new:
      new.write_text(json.dumps(about), encoding='utf-8')
    for file in self._files.values():
      file.step = step
      file.forget(oldest)
    found: dict[str, Any] = {
      name: cache.state() | {'rows': self._files[name].state()}
      for name, cache in self.caches.items()
    }
    found['key'] = np.asarray(jax.random.key_data(self._key))
    return found | {'run': np.frombuffer(bytes.fromhex(run), np.uint8)}

  def restore(self, step: int, saved: Mapping[str, Any]) -> None:
    """Returns to a checkpoint.

    Raises:
      ValueError: The folder is not the one of the checkpoint, or too new.
    """
    about = self._about()
    run = np.asarray(saved['run'], np.uint8).tobytes().hex()
    if about.get('run') != run or step < about['oldest']:
      least = f'; it can return to step {about["oldest"]}' if about else ''
      raise ValueError(
        f'EmbeddingTables(home=...): {self._folder} does not hold the rows of'
        f' step {step} of this run{least}. Give the folder that the run was'
        ' trained with, unchanged.'
      )
    self.start(jax.random.wrap_key_data(saved['key']))
    for name, spec in self.specs.items():
      new = RowCache.of_state(name, spec.num_embeddings, saved[name])
      self.caches[name] = new
      self._files[name].return_to(step, saved[name]['rows'])

  def _about(self) -> dict[str, Any]:
    path = self._folder / _ABOUT
    return json.loads(path.read_text('utf-8')) if path.exists() else {}

  def settle(self) -> None:
    """Makes the files what `start` or `restore` said they are.

    Raises:
      ValueError: They hold the rows of another run, which would be lost.
    """
    if self._is_settled:
      return
    about = self._about()
    if about and all(file.step == 0 for file in self._files.values()):
      folder = pathlib.Path(about['checkpoints'])
      if paths.is_url(about['checkpoints']) or any(
        path.name.isdigit() for path in folder.glob('*')
      ):
        raise ValueError(
          f'EmbeddingTables(home=...): {self._folder} holds the rows of the'
          f' run whose checkpoints are in {folder}. Resume that run, or name'
          ' another folder, or delete both.'
        )
      logging.info('%s begins anew: its run has no checkpoint.', self._folder)
      (self._folder / _ABOUT).unlink()
    for file in self._files.values():
      file.settle()
    self._is_settled = True

  # Before a step.

  def see(self, features: Mapping[str, Any], ids: Any) -> None:
    """Learns `batch['ids']` of a coming step, in the order of the steps."""
    for name, flat, _ in self._columns(features, ids):
      absent = self.caches[name].see(flat)
      if absent.size:
        self._readers.submit(self._files[name].touch, absent)

  def forget_ahead(self) -> None:
    """Forgets what `see` has learned."""
    for cache in self.caches.values():
      cache.forget_ahead()

  def place(self, features: Mapping[str, Any], ids: Any, train: bool) -> Any:
    """Ids with places on the devices instead of ids; `bring` must follow."""
    by_path, treedef = jax.tree.flatten_with_path(ids)
    leaves = [leaf for _, leaf in by_path]
    for name, flat, where in self._columns(features, ids):
      places, move = self.caches[name].place(flat, train)
      if move.loaded.size:
        self._moves.append((name, move))
      for i, column, size in where:
        if leaves[i] is by_path[i][1]:
          leaves[i] = np.array(leaves[i])
        part, places = places[:size], places[size:]
        leaves[i][column] = part.reshape(leaves[i][column].shape)
    return jax.tree.unflatten(treedef, leaves)

  def _columns(self, features: Mapping[str, Any], ids: Any) -> Iterator[Any]:
    """(table, its ids [n] in a batch, [(leaf, index into it, size)]).

    `EmbeddingTables.prepare` reports what is wrong with other leaves.
    """
    found: dict[str, list[Any]] = {}
    for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(ids)):
      leaf, feature = np.asarray(leaf), features.get(path[-1].key)
      if feature is None or not np.issubdtype(leaf.dtype, np.integer):
        continue
      for j, table in enumerate(feature.tables):
        column = (..., j) if feature.has_columns else ...
        if table in self.specs:
          found.setdefault(table, []).append((i, column, leaf[column]))
    for table, parts in found.items():
      flat = np.concatenate([x.ravel() for *_, x in parts])
      num_rows = self.specs[table].num_embeddings
      if flat.max(initial=PAD) >= num_rows:
        raise ValueError(
          f"batch['ids'] has id {flat.max()}; table {table!r} has {num_rows}"
          ' rows. Map unknown ids to an OOV id, or make the table larger.'
        )
      yield table, flat, [(i, column, x.size) for i, column, x in parts]

  def bring(self, tables: Any, state: Any) -> Any:
    """Makes the moves of the placed batches; donates the tables' state."""
    moves, self._moves = self._moves, []
    for name, move in moves:
      if move.evicted.size:
        self._send(tables, state, name, move.evicted, move.from_places)
      is_new, found = self._read(name, move.loaded)
      if not is_new.all():
        old = {name: move.to_places[~is_new]}
        new = {name: self._unpacked(name, found)}
        state = rows_lib.write(tables, state, old, new)
      if is_new.any():
        ids, places = move.loaded[is_new], move.to_places[is_new]
        new = {name: (self.specs[name], ids)}
        state = rows_lib.reset(tables, state, {name: places}, self._key, new)
    return state

  def _check_moved(self) -> None:
    assert not self._moves, 'a batch was placed whose rows were not brought'

  def _send(self, tables, state, name, ids, places) -> None:
    """Starts to write rows that are on the devices to their file."""
    found = rows_lib.on_devices(tables, state, name, places)

    def write() -> None:
      leaves = [np.asarray(x)[: len(ids)] for x in jax.tree.leaves(found)]
      words = [x.view(np.uint32).reshape(len(ids), -1) for x in leaves]
      self._files[name].write(ids, np.concatenate(words, axis=1))

    self.settle()
    self._waiting.append((name, ids, self._writer.submit(write)))
    while self._waiting and (
      len(self._waiting) > _MAX_WAITING or self._waiting[0][2].done()
    ):
      self._waiting.pop(0)[2].result()  # Raises what went wrong.

  def wait(self) -> None:
    """Waits until all rows sent home are there."""
    while self._waiting:
      self._waiting.pop(0)[2].result()

  def _read(self, name: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows [n], rising, are new, and the words of the other ones."""
    for table, sent, done in self._waiting:
      if table != name or done.done():
        continue
      at = np.minimum(np.searchsorted(ids, sent), len(ids) - 1)
      if (ids[at] == sent).any():
        done.result()
    is_there = self._files[name].has(ids)
    return ~is_there, self._files[name].read(ids[is_there])

  def _unpacked(self, name: str, words: np.ndarray) -> Any:
    """Rows and slots from words uint32 [n, ...]."""
    leaves, treedef = jax.tree.flatten(self._fields(name))
    ends = np.cumsum([math.prod(x.shape) for x in leaves])[:-1]
    parts = [
      np.ascontiguousarray(part).view(x.dtype).reshape(-1, *x.shape[1:])
      for part, x in zip(np.split(words, ends, axis=1), leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, parts)

  # Beside training.

  def flush(self, tables: Any, state: Any) -> None:
    """Writes home what training has changed on the devices."""
    self._check_moved()
    for name, cache in self.caches.items():
      places = np.flatnonzero(cache.is_changed)
      for start in range(0, len(places), _BLOCK):
        part = places[start : start + _BLOCK]
        self._send(tables, state, name, cache.ids[part], part)
      cache.is_changed[:] = False
    self.wait()

  def rows(self, tables: Any) -> dict[str, RowStream]:
    """All rows by table as they are in the files; `flush` comes before."""
    found = dict[str, RowStream]()
    for name, spec in self.specs.items():
      like = self._fields(name)['table']
      read = functools.partial(self._rows, name)
      of = tables.mesh, tables.stack_of[name], spec, like
      found[name] = HomeRows(*of, read)
    return found

  def _rows(self, name: str, ids: np.ndarray) -> np.ndarray:
    """Rows float32 [n, D], without slots."""
    is_new, found = self._read(name, ids)
    rows = np.array(_new_rows(self.specs[name], self._key, ids))
    rows[~is_new] = self._unpacked(name, found)['table']
    return rows

  def view(self) -> 'Home':
    """A home for predictions, which changes no file; `flush` comes before."""
    new = copy.copy(self)
    new.caches = {name: cache.copy() for name, cache in self.caches.items()}
    new._moves, new._waiting = [], []
    return new


_new_rows = jax.jit(new_rows, static_argnums=0)
