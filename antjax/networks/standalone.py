# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Any click network where there are no scenarios and no tables of weights."""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.networks import load
from antjax.networks.network import History, Inputs, Sizes

# Shape suffixes: B = rows, F = fields, D = embedding width, X = width of the
# dense inputs.


class Standalone(nnx.Module):
  """A network whose linear terms, if it has any, are one map of all inputs."""

  def __init__(
    self,
    name: str,
    sizes: Sizes,
    config: load.NetworkConfig,
    *,
    rngs: nnx.Rngs,
  ):
    """Makes the network; see `load.make`."""
    self.num_outputs = sizes.num_outputs
    self.network = load.make(name, sizes, config, rngs=rngs)
    self.linear = (
      nnx.Linear(sizes.flat_width, 1, use_bias=False, rngs=rngs)
      if 'linear' in load.load(name).needs
      else None
    )

  def inputs(
    self,
    fields_BFD: jax.Array,
    dense_BX: jax.Array | None,
    histories: tuple[History, ...] = (),
  ) -> Inputs:
    """What the network reads, its linear terms included."""
    num_rows = fields_BFD.shape[0]
    x = Inputs(
      fields_BFD,
      jnp.zeros(num_rows, fields_BFD.dtype),
      jnp.zeros(num_rows, jnp.int32),
      dense_BX,
      histories,
    )
    if self.linear is None:
      return x
    return x._replace(first_order_B=self.linear(x.flat)[:, 0])

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B], or [B, num_outputs] of a network that gives several."""
    return load.scores(self.network, x, self.num_outputs)
