# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""FinalMLP: two MLPs on gated fields, and a bilinear form of both.

  h_i = 2 sigmoid(G_i(c_i)) * v,  o_i = MLP_i(h_i),
  y = b + w_1 o_1 + w_2 o_2 + sum_h o_1^h W_h o_2^h  (heads h)

Source: Mao et al. 2023, https://arxiv.org/abs/2304.00902, section 3. c_1 are
the user's fields, c_2 the item's, as the paper does for its own data; without
such fields the gate is a learned vector, as it suggests.
"""

from collections.abc import Sequence
import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.network import DeepConfig, Inputs, Sizes


class Stream(nnx.Module):
  """A gate on the fields and an MLP."""

  def __init__(
    self,
    sizes: Sizes,
    fields: Sequence[int],
    config: 'FinalMLP.Config',
    *,
    rngs: nnx.Rngs,
  ):
    self.fields = tuple(fields)
    width = sizes.flat_width
    if self.fields:
      self.gate = nnx.Linear(len(self.fields) * sizes.dim, width, rngs=rngs)
    else:
      self.score = nnx.Param(jnp.zeros(width))
    self.mlp = MLP(width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """[B, O]."""
    if self.fields:
      score = self.gate(x.joined(self.fields))
    else:
      score = jnp.broadcast_to(self.score[...], x.flat.shape)
    return self.mlp(2 * jax.nn.sigmoid(score) * x.flat)


class FinalMLP(nnx.Module):
  """Two streams, fused."""

  needs: frozenset[str] = frozenset()

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    num_heads: Annotated[int, 'Heads.'] = 2

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width, heads = config.widths[-1], config.num_heads
    if width % heads:
      raise ValueError(
        f'finalmlp: num_heads={heads} must divide the last width {width}.'
      )
    self.user = Stream(sizes, sizes.user_fields, config, rngs=rngs)
    self.item = Stream(sizes, sizes.item_fields, config, rngs=rngs)
    self.linear = nnx.Linear(2 * width, 1, rngs=rngs)
    part = width // heads
    scale = part**-1.0  # So that the form of two unit vectors is about one.
    form = jax.random.normal(rngs.params(), (heads, part, part)) * scale
    self.form = nnx.Param(form)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    user, item = self.user(x), self.item(x)
    logit = self.linear(jnp.concatenate([user, item], axis=-1))[:, 0]
    for h, form in enumerate(self.form[...]):
      part = slice(h * len(form), (h + 1) * len(form))
      logit += jnp.sum((user[:, part] @ form) * item[:, part], axis=-1)
    return logit
