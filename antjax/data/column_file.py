# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a column of a table as a .npy file, without having it whole."""

import pathlib
from typing import BinaryIO

from ibis.expr import types as ir
import numpy as np

from antjax.data import prepare

_BATCH_ROWS = 65_536


def write_int32(
  path: pathlib.Path, table: ir.Table, column: str, work: pathlib.Path
) -> int:
  """Writes integers as int32; returns their number.

  Args:
    path: File to write.
    table: Table, ordered as the values shall be.
    column: Its column.
    work: Folder with room for the table.
  """
  size = 0
  with open(path, 'wb') as file:
    _write_header(file, size)
    for batch in prepare.stream(table, work, [column], batch_rows=_BATCH_ROWS):
      part = batch[column].to_numpy(zero_copy_only=False)
      file.write(part.astype('<i4').tobytes())
      size += len(part)
    if not size:
      # An empty array cannot be memory-mapped: it gets a value that nothing
      # refers to.
      file.write(bytes(4))
    file.seek(0)
    _write_header(file, max(size, 1))
  return size


def _write_header(file: BinaryIO, size: int) -> None:
  """Writes the head of a .npy file; numpy leaves room for any size."""
  np.lib.format.write_array_header_1_0(
    file, {'descr': '<i4', 'fortran_order': False, 'shape': (size,)}
  )
