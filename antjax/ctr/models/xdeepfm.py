# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""xDeepFM: a compressed interaction network beside linear terms and an MLP.

Layer k makes H_k maps of width D from all pairs of the maps before and the
fields, X^k_h = sum_{i,j} W^{k,h}_{ij} (X^{k-1}_i * X^0_j); the sums of all
maps over D are weighed into the logit.

Source: Lian et al. 2018, https://arxiv.org/abs/1803.05170, section 3. As in its
section 3.3, maps have no activation; all maps of a layer go on and out.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.ctr.models.inputs import Inputs, NetworkConfig, Sizes
from antjax.ctr.models.mlp_model import Deep


class XDeepFM(nnx.Module):
  """Explicit interactions of vectors, and implicit ones of their elements."""

  def __init__(self, sizes: Sizes, config: NetworkConfig, *, rngs: nnx.Rngs):
    num_maps = (sizes.num_fields, *config.cin_widths)
    self.maps = nnx.List(
      nnx.Linear(before * sizes.num_fields, after, use_bias=False, rngs=rngs)
      for before, after in zip(num_maps, num_maps[1:], strict=False)
    )
    self.cin_out = nnx.Linear(sum(config.cin_widths), 1, rngs=rngs)
    self.deep = Deep(sizes.flat_width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    x0_BDF = maps_BDH = jnp.swapaxes(x.fields_BFD, 1, 2)
    sums = []
    for layer in self.maps:
      pairs = maps_BDH[..., :, None] * x0_BDF[..., None, :]
      maps_BDH = layer(pairs.reshape(*x0_BDF.shape[:2], -1))
      sums.append(jnp.sum(maps_BDH, axis=1))
    explicit = self.cin_out(jnp.concatenate(sums, axis=-1))[:, 0]
    return x.first_order_B + explicit + self.deep(x.flat)
