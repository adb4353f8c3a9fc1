# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exact states of transforms that buffer records, such as packing."""

from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from antjax.shards import position


class HeldBack(grain.IterDataset):
  """Elements of a transform that pulls records before it yields them.

    records = LeasedDataset(source, client, key_field='key').filter(is_long)
    packed = HeldBack(
      records,
      lambda records: grain.experimental.FirstFitPackIterDataset(
        records,
        length_struct={'tokens': 2048},
        num_packing_bins=64,
        meta_features=['key'],
      ),
      key_field='key',
    )

  Grain saves such a transform as the position before its buffer and the number
  of elements that left it, which no other number of processes can continue.
  Here the state is that of the records below; what the transform has pulled and
  not yet yielded is to be read again. So states merge as those of a
  `LeasedDataset` do, and every record is used once. After a restore the buffer
  begins empty: elements may be composed anew.
  """

  def __init__(
    self,
    records: grain.IterDataset,
    transform: Callable[[grain.IterDataset], grain.IterDataset],
    *,
    key_field: str,
  ):
    """Reads nothing yet.

    Args:
      records: A `LeasedDataset` with this `key_field`, and transforms on it
        that yield a record before they pull the next, e.g. map and filter.
      transform: What holds records back, from records to elements.
      key_field: Field of a record that has its key, and of an element that has
        the keys of all its records: one, an array, or a list of them.
    """
    super().__init__()
    self._records = records
    self._transform = transform
    self._key_field = key_field

  def __iter__(self) -> '_HeldBackIterator':
    return _HeldBackIterator(self._records, self._transform, self._key_field)

  def __str__(self) -> str:
    return f'HeldBack({self._records})'


class _HeldBackIterator(grain.DatasetIterator):
  """Knows the keys that went in and have not come out."""

  def __init__(self, records: Any, transform: Any, key_field: str):
    super().__init__()
    self._key_field = key_field
    self._records = iter(records)
    self._transform = transform
    self._restart()

  def _restart(self) -> None:
    self._held = set[int]()
    self._elements = iter(self._transform(_Tap(self._pull)))

  def _pull(self) -> Any:
    record = next(self._records)
    if self._key_field not in record:
      raise ValueError(
        f'HeldBack: key_field={self._key_field!r} is no field of the records,'
        f' which have {", ".join(record)}; make LeasedDataset with it.'
      )
    self._held.add(int(record[self._key_field]))
    return record

  def __next__(self) -> Any:
    try:
      element = next(self._elements)
    except StopIteration:  # Leases of others may come back: it can be asked on.
      self._elements = iter(self._transform(_Tap(self._pull)))
      raise
    keys = element.get(self._key_field)
    if keys is None:
      raise ValueError(
        f'HeldBack: an element lacks {self._key_field!r} (it has'
        f' {", ".join(element)}); let the transform keep it, as packing does of'
        ' meta_features.'
      )
    self._held.difference_update(np.ravel(keys).tolist())
    return element

  def get_state(self) -> dict[str, Any]:
    return position.unmark_state(self._records.get_state(), self._held)

  def set_state(self, state: dict[str, Any]) -> None:
    self._records.set_state(state)
    self._restart()


class _Tap(grain.IterDataset):
  """What `pull` returns, for the transform to read."""

  def __init__(self, pull: Callable[[], Any]):
    super().__init__()
    self._pull = pull

  def __iter__(self) -> '_TapIterator':
    return _TapIterator(self._pull)


class _TapIterator(grain.DatasetIterator):
  def __init__(self, pull: Callable[[], Any]):
    super().__init__()
    self._pull = pull

  def __next__(self) -> Any:
    return self._pull()

  def get_state(self) -> dict[str, Any]:
    return {}  # Its owner saves the records below.

  def set_state(self, state: dict[str, Any]) -> None:
    raise NotImplementedError('HeldBack restores the records below it.')
