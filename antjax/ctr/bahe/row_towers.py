# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BAHE's towers: vectors of behaviors through the high layers.

The vectors come from a table, or from the low half, which encodes a batch's
distinct behaviors in the step.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from antjax.ctr.bahe import encode
from antjax.ctr.bahe import table as table_lib
from antjax.ctr.bahe.sequences import SequenceEncoder
from antjax.ctr.bahe.table import distinct_behaviors
from antjax.ctr.bahe.towers import Batch, Encoded, PyTree
from antjax.lm.split import LowEncoder
from antjax.lm.token_cache import TokenCache

# Shape suffixes as in antjax.ctr.bahe.towers.


@dataclasses.dataclass(frozen=True)
class RowTower:
  """A tower whose texts are rows, a behavior each.

  Attributes:
    encoder: The high half.
  """

  encoder: SequenceEncoder

  @property
  def user_dim(self) -> int:
    return self.encoder.num_sequences * self.encoder.dim

  @property
  def title_dim(self) -> int:
    return self.encoder.dim

  @property
  def has_history(self) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class StoreTower(RowTower):
  """Behaviours by their rows in a table, which is frozen.

  An unknown behavior is row 1, a text like any other; a user without
  behaviors has a learned vector. With a high half of no layers this is the
  frozen language model: its vectors are pooled and nothing of it is trained.

  Attributes:
    table: Table that holds the rows.
  """

  table: table_lib.Table

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


# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, P = parts of a batch, U = capacity, T = tokens of a behavior,
# D = width of the language model.


@dataclasses.dataclass(frozen=True)
class DedupTower(RowTower):
  """Each distinct behavior of a part goes through the low half once.

  With a frozen low half (Trainer(trainable=...), `tuning.trainable`) it gives
  what `StoreTower` gives; with a trained one it is what a store cannot give.

  Attributes:
    capacity: Largest number of distinct behaviors of a part, U, with padding.
    num_tokens: Number of tokens of a behavior; longer ones are cut.
    cache: Cache of the behaviors' tokens.
  """

  capacity: int
  num_tokens: int
  cache: TokenCache = dataclasses.field(compare=False)

  @property
  def _low(self) -> LowEncoder:
    return LowEncoder(self.encoder.high.config, self.encoder.high.num_low)

  def init_params(self, pretrained: PyTree) -> PyTree:
    """Both halves of a language model's parameters, and the null vectors."""
    low = {'low': self._low.params_of(pretrained)}
    return low | self.encoder.init_params(pretrained)

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """See `Tower.prepare`; adds the tokens of each part's behaviors."""
    is_there = np.asarray(batch['behaviors']) != 0
    ids, pointed = distinct_behaviors(batch, num_parts, self.capacity)
    tokens, lengths = self.cache.padded(ids, self.num_tokens)
    return pointed | {
      'is_there': is_there,
      'distinct_tokens': tokens,
      'distinct_lengths': lengths,
    }

  def __call__(self, params: PyTree, batch: Batch) -> Encoded:
    """See `Tower.__call__`."""
    tokens_UT = batch['distinct_tokens']
    place_1T = jnp.arange(tokens_UT.shape[1])[None]
    mask_UT = (place_1T < batch['distinct_lengths'][:, None]).astype(jnp.int32)
    x_UTD = self._low(params['low'], tokens_UT, mask_UT)
    rows_UD = encode.pool(x_UTD, mask_UT)
    return self.encoder(
      params,
      rows_UD[batch['behaviors']],
      batch['is_there'],
      rows_UD[batch['title']],
    )
