# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a click model asks of its text side: a tower.

A tower has a part on the host, `prepare`, which adds to a batch what the part
on the devices reads, and that part, `__call__`. `StoreTower` is BAHE;
`antjax.ctr.bahe.full_text` has what it is compared with.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, D = width of the language model, F = width of a user.

PyTree = Any
Batch = Mapping[str, Any]


class Encoded(NamedTuple):
  """Vectors of texts.

  Attributes:
    user_BF: A user's sequences, concatenated: F = N D.
    title_BD: The items' titles.
    history_BNMD: A vector a behavior, for heads that attend to them; None
      where a tower has none.
    is_there_BNM: bool, False for padding; None with `history_BNMD`.
  """

  user_BF: jax.Array
  title_BD: jax.Array
  history_BNMD: jax.Array | None = None
  is_there_BNM: jax.Array | None = None


class Tower(Protocol):
  """A text side. Towers are frozen dataclasses, equal by their fields."""

  @property
  def user_dim(self) -> int:
    """F."""

  @property
  def title_dim(self) -> int:
    """D."""

  @property
  def has_history(self) -> bool:
    """Whether it gives a vector a behavior."""

  def init_params(self, pretrained: PyTree) -> PyTree:
    """Its parameters, from those of a whole language model."""

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """Host: the batch with what `__call__` reads.

    Args:
      batch: numpy arrays, see `antjax.ctr.bahe.batches`.
      num_parts: Equal runs of examples that are worked off apart: this
        process's devices times its micro-batches. What is added must have a
        leading dim that is a multiple of it, of a size that never changes.
    """

  def __call__(self, params: PyTree, batch: Batch) -> Encoded:
    """Device: encodes one part.

    Args:
      params: Parameters from `init_params`, in the compute dtype.
      batch: From `prepare`; where the Trainer holds constants, 'constants' is
        their tree.
    """
