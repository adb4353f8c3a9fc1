# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MeLU: y = w MLP(v) + b, whose decision layers adapt in an inner loop.

Source: Lee et al. 2019, https://arxiv.org/abs/1908.00413, with the paper's
widths. It is the network of `antjax.networks.deep` under names that inner loops
go by, 'decision' and 'head', and gives several numbers a row where asked.
"""

import dataclasses
from typing import Annotated

from flax import nnx
import jax

from antjax.layers import mlp
from antjax.networks.network import DeepConfig, Inputs, Sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionConfig(DeepConfig):
  """Sizes of decision layers."""

  widths: Annotated[
    tuple[int, ...], 'Hidden widths of the decision layers.'
  ] = (64, 64)


class MeLU(nnx.Module):
  """Decision layers on all inputs."""

  Config = DecisionConfig
  needs: frozenset[str] = frozenset()

  def __init__(self, sizes: Sizes, config: DecisionConfig, *, rngs: nnx.Rngs):
    self.num_outputs = sizes.num_outputs
    self.decision = mlp.MLP(sizes.flat_width, config.widths, rngs=rngs)
    self.head = nnx.Linear(
      self.decision.out_features, sizes.num_outputs, rngs=rngs
    )

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B], or [B, num_outputs] of several."""
    y = self.head(self.decision(x.flat))
    return y[:, 0] if self.num_outputs == 1 else y
