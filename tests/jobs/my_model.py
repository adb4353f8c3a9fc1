# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A network of a user's own, which tests give as --model=package.module:Net."""

import dataclasses
from typing import Annotated

from flax import nnx
import jax

from antjax.networks.network import Inputs, Sizes


class Net(nnx.Module):
  """One hidden layer, and linear terms."""

  needs = frozenset({'linear'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config:
    width: Annotated[int, 'Hidden width.'] = 16

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.hidden = nnx.Linear(sizes.flat_width, config.width, rngs=rngs)
    self.out = nnx.Linear(config.width, 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    h = jax.nn.relu(self.hidden(x.flat))
    return x.first_order_B + self.out(h)[:, 0]
