# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adds rows to a store of behaviours; see `store`."""

from collections.abc import Sequence
import dataclasses
import os
import secrets
from typing import Any

import numpy as np
import tensorstore as ts

from antjax.ctr.bahe import manifest as manifest_lib
from antjax.ctr.bahe import store
from antjax.ctr.bahe.manifest import Manifest

_COMPLETE = b'complete/'
Range = tuple[int, int]


class StoreWriter:
  """Writes rows, in any order and in any number of processes.

  Rows are seen by nobody before `commit`. A row may be written twice, with the
  same numbers.

  Attributes:
    manifest: As it was found, or made.
  """

  def __init__(self, path: str | os.PathLike[str], new: Manifest):
    """Opens a store, or makes it.

    Args:
      path: Folder, which is made, or URL.
      new: What is to be written. A store that is there must have been made
        alike; its own `rows`, `store` and vocabulary fingerprint count.

    Raises:
      ValueError: There is a store that was made otherwise, or is damaged.
      OSError: It cannot be written.
    """
    self._path = path
    found, generation = store.read_manifest(path)
    if found is None:
      made = dataclasses.replace(new, rows=0, store=secrets.token_hex(8))
      self._replace(made, generation)  # Or somebody else just has.
      found, _ = store.read_manifest(path)
      assert found is not None
    fields = 'model tokenizer num_low pooling normalizer max_tokens'.split()
    found.check(**{name: getattr(new, name) for name in fields})
    if (found.dtype, found.dim) != (new.dtype, new.dim):
      raise ValueError(
        f'the store at {path} has rows of {found.dim} {found.dtype}; got'
        f' {new.dim} {new.dtype}. Use another folder for those.'
      )
    self.manifest = found
    self._arrays = store.open_arrays(path, found, create=True)

  def missing(self, start: int, stop: int) -> list[Range]:
    """The parts of start <= row < stop that are not written yet, rising."""
    done = sorted([(0, self.manifest.rows), *self._complete()])
    result = []
    for first, last in done:
      if first > start:
        result.append((start, min(first, stop)))
      start = max(start, last)
      if start >= stop:
        break
    if start < stop:
      result.append((start, stop))
    return [part for part in result if part[0] < part[1]]

  def write(self, start: int, rows: np.ndarray) -> None:
    """Writes rows durably.

    Returns once they are on the disk. Whole chunks (store.CHUNK_ROWS) of one
    writer each keep writers out of each other's way.

    Args:
      start: Id of the first one.
      rows: float32 [n, D].

    Raises:
      ValueError: They do not fit the store: wrong width, not finite, or too
        large for float16.
      OSError: They cannot be written.
    """
    stop = start + len(rows)
    if rows.ndim != 2 or rows.shape[1] != self.manifest.dim:
      raise ValueError(
        f'StoreWriter.write: rows of shape {rows.shape}; needed is [n,'
        f' {self.manifest.dim}].'
      )
    if stop > store.MAX_ROWS:
      raise ValueError(f'StoreWriter.write: row {stop - 1} is beyond int32.')
    values, scales = _encode(start, rows, self.manifest.dtype)
    key = _COMPLETE + b'%010d-%010d' % (start, stop)
    try:
      with ts.Transaction(atomic=True) as transaction:
        arrays = self._arrays
        writes = [
          arrays.values.with_transaction(transaction)[start:stop].write(values)
        ]
        if scales is not None:
          writes.append(
            arrays.scales.with_transaction(transaction)[start:stop].write(
              scales
            )
          )
        for write in writes:
          write.result()
        arrays.keys.with_transaction(transaction)[key] = b''
    except ValueError as error:
      raise store.store_error(error, f'write to {self._path}') from error

  def commit(self, rows: int) -> Manifest:
    """Lets readers see the first `rows` rows; all must be written.

    Repeating it, by any process, changes nothing.

    Raises:
      RuntimeError: Rows are missing.
      OSError: The manifest cannot be written.
    """
    lost = self.missing(0, rows)
    if lost:
      raise RuntimeError(
        f'store of behaviours at {self._path}: the rows'
        f' {", ".join(f"{a} to {b - 1}" for a, b in lost[:5])} are not'
        ' written; run the build again, it makes what is missing.'
      )
    while True:
      found, generation = store.read_manifest(self._path)
      if found is None or found.store != self.manifest.store:
        raise RuntimeError(
          f'store of behaviours at {self._path}: another store took its place'
          ' while this one was written; build again.'
        )
      if found.rows >= rows:
        self.manifest = found
        return found
      self._replace(dataclasses.replace(found, rows=rows), generation)

  def _replace(self, manifest: Manifest, generation: Any) -> None:
    """Replaces the manifest, unless it has changed since it was read."""
    try:
      folder = ts.KvStore.open(store.kvstore_spec(self._path)).result()
      folder.write(
        manifest_lib.FILE_NAME, manifest.to_json(), if_equal=generation
      ).result()
    except ValueError as error:
      raise store.store_error(error, f'write to {self._path}') from error

  def _complete(self) -> list[Range]:
    try:
      keys: Sequence[bytes] = self._arrays.keys.list(
        ts.KvStore.KeyRange(_COMPLETE, _COMPLETE[:-1] + b'0')
      ).result()
    except ValueError as error:
      raise store.store_error(error, f'read {self._path}') from error
    parts = [key[len(_COMPLETE) :].split(b'-') for key in keys]
    return [(int(first), int(last)) for first, last in parts]


def _encode(
  start: int, rows: np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray | None]:
  """Numbers as they are stored, and scales [n] for int8."""
  largest = np.abs(rows).max(axis=1, initial=0)  # nan and inf stay.
  is_wrong = ~np.isfinite(largest)
  if dtype == 'float16':
    is_wrong |= largest > np.finfo(np.float16).max
  if is_wrong.any():
    first = int(np.argmax(is_wrong))
    raise ValueError(
      f'behaviour {start + first}: its largest number is {largest[first]}, and'
      f' {dtype} has none such.'
      + (' Use --dtype=bfloat16.' if np.isfinite(largest[first]) else '')
    )
  if dtype != 'int8':
    return rows.astype(store.DTYPES[dtype]), None
  scales = (largest / 127).astype(np.float32)
  # A row of zeros has scale 0.
  quotients = rows / np.where(scales > 0, scales, 1)[:, None]
  return np.rint(np.clip(quotients, -127, 127)).astype(np.int8), scales
