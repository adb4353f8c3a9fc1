# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The optimizer that language models are trained with."""

import dataclasses
from typing import Annotated, Any

import jax
import optax

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """AdamW with clipping, warm-up and a cosine."""

  learning_rate: Annotated[float, 'Peak rate.'] = 2e-3
  warmup_steps: Annotated[int, 'Steps of linear warm-up.'] = 30
  final_share: Annotated[
    float, 'Rate at the end of the cosine, as a share of the peak.'
  ] = 0.1
  b1: Annotated[float, "Adam's decay of the mean."] = 0.9
  b2: Annotated[float, "Adam's decay of the squares."] = 0.95
  weight_decay: Annotated[
    float, 'Decoupled decay a step, times the rate; norms and biases have none.'
  ] = 0.1
  clip_norm: Annotated[float, 'Largest global norm of the gradient.'] = 1.0

  def __post_init__(self) -> None:
    if not self.learning_rate > 0:
      raise ValueError(
        f'learning_rate must be positive; got {self.learning_rate}.'
      )
    if self.warmup_steps < 0:
      raise ValueError(
        f'warmup_steps must not be negative; got {self.warmup_steps}.'
      )
    if not 0 <= self.final_share <= 1:
      raise ValueError(
        f'final_share must be from 0 to 1; got {self.final_share}.'
      )
    if not self.clip_norm > 0:
      raise ValueError(f'clip_norm must be positive; got {self.clip_norm}.')

  def schedule(self, num_steps: int) -> optax.Schedule:
    """Linear warm-up from the first step on, then a cosine to the last."""
    warmup = min(self.warmup_steps, max(num_steps - 1, 1))
    return optax.warmup_cosine_decay_schedule(
      self.learning_rate / (warmup + 1),
      self.learning_rate,
      warmup,
      max(num_steps, 2),
      self.learning_rate * self.final_share,
    )

  def build(self, num_steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of `num_steps` steps."""
    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      optax.adamw(
        self.schedule(num_steps),
        b1=self.b1,
        b2=self.b2,
        weight_decay=self.weight_decay,
        mask=decays,
      ),
    )


def decays(params: PyTree) -> PyTree:
  """Whether each leaf decays: no norm, bias or factor does, by name."""
  return jax.tree.map_with_path(
    lambda path, _: (
      not str(path[-1]).rstrip("']").endswith(('norm', 'bias', 'log_scale'))
    ),
    params,
  )
