# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DIN: y = MLP([v, sum_m a(k_m, q) k_m]), the candidate q weighs the history.

Source: Zhou et al. 2018, https://arxiv.org/abs/1706.06978, section 4.3; see
`antjax.layers.target_attention` for a.
"""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.target_attention import TargetAttention
from antjax.networks.deep import Deep
from antjax.networks.network import DeepConfig, Inputs, Sizes


class DIN(nnx.Module):
  """An MLP over the fields and the attended history."""

  needs = frozenset({'history'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    attention_widths: Annotated[
      tuple[int, ...], 'Hidden widths of the attention.'
    ] = (64, 32)

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.attention = nnx.List(
      TargetAttention(sizes.dim, config.attention_widths, rngs=rngs)
      for _ in sizes.histories
    )
    self.deep = Deep(
      sizes.flat_width + len(sizes.histories) * sizes.dim,
      config.widths,
      rngs=rngs,
    )

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    attended = [
      attention(query_BD, keys_BMD, is_there_BM)
      for attention, (keys_BMD, is_there_BM, query_BD) in zip(
        self.attention, x.histories, strict=True
      )
    ]
    return self.deep(jnp.concatenate([x.flat, *attended], axis=-1))
