# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""NumPy files as a table, in the form of MLPerf's multi-hot Criteo data.

An .npz file has an array for each column, [n] or [n, 1] of one value a row, or
[n, k] of k. Beside `day_0_sparse_multi_hot.npz`, `day_0_labels.npy` is the
column `labels`, and `day_0_dense.npy` [n, 13] are `dense_0` to `dense_12`.
Arrays are mapped where they are not packed, so a block is read at a time.
"""

from collections.abc import Iterator, Sequence
import pathlib
from typing import Literal
import zipfile

import numpy as np
import pyarrow as pa

SUFFIX = '.npz'
_SPARSE = '_sparse'
_LOCAL_HEADER = 30  # Bytes, in front of a name and what is added to it.


class NumpyTable:
  """Arrays of one file, and of those beside it."""

  def __init__(self, path: pathlib.Path):
    """Opens the files; reads no rows.

    Raises:
      ValueError: It is no .npz file, or its arrays are of other shapes.
    """
    arrays = _arrays(path)
    stem, is_part, _ = path.stem.partition(_SPARSE)
    for other in sorted(path.parent.glob(f'{stem}_*.npy')) if is_part else ():
      name = other.stem.removeprefix(f'{stem}_')
      found = np.load(other, mmap_mode='r')
      arrays[name] = found
      if found.ndim == 2 and found.shape[1] > 1:
        del arrays[name]
        for k, column in enumerate(found.T):
          arrays[f'{name}_{k}'] = column
    shapes = {name: array.shape for name, array in arrays.items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or any(len(s) not in (1, 2) for s in shapes.values()):
      raise ValueError(
        f'{path} has arrays of the shapes {shapes}, beside it included; needed:'
        ' [n] or [n, k], of one n.'
      )
    self._arrays = arrays
    self.names = [*arrays]
    ((self.num_rows,),) = lengths

  def iter_batches(
    self, size: int, columns: Sequence[str]
  ) -> Iterator[pa.RecordBatch]:
    """All rows of some columns, in order."""
    for start in range(0, self.num_rows, size):
      part = slice(start, min(start + size, self.num_rows))
      yield pa.RecordBatch.from_arrays(
        [_column(self._arrays[n][part]) for n in columns], [*columns]
      )

  def close(self) -> None:
    self._arrays = {}


def _column(values: np.ndarray) -> pa.Array:
  flat = pa.array(np.ascontiguousarray(values).reshape(-1))
  width = values.size // max(len(values), 1)
  if values.ndim == 1 or width == 1:
    return flat
  return pa.FixedSizeListArray.from_arrays(flat, width)


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Name -> array, mapped where it is stored as it is."""
  found = {}
  try:
    with zipfile.ZipFile(path) as archive, path.open('rb') as file:
      for info in archive.infolist():
        name = info.filename.removesuffix('.npy')
        with archive.open(info) as member:
          if info.compress_type != zipfile.ZIP_STORED:
            found[name] = np.lib.format.read_array(member)
            continue
          version = np.lib.format.read_magic(member)
          header = np.lib.format.read_array_header_1_0
          if version != (1, 0):
            header = np.lib.format.read_array_header_2_0
          shape, by_column, dtype = header(member)
          begin = member.tell()
        # The local header has other lengths than the directory at the end.
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER)
        begin += _LOCAL_HEADER + info.header_offset
        begin += int.from_bytes(local[26:28], 'little')
        begin += int.from_bytes(local[28:30], 'little')
        order: Literal['C', 'F'] = 'F' if by_column else 'C'
        found[name] = np.memmap(path, dtype, 'r', begin, shape, order)
  except (zipfile.BadZipFile, ValueError) as error:
    raise ValueError(f'{path} is no .npz file ({error}).') from error
  return found
