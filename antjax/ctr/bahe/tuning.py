# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What of a click model is trained, how fast, and what adapters it gets."""

from collections.abc import Callable
import dataclasses
import re
from typing import Annotated, Any, Literal

import jax
import optax

from antjax.lm import lora
from antjax.lm.optimizer import decays

PyTree = Any
Tuning = Literal['full', 'lora', 'none']

# The language model's own; what stands beside it in the tower is the head's.
_LM = re.compile(r'^tower\.(high|low|lm)\.')
# Adapters, and places of behaviours, which no pretraining has seen.
_NEW = re.compile(rf'{lora.PATTERN}|\.behavior_positions$')


def trainable(
  tuning: Tuning, *, with_low: bool = False
) -> Callable[[str], bool]:
  """For Trainer(trainable=...), by the names of a `ClickModel`'s leaves.

  Args:
    tuning: Of the language model's layers: all of them, adapters only, or
      nothing. The head is always trained.
    with_low: Whether 'full' is the low half too, of a tower that has it.
  """

  def is_trained(name: str) -> bool:
    if name.startswith('tower.low.') and not with_low:
      return False
    if not _LM.match(name) or tuning == 'full':
      return True
    return tuning == 'lora' and _NEW.search(name) is not None

  return is_trained


def frozen_share(
  params: PyTree, is_trained: Callable[[str], bool], num_absent: int = 0
) -> float:
  """Share of the parameters that are not trained.

  Args:
    params: Arrays or ShapeDtypeStructs.
    is_trained: From `trainable`.
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
  clip_norm: Annotated[float, 'Largest global norm of the gradient.'] = 1.0

  def __post_init__(self) -> None:
    for name in ('lm_learning_rate', 'head_learning_rate', 'clip_norm'):
      if not getattr(self, name) > 0:
        raise ValueError(
          f'optimizer.{name} must be positive; got {getattr(self, name)}.'
        )
    if self.warmup_steps < 0 or not 0 <= self.final_share <= 1:
      raise ValueError(
        f'optimizer.warmup_steps={self.warmup_steps} must not be negative, and'
        f' optimizer.final_share={self.final_share} be from 0 to 1.'
      )

  def build(self, num_steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of `num_steps` steps."""
    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      optax.multi_transform(
        {
          'lm': self._adamw(self.lm_learning_rate, num_steps),
          'head': self._adamw(self.head_learning_rate, num_steps),
        },
        _labels,
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
    return optax.adamw(schedule, weight_decay=self.weight_decay, mask=decays)


def add_lora(
  params: PyTree, key: jax.Array, *, rank: int, targets: tuple[str, ...]
) -> PyTree:
  """A click model's parameters with adapters in the language model's layers.

  Raises:
    ValueError: The tower trains no layers, or as for `lora.add`.
  """
  tower = dict(params.get('tower', {}))
  where = [part for part in ('high', 'lm') if 'layers' in tower.get(part, {})]
  if not where:
    raise ValueError(
      'tuning=lora: this tower has no layers to put adapters in; use'
      ' tuning=none.'
    )
  tower[where[0]] = lora.add(tower[where[0]], key, rank=rank, targets=targets)
  return {**params, 'tower': tower}


def _labels(params: PyTree) -> PyTree:
  return jax.tree.map_with_path(
    lambda path, _: 'lm' if _LM.match(_name(path)) else 'head', params
  )


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')
