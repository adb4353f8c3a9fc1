# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a feature's ids to positions in the stack that holds its tables."""

from collections.abc import Mapping, Sequence

import numpy as np

from antjax.embedding.layout import Stack, TableSpec
from antjax.embedding.routing import PAD


class Feature:
  """A feature of a batch: ids of one table, or columns of a table each."""

  def __init__(
    self,
    name: str,
    tables: str | Sequence[str],
    specs: Mapping[str, TableSpec],
    stack_of: Mapping[str, Stack],
  ):
    """Finds the tables.

    Args:
      name: The feature's key in a batch.
      tables: Name of its table, or one name per column.
      specs: Table name -> spec of the table.
      stack_of: Table name -> stack of the table.

    Raises:
      ValueError: An unknown table, or tables of several stacks.
    """
    self.name = name
    self.tables = (tables,) if isinstance(tables, str) else tuple(tables)
    self.has_columns = not isinstance(tables, str)
    for table in self.tables:
      if table not in specs:
        raise ValueError(
          f'EmbeddingTables: feature {name!r} looks up table {table!r}, '
          f'which is not among {sorted(specs)}.'
        )
    stacks = sorted({stack_of[table].name for table in self.tables})
    if len(stacks) != 1:
      raise ValueError(
        f'EmbeddingTables: the tables {self.tables} of feature {name!r} are in'
        f' {len(stacks)} stacks ({", ".join(stacks)}); columns of one feature'
        ' need tables of one width, level and optimizer.'
      )
    self.stack = stack_of[self.tables[0]]
    rows = [specs[table].num_embeddings for table in self.tables]
    self._num_rows = np.array(rows, np.int32)
    offsets = [self.stack.offset(table) for table in self.tables]
    self._offsets = np.array(offsets, np.int32)

  def positions(self, ids: np.ndarray) -> np.ndarray:
    """Positions int32 of ids of any shape; what is negative becomes PAD.

    Raises:
      ValueError: Ids that are no integers, beyond their table, or of another
        number of columns.
    """
    where = f"batch['ids'][...][{self.name!r}] has"
    if not np.issubdtype(ids.dtype, np.integer):
      raise ValueError(f'{where} dtype {ids.dtype}; ids must be integers.')
    if not self.has_columns:
      columns = ids.reshape(-1, 1)
    elif ids.ndim > 1 and ids.shape[-1] == len(self.tables):
      columns = ids.reshape(-1, len(self.tables))
    else:
      raise ValueError(
        f'{where} shape {ids.shape}; its last dim must be {len(self.tables)},'
        ' one column a table.'
      )
    largest = columns.max(axis=0, initial=0)
    if np.any(largest >= self._num_rows):
      i = int(np.argmax(largest >= self._num_rows))
      raise ValueError(
        f'{where} id {largest[i]}; table {self.tables[i]!r} has'
        f' {self._num_rows[i]} rows. Map unknown ids to an OOV id, or make the'
        ' table larger.'
      )
    columns = columns.astype(np.int32)  # All positions fit.
    row = columns // self.stack.num_owners
    position = columns - row * self.stack.num_owners  # The owner.
    position *= self.stack.rows_per_device
    position += row
    position += self._offsets
    position[columns < 0] = PAD
    return position.reshape(ids.shape)
