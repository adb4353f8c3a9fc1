# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BAHE's tower: cached vectors of behaviours through the high layers."""

import dataclasses
from typing import Any

from antjax.ctr.bahe import table as table_lib
from antjax.ctr.bahe.sequences import SequenceEncoder
from antjax.ctr.bahe.towers import Batch, Encoded, PyTree

# Shape suffixes as in antjax.ctr.bahe.towers.


@dataclasses.dataclass(frozen=True)
class StoreTower:
  """Behaviours by their rows in a table, which is frozen.

  An unknown behaviour is row 1, a text like any other; a user without
  behaviours has a learned vector. With a high half of no layers this is the
  frozen language model: its vectors are pooled and nothing of it is trained.

  Attributes:
    encoder: The high half.
    table: Where the rows are.
  """

  encoder: SequenceEncoder
  table: table_lib.Table

  @property
  def user_dim(self) -> int:
    return self.encoder.num_sequences * self.encoder.dim

  @property
  def title_dim(self) -> int:
    return self.encoder.dim

  @property
  def has_history(self) -> bool:
    return True

  def init_params(self, pretrained: PyTree) -> PyTree:
    """See `SequenceEncoder.init_params`."""
    return self.encoder.init_params(pretrained)

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """See `Tower.prepare`."""
    there = {'is_there': batch['behaviors'] != 0}
    return self.table.prepare(batch, num_parts) | there

  def __call__(self, params: PyTree, batch: Batch) -> Encoded:
    """See `Tower.__call__`."""
    x_BNMD, title_BD = table_lib.vectors(self.table, batch)
    return self.encoder(params, x_BNMD, batch['is_there'], title_BD)
