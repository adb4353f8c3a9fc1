# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Encodes texts by the low half, `E[a] = F_p(LLM_low(a))`.

Atomic Behavior Encoding of BAHE (Geng et al. 2024, section 3.2,
https://arxiv.org/abs/2403.19347). F_p is the fp32 mean over a text's tokens,
including special ones. With num_low = 0 this is the mean of embeddings (with
positions, types and their norm, if the model has these). With all layers it is
the mean of the last layer's output, before the final norm of Llama or T5, which
belongs to the high half.
"""

from typing import Any

import jax

from antjax.lm.positions import token_mask
from antjax.lm.split import LowEncoder
from antjax.lm.text_encoder import pool, TextEncoder
from antjax.lm.transformer import Transformer

# Shape suffixes: B = texts, T = tokens of a text.


class Encoder(TextEncoder):
  """Encodes texts on all devices of this process."""

  def __init__(
    self,
    whole: Transformer,
    *,
    num_low: int,
    max_tokens: int,
    **options: Any,
  ):
    """Places the low half on the devices; compiles nothing yet.

    The whole model is in the dtype to compute in; `options` are
    `TextEncoder`'s.

    Raises:
      ValueError: num_low exceeds the model's layers, or max_tokens its learned
        positions.
    """
    config = whole.config
    if config.positions == 'learned' and max_tokens > config.max_positions:
      raise ValueError(
        f'max_tokens={max_tokens}: the model has {config.max_positions} learned'
        ' positions; give no more than that.'
      )
    super().__init__(
      vectors,
      LowEncoder(whole, num_low),
      dim=config.embed_dim,
      max_tokens=max_tokens,
      **options,
    )


def vectors(
  low: LowEncoder, tokens_BT: jax.Array, lengths_B: jax.Array
) -> jax.Array:
  """Vectors of padded texts, fp32 [B, D]."""
  mask_BT = token_mask(tokens_BT, lengths_B)
  return pool(low(tokens_BT, lengths_B), mask_BT)
