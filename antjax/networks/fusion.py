# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts and images as further fields of any click model.

A vector t from an encoder becomes the field g * W t, with g

  concat         1
  gated          2 sigmoid(G [id fields] + c): the ids decide the weight of t,
                 e.g. little for an item that has been seen often
  per_scenario   2 sigmoid(G s + c), with the scenario's vector s

W has no bias, so a zero vector, which stands for a missing text or image, stays
zero. G and c start at 0: all ways start as concat.
"""

from collections.abc import Mapping
import dataclasses
from typing import get_args, Literal

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.networks.network import Inputs, Sizes

# Shape suffixes: B = rows, N = vectors, D = embedding width.

Way = Literal['concat', 'gated', 'per_scenario']


class Fusion(nnx.Module):
  """Adds a field for each vector.

  Attributes:
    sizes: Sizes of the returned inputs, for the model after it.
  """

  def __init__(
    self,
    sizes: Sizes,
    widths: Mapping[str, int],
    way: Way = 'concat',
    *,
    rngs: nnx.Rngs,
  ):
    """Creates the linear maps.

    Args:
      sizes: Sizes of the inputs without the vectors.
      widths: Name of a vector -> its width, in the order of the fields.
      way: See above.
      rngs: Source of the initial weights.

    Raises:
      ValueError: There is no vector, or the way or a width is invalid.
    """
    if way not in get_args(Way):
      raise ValueError(f'fusion={way!r}: use {", ".join(get_args(Way))}.')
    if not widths or min(widths.values()) < 1:
      raise ValueError(
        f'Fusion(widths={dict(widths)}): give one or more vectors of positive'
        ' width, or leave the fusion out.'
      )
    num_fields = sizes.num_fields + len(widths)
    self.sizes = dataclasses.replace(sizes, num_fields=num_fields)
    self.way = way
    self.widths = dict(widths)
    self.maps = nnx.Dict(
      {
        name: nnx.Linear(width, sizes.dim, use_bias=False, rngs=rngs)
        for name, width in widths.items()
      }
    )
    if way == 'concat':
      self.gate = None
    else:
      self.gate = nnx.Linear(
        sizes.flat_width if way == 'gated' else sizes.dim,
        len(widths) * sizes.dim,
        kernel_init=nnx.initializers.zeros_init(),
        rngs=rngs,
      )

  def __call__(self, x: Inputs, vectors: Mapping[str, jax.Array]) -> Inputs:
    """The inputs with one more field for each vector.

    Args:
      x: The inputs without the vectors.
      vectors: Name -> float [B, width], for the names in `widths`.

    Raises:
      ValueError: Names or widths of the vectors differ from `widths`.
    """
    found = {name: vector.shape[-1] for name, vector in vectors.items()}
    if found != self.widths:
      raise ValueError(
        f'Fusion: got vectors of widths {found}; needed are {self.widths}.'
      )
    dtype = x.fields_BFD.dtype
    mapped_BND = jnp.stack(
      [self.maps[n](vectors[n].astype(dtype)) for n in self.widths], axis=1
    )
    if self.gate is not None:
      is_gated = self.way == 'gated'
      seen = x.flat if is_gated else x.fields_BFD[:, self.sizes.scenario_field]
      score_BND = self.gate(seen).reshape(mapped_BND.shape)
      mapped_BND = 2 * jax.nn.sigmoid(score_BND) * mapped_BND
    return x._replace(
      fields_BFD=jnp.concatenate([x.fields_BFD, mapped_BND], axis=1)
    )
