# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A process's batches, in lockstep with other processes, and positions."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging
import jax
import numpy as np

from antjax.mesh.gather import gather_json
from antjax.train.input_position import encode_position
from antjax.train.state import PyTree


class Feed:
  """A process's batches, in lockstep with the other processes of the job."""

  def __init__(
    self,
    iterator: Iterator[PyTree],
    num_ahead: int = 0,
    see: Callable[[PyTree], None] = lambda batch: None,
  ):
    """Reads batches ahead of their step; `see` is called with each as read."""
    self._iterator = iterator
    self._num_ahead, self._see = num_ahead, see
    # Batches read ahead, each with the position before it.
    self._waiting = deque[tuple[Any, PyTree]]()
    self._last: PyTree | None = None

  @property
  def position(self) -> Any:
    """The iterator's position behind the last batch of `next`."""
    if self._waiting:
      return self._waiting[0][0]
    return get_position(self._iterator)

  def _read(self) -> bool:
    """Reads a batch; False at the end."""
    position = get_position(self._iterator) if self._num_ahead else None
    batch = next(self._iterator, None)
    if batch is not None:
      self._see(batch)
      self._waiting.append((position, batch))
    return batch is not None

  def open(self) -> bool:
    """Reads the first batch; False if no process has any.

    A collective call. A process without data gets the shapes of a batch from
    another, so that it can take part in steps.

    Raises:
      RuntimeError: A process without data cannot construct such a batch.
    """
    is_there = self._read()
    self._last = self._waiting[0][1] if is_there else None
    if jax.process_count() == 1:
      return is_there
    shapes = gather_json(describe(self._last))
    known = [s for s in shapes if s is not None]
    if known and self._last is None:
      self._last = zeros_of(known[0])
    return bool(known)

  def next(self) -> PyTree | None:
    """The next batch, or None at the end."""
    while len(self._waiting) <= self._num_ahead and self._read():
      pass
    if not self._waiting:
      return None
    self._last = self._waiting.popleft()[1]
    return self._last

  def filler(self) -> PyTree:
    """A batch of the right shapes, to be passed as not valid."""
    return self._last


def describe(batch: PyTree | None) -> Any:
  """Shapes and dtypes of a nested dict of arrays, as JSON."""
  if batch is None:
    return None
  if isinstance(batch, dict):
    return {name: describe(part) for name, part in batch.items()}
  if isinstance(batch, (list, tuple)):
    return ['container', type(batch).__name__, '']
  x = np.asarray(batch)
  return ['array', list(x.shape), x.dtype.str]


def zeros_of(description: Any) -> PyTree:
  """Zeros in the shapes and dtypes of a description by `describe`."""
  if isinstance(description, dict):
    return {name: zeros_of(part) for name, part in description.items()}
  kind, shape, dtype = description
  if kind != 'array':
    raise RuntimeError(
      f'Trainer: process {jax.process_index()} has no batch at all, and the'
      f" others' hold a {shape}. Give each process data for one batch, or"
      ' make batches nested dicts of arrays.'
    )
  return np.zeros(shape, np.dtype(dtype))


def get_position(iterator: Any) -> Any:
  """An iterator's position, or None if it has none."""
  return iterator.get_state() if hasattr(iterator, 'get_state') else None


def check_position(iterator: Any, position: Any) -> None:
  """Refuses a position of an iterator that cannot be saved.

  Raises:
    ValueError: With the iterator's class, and what its position may hold.
  """
  try:
    encode_position(position)
  except TypeError as error:
    raise ValueError(
      'Trainer.fit(checkpoint_dir=...): get_state() of the iterator'
      f' ({type(iterator).__name__}) gives a position that holds what no'
      f' checkpoint can: {error}. Use dicts by text, lists, tuples, numbers,'
      ' texts and bytes, or an iterator without get_state, whose position is'
      ' not saved.'
    ) from error


def set_position(
  iterator: Any,
  positions: list[Any],
  merge: Callable[[list[Any]], Any] | None,
) -> None:
  """Restores an input position saved by len(positions) processes."""
  if all(p is None for p in positions):
    if not hasattr(iterator, 'set_state'):
      logging.warning(
        'Trainer.fit: %s has no position to resume from; the data start over.'
        ' Grain data sets have one.',
        type(iterator).__name__,
      )
    return
  if not hasattr(iterator, 'set_state'):
    raise ValueError(
      'Trainer.fit: the checkpoint holds an input position and this iterator '
      f'({type(iterator).__name__}) cannot restore it; it needs set_state().'
    )
  if merge is not None:
    iterator.set_state(merge(positions))
  elif len(positions) == jax.process_count():
    iterator.set_state(positions[jax.process_index()])
  else:
    raise ValueError(
      f'Trainer.fit: the checkpoint holds input positions of {len(positions)} '
      f'processes and there are {jax.process_count()}; pass '
      'merge_input_states to make one of them, e.g. '
      'antjax.shards.dataset.merge_states.'
    )
