# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How a language model and a head beside it are trained."""

from collections.abc import Callable
import dataclasses
from typing import Annotated, Any, Literal

import jax
import optax

from antjax.lm.optimizer import decays

PyTree = Any
Tuning = Literal['full', 'lora', 'none']


def frozen_share(
  params: PyTree, is_trained: Callable[[str], bool], num_absent: int = 0
) -> float:
  """Share of the parameters that are not trained.

  Args:
    params: Arrays or ShapeDtypeStructs.
    is_trained: Name of a leaf -> whether it is trained.
    num_absent: Parameters of the language model that are frozen and not even
      held, the low half's say.
  """
  sizes = [
    (is_trained(_name(path)), x.size)
    for path, x in jax.tree.leaves_with_path(params)
  ]
  frozen = num_absent + sum(size for trained, size in sizes if not trained)
  return frozen / max(num_absent + sum(size for _, size in sizes), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """AdamW with a rate for the language model and one for the head."""

  lm_learning_rate: Annotated[float, "Of the language model's layers."] = 1e-4
  head_learning_rate: Annotated[float, 'Of all other dense parameters.'] = 1e-3
  warmup_steps: Annotated[int, 'Steps of linear warm-up.'] = 100
  final_share: Annotated[
    float, 'Rate at the end of the cosine, as a share of the peak.'
  ] = 0.1
  weight_decay: Annotated[
    float, 'Decoupled decay a step, times the rate; norms and biases have none.'
  ] = 0.01
  eps: Annotated[float, "Added to Adam's root mean square."] = 1e-8
  clip_norm: Annotated[float, 'Largest global norm of the gradient.'] = 1.0

  def __post_init__(self) -> None:
    rates = ('lm_learning_rate', 'head_learning_rate')
    for name in (*rates, 'eps', 'clip_norm'):
      if not getattr(self, name) > 0:
        raise ValueError(
          f'optimizer.{name} must be positive; got {getattr(self, name)}.'
        )
    if self.warmup_steps < 0 or not 0 <= self.final_share <= 1:
      raise ValueError(
        f'optimizer.warmup_steps={self.warmup_steps} must not be negative, and'
        f' optimizer.final_share={self.final_share} be from 0 to 1.'
      )

  def build(
    self, num_steps: int, is_lm: Callable[[str], bool]
  ) -> optax.GradientTransformation:
    """The optimizer for a run of `num_steps` steps.

    Args:
      num_steps: Of the run.
      is_lm: Name of a leaf -> whether it is the language model's.
    """

    def labels(params: PyTree) -> PyTree:
      return jax.tree.map_with_path(
        lambda path, _: 'lm' if is_lm(_name(path)) else 'head', params
      )

    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      optax.multi_transform(
        {
          'lm': self._adamw(self.lm_learning_rate, num_steps),
          'head': self._adamw(self.head_learning_rate, num_steps),
        },
        labels,
      ),
    )

  def _adamw(self, rate: float, num_steps: int) -> optax.GradientTransformation:
    warmup = min(self.warmup_steps, max(num_steps - 1, 1))
    schedule = optax.warmup_cosine_decay_schedule(
      rate / (warmup + 1),
      rate,
      warmup,
      max(num_steps, 2),
      rate * self.final_share,
    )
    return optax.adamw(
      schedule, eps=self.eps, weight_decay=self.weight_decay, mask=decays
    )


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')
