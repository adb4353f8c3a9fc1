# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The trained parameters of a click model except its tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.ctr.antm2c.numbers import NumberFields
from antjax.networks import load
from antjax.networks.fusion import Fusion
from antjax.networks.network import Inputs, ScenarioMoments, Sizes

# Shape suffixes: B = rows, F = fields, D = embedding width, d = width of a
# narrower table.


class FieldNetwork(nnx.Module):
  """Fields of numbers and vectors, and a network, without tables."""

  def __init__(
    self,
    name: str,
    sizes: Sizes,
    config: load.NetworkConfig,
    fields: FieldConfig,
    numbers: Sequence[str],
    modal: Mapping[str, int],
    narrow: Mapping[str, int],
    *,
    rngs: nnx.Rngs,
  ):
    """Creates the parameters.

    `sizes` are without vectors of texts and images, whose widths `modal` has.
    `numbers` are ways: linear, autodis or dense; `narrow` is table -> width of
    its rows, for those below D.
    """
    self.maps: Any = nnx.Dict()
    for table, width in narrow.items():
      shape = (width, sizes.dim)
      map_dD = jax.random.normal(rngs.params(), shape) * width**-0.5
      self.maps[table] = nnx.Param(map_dD)
    self.numbers = (
      NumberFields(numbers, sizes.dim, fields.init_scale, rngs=rngs)
      if numbers
      else None
    )
    # One weight per element of a vector, starting at 0 like those of ids.
    self.weights: Any = nnx.Dict()
    if 'linear' in load.load(name).needs:
      for kind, width in modal.items():
        self.weights[kind] = nnx.Param(jnp.zeros(width))
    self.fusion = (
      Fusion(sizes, modal, fields.fusion, rngs=rngs) if modal else None
    )
    if self.fusion is not None:
      sizes = self.fusion.sizes
    self.model = load.make(name, sizes, config, rngs=rngs)

  def wide(self, table: str, rows: jax.Array) -> jax.Array:
    """Rows of a table [..., D]; those of a narrow one [..., d] are mapped."""
    return rows @ self.maps[table][...] if table in self.maps else rows

  def whole(self, x: Inputs, batch: Mapping[str, Any]) -> Inputs:
    """Adds the data of a batch other than ids to the inputs."""
    dtype = x.fields_BFD.dtype
    if self.numbers is not None:
      x = self.numbers(batch['numeric'].astype(dtype), x)
    if 'moments' in batch:
      moments = ScenarioMoments(*(m[0] for m in batch['moments']))
      x = x._replace(moments=moments)
    if self.fusion is None:
      return x
    vectors = {name: batch[name].astype(dtype) for name in self.fusion.widths}
    for name, weight in self.weights.items():
      linear_B = vectors[name] @ weight[...]
      x = x._replace(first_order_B=x.first_order_B + linear_B)
    return self.fusion(x, vectors)
