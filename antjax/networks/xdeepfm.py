# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""xDeepFM: a compressed interaction network beside linear terms and an MLP.

Layer k makes H_k maps of width D from all pairs of the maps before and the
fields, X^k_h = sum_{i,j} W^{k,h}_{ij} (X^{k-1}_i * X^0_j); the sums of all
maps over D are weighed into the logit.

Source: Lian et al. 2018, https://arxiv.org/abs/1803.05170, section 3. As in its
section 3.3, maps have no activation; all maps of a layer go to the next layer
and to the output.
"""

import dataclasses
import itertools
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.networks.deep import Deep
from antjax.networks.network import DeepConfig, Inputs, Sizes


class Maps(nnx.Module):
  """Feature maps of pairs of earlier maps and fields.

  A place d of a map is a row: one product gives sum_i W_{ij} X_i for all j,
  whose products with X^0_j are summed. The outer products never exist.
  """

  def __init__(
    self, num_maps: int, num_fields: int, num_new: int, *, rngs: nnx.Rngs
  ):
    scale = (num_maps * num_fields) ** -0.5
    shape = num_maps, num_new, num_fields
    kernel = scale * jax.random.normal(rngs.params(), shape)
    self.kernel = nnx.Param(kernel)

  def __call__(self, maps_SH: jax.Array, fields_SF: jax.Array) -> jax.Array:
    """[S, new maps], S = rows times their places."""
    kernel = self.kernel[...]
    mixed = maps_SH @ kernel.reshape(len(kernel), -1)
    by_field = mixed.reshape(len(mixed), *kernel.shape[1:])
    return jnp.sum(by_field * fields_SF[:, None], axis=-1)


class XDeepFM(nnx.Module):
  """Explicit interactions of vectors, and implicit ones of their elements."""

  needs = frozenset({'linear'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    cin_widths: Annotated[tuple[int, ...], 'Feature maps of each layer.'] = (
      32,
      32,
    )

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    num_maps = (sizes.num_fields, *config.cin_widths)
    self.maps = nnx.List(
      Maps(before, sizes.num_fields, after, rngs=rngs)
      for before, after in itertools.pairwise(num_maps)
    )
    self.cin_out = nnx.Linear(sum(config.cin_widths), 1, rngs=rngs)
    self.deep = Deep(sizes.flat_width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    num_rows, num_fields, dim = x.fields_BFD.shape
    fields = jnp.swapaxes(x.fields_BFD, 1, 2).reshape(-1, num_fields)
    maps, sums = fields, []
    for layer in self.maps:
      maps = layer(maps, fields)
      sums.append(maps.reshape(num_rows, dim, -1).sum(axis=1))
    explicit = self.cin_out(jnp.concatenate(sums, axis=-1))[:, 0]
    return x.first_order_B + explicit + self.deep(x.flat)
