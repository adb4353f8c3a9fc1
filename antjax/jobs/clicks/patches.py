# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The state of a trainer that follows files: a whole one, and patches of it.

A patch holds the rows of tables that a round touched, with their slots, and all
else: dense parameters, optimizer state, position. Patches are numbered and
chained by digests like deltas (`serving.feed`): none is left out unnoticed. A
whole state is saved once the patches since the last one are as large as half of
it, so a round writes in proportion to what it touched.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np

from antjax import paths
from antjax.embedding import rows as rows_lib
from antjax.embedding.table import EmbeddingTables
from antjax.serving import feed
from antjax.train import canonical, checkpoint
from antjax.train.state import Layout, TrainState

_MOST = 1_000  # Patches since a whole state.
_SINGLE = ('step', 'rng')
Position = dict[str, Any]


class Patches:
  """Durable states of one trainer."""

  def __init__(
    self,
    folder: pathlib.Path,
    layout: Layout,
    tables: EmbeddingTables,
    digest: str,
  ):
    """Opens a folder; `digest` is that of the state before the first round."""
    self._layout, self._tables = layout, tables
    self._dense = dataclasses.replace(layout, tables=None)
    self._saver = checkpoint.Checkpointer(
      paths.origin(folder / 'whole'), layout, keep=2
    )
    self._folder = paths.origin(folder / 'patches')
    self._chain = feed.DeltaFeed(self._folder, digest)
    self._files = set[str]()  # Of the newest state.
    self._bytes, self._whole = 0, 0  # Bytes since a whole state; its number.

  def close(self) -> None:
    """Waits for what is being written."""
    self._saver.__exit__()

  def restore(
    self, first: Callable[[], TrainState], position: Position
  ) -> tuple[TrainState, Position, dict[str, np.ndarray]]:
    """The newest state; without a round yet the `first` one.

    Returns:
      (state, its position, rows by table that its last round touched).

    Raises:
      ValueError: A patch is missing or damaged.
    """
    if self._saver.latest_step() is not None:
      state, (kept,) = self._saver.restore()
      position = kept['position']
      self._whole = position['sequence']
      self._chain = feed.DeltaFeed(self._folder, kept['digest'], self._whole)
    else:
      state = first()
    touched: dict[str, np.ndarray] = {}
    last = None
    while (patch := self._chain.next()) is not None:
      state, touched = self._with_rows(state, patch.arrays)
      said = json.loads(patch.arrays['position'].tobytes())
      position = said | {'files': [*position['files'], *said['files']]}
      self._took(patch)
      last = patch
    if self._chain.trouble:
      raise ValueError(
        f'follow: {self._folder} lacks a state: {self._chain.trouble} Bring it'
        ' back, or train another run_dir.'
      )
    if last is not None:
      state = self._with_dense(state, last.arrays)
    self._files = {*position['files']}
    return state, position, touched

  def append(
    self, state: TrainState, rows: dict[str, Any], position: Position
  ) -> None:
    """Writes the state after a round; it is durable afterwards.

    Args:
      state: The state.
      rows: What the round touched: table -> its ids, and what `rows.read` gave.
      position: What is restored with it; 'files' grows, 'sequence' is 1 more.
    """
    new = [name for name in position['files'] if name not in self._files]
    said = json.dumps(position | {'files': new}).encode()
    arrays = {'position': np.frombuffer(said, np.uint8)}
    dense = canonical.of_state(self._dense, state)
    left = enumerate(jax.tree.leaves(state.residuals))
    for part in ('params', 'opt_state'):
      arrays |= {f'{part}/{n}': _kept(x) for n, x in dense[part].items()}
    arrays |= {f'residuals/{i}': _kept(x) for i, x in left}
    arrays |= {n: _kept(dense[n]) for n in _SINGLE}
    for name, (ids, values) in rows.items():
      arrays[f'rows/{name}'] = ids
      arrays[f'table/{name}'] = _kept(values['table'])
      for slot, x in values['slots'].items():
        arrays[f'slot.{slot}/{name}'] = _kept(x)
    sequence = position['sequence']
    patch = feed.write(self._folder, sequence, self._chain.digest, arrays)
    self._took(patch)
    self._files.update(new)

  def compact(self, state: TrainState, position: Position) -> None:
    """Saves the whole state if the patches have grown."""
    whole = sum(self._tables.bytes_per_device().values())
    count = position['sequence'] - self._whole
    if count < _MOST and self._bytes < whole / 2:
      return
    kept = {'position': position, 'digest': self._chain.digest}
    self._saver.save(int(state.step), state, input_state=kept)
    self._saver.wait()
    # Those of the whole state before it are kept, if it should be damaged.
    for path in epath.Path(self._folder).iterdir():
      if path.name <= feed.name_of(self._whole):
        path.unlink()
    self._whole, self._bytes = position['sequence'], 0

  def _took(self, patch: feed.Delta) -> None:
    self._chain.took(patch)
    self._bytes += sum(x.nbytes for x in patch.arrays.values())

  def _with_rows(
    self, state: TrainState, arrays: Any
  ) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Sets a patch's rows; which they are."""
    touched, new = dict[str, np.ndarray](), {}
    for full, ids in arrays.items():
      kind, _, name = full.partition('/')
      if kind == 'rows':
        spec = self._tables.specs[name]
        want = jax.eval_shape(lambda s=spec: s.optimizer.init(1, 1))
        touched[name] = ids
        new[name] = {
          'table': arrays[f'table/{name}'].view(jax.numpy.dtype(spec.dtype)),
          'slots': {
            slot: arrays[f'slot.{slot}/{name}'].view(x.dtype)
            for slot, x in want.items()
          },
        }
    tables = rows_lib.write(self._tables, state.tables, touched, new)
    return dataclasses.replace(state, tables=tables), touched

  def _with_dense(self, state: TrainState, arrays: Any) -> TrainState:
    """All but the tables, from a patch."""
    target = canonical.restore_target(self._dense)
    found: dict[str, Any] = {'tables': {}}
    found |= {n: _placed(arrays[n], target[n]) for n in _SINGLE}
    for part in ('params', 'opt_state'):
      found[part] = {
        n: _placed(arrays[f'{part}/{n}'], want)
        for n, want in target[part].items()
      }
    left, tree = jax.tree.flatten(state.residuals)
    kept = [arrays.get(f'residuals/{i}') for i in range(len(left))]
    if all(y is not None and y.shape == x.shape for x, y in zip(left, kept)):
      left = [_placed(y, x) for x, y in zip(left, kept, strict=True)]
    else:
      logging.warning('follow: residuals are those of the state before.')
    residuals = jax.tree.unflatten(tree, left)
    new = canonical.to_state(self._dense, found, residuals)
    return dataclasses.replace(new, tables=state.tables)


def _kept(x: Any) -> np.ndarray:
  """An array as files hold it: bfloat16 as integers."""
  x = np.asarray(x)
  return x.view(f'u{x.itemsize}') if x.dtype.kind == 'V' else x


def _placed(x: np.ndarray, want: Any) -> jax.Array:
  """An array on the devices, padded as they need it."""
  x = x.view(want.dtype)
  if x.shape != want.shape:
    x = np.pad(x, [(0, n - have) for n, have in zip(want.shape, x.shape)])
  return jax.device_put(x, want.sharding)
