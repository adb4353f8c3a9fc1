# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DIN: y = MLP([v, sum_m a(k_m, q) k_m]), the candidate q weighs the history.

Source: Zhou et al. 2018, https://arxiv.org/abs/1706.06978, section 4.3; see
`antjax.layers.target_attention` for a.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.ctr.models.inputs import Inputs, NetworkConfig, Sizes
from antjax.ctr.models.mlp_model import Deep
from antjax.layers.target_attention import TargetAttention


class DIN(nnx.Module):
  """An MLP over the fields and the attended history."""

  def __init__(self, sizes: Sizes, config: NetworkConfig, *, rngs: nnx.Rngs):
    sizes.need_history('din')
    self.attention = TargetAttention(
      sizes.dim, config.attention_widths, rngs=rngs
    )
    self.deep = Deep(sizes.flat_width + sizes.dim, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    assert x.history is not None
    attended = self.attention(
      x.history.query_BD, x.history.keys_BMD, x.history.is_there_BM
    )
    return self.deep(jnp.concatenate([x.flat, attended], axis=-1))
