# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The optimizer of dense parameters; embedding rows have their own."""

from collections.abc import Callable
import dataclasses
import inspect
import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """AdamW with clipping, warm-up, decay and a rate for language models."""

  kind: Annotated[
    Literal['adamw', 'adagrad'],
    'Optimizer: adamw, or adagrad without momentum and weight decay.',
  ] = 'adamw'
  learning_rate: Annotated[float, 'Peak learning rate.'] = 1e-3
  lm_learning_rate: Annotated[
    float | None,
    'Peak learning rate of the layers of a language model inside a'
    ' recommender. none: learning_rate.',
  ] = None
  warmup_steps: Annotated[int, 'Number of linear warm-up steps.'] = 100
  first_share: Annotated[
    float | None,
    'Learning rate at the start of the warm-up, as a share of the peak. none:'
    ' that of one warm-up step.',
  ] = None
  decay: Annotated[
    Literal['none', 'cosine'],
    'Decay of the learning rate from the end of the warm-up to the last step.',
  ] = 'cosine'
  final_share: Annotated[
    float, 'Learning rate at the end of cosine, as a share of the peak.'
  ] = 0.1
  b1: Annotated[float, "Adam's decay rate of the first moment."] = 0.9
  b2: Annotated[float, "Adam's decay rate of the second moment."] = 0.999
  eps: Annotated[float, "Constant added to Adam's root mean square."] = 1e-8
  weight_decay: Annotated[
    float, 'Decoupled weight decay per step, multiplied by the learning rate.'
  ] = 0.01
  decay_norms: Annotated[bool, 'Also decay norms and biases.'] = False
  clip_norm: Annotated[
    float, 'Maximum global norm of the gradient. 0: no clipping.'
  ] = 1.0

  def __post_init__(self) -> None:
    for name in ('learning_rate', 'lm_learning_rate', 'eps'):
      value = getattr(self, name)
      if value is not None and not value > 0:
        raise ValueError(f'optimizer.{name} must be positive; got {value}.')
    for name in ('warmup_steps', 'weight_decay', 'clip_norm'):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(
          f'optimizer.{name} must not be negative; got {getattr(self, name)}.'
        )
    for name in ('first_share', 'final_share'):
      value = getattr(self, name)
      if value is not None and not 0 <= value <= 1:
        raise ValueError(f'optimizer.{name} must be from 0 to 1; got {value}.')

  def schedule(
    self, num_steps: int, peak: float | None = None
  ) -> float | optax.Schedule:
    """The learning rate of each step of a run.

    `peak` is the peak rate, e.g. of embedding rows; None: learning_rate.
    """
    peak = self.learning_rate if peak is None else peak
    warmup = min(self.warmup_steps, max(num_steps - 1, 1))
    first = peak / (warmup + 1)
    if self.first_share is not None:
      first = peak * self.first_share
    if self.decay == 'cosine':
      return optax.warmup_cosine_decay_schedule(
        first, peak, warmup, max(num_steps, 2), peak * self.final_share
      )
    if not warmup:
      return peak
    return optax.linear_schedule(first, peak, warmup)

  def build(
    self, num_steps: int, is_lm: Callable[[str], bool] | None = None
  ) -> optax.GradientTransformation:
    """The optimizer of a run.

    `lm_learning_rate` applies to leaves whose names `is_lm` selects; None:
    none.
    """
    adamw = self._adamw(self.schedule(num_steps))
    if is_lm is not None:

      def groups(params: PyTree) -> PyTree:
        return jax.tree.map_with_path(
          lambda path, _: 'lm' if is_lm(_name(path)) else 'head', params
        )

      of_lm = self._adamw(self.schedule(num_steps, self.lm_learning_rate))
      adamw = optax.multi_transform({'lm': of_lm, 'head': adamw}, groups)
    if not self.clip_norm:
      return optax.chain(adamw)
    return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)

  def _adamw(
    self, rate: float | optax.Schedule
  ) -> optax.GradientTransformation:
    if self.kind == 'adagrad':
      return optax.adagrad(rate, initial_accumulator_value=0.0, eps=self.eps)
    return optax.adamw(
      rate,
      b1=self.b1,
      b2=self.b2,
      eps=self.eps,
      weight_decay=self.weight_decay,
      mask=None if self.decay_norms else decays,
    )


def update(
  optimizer: optax.GradientTransformation,
  grads: PyTree,
  state: PyTree,
  params: PyTree,
  **extra: Any,
) -> tuple[PyTree, PyTree]:
  """Calls an optax transform with those of `extra` that it accepts.

  Raises:
    ValueError: It needs arguments that a step lacks, or returns other shapes.
  """
  optimizer = optax.with_extra_args_support(optimizer)
  taken = inspect.signature(optimizer.update).parameters
  if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
    extra = {name: x for name, x in extra.items() if name in taken}
  try:
    updates, state = optimizer.update(grads, state, params, **extra)
  except (AttributeError, TypeError) as error:
    raise ValueError(
      f'Trainer(optimizer=...): its update failed ({error}). A step has'
      f' gradients, parameters and {sorted(extra)}. Not supported are a line'
      ' search (as in optax.lbfgs), which evaluates the loss again, and'
      ' optax.lookahead, which wants a tree of its own.'
    ) from error
  treedef: Any = jax.tree.structure(params)
  wrong = [
    f'{_name(path)} {jnp.shape(u)} for {jnp.shape(p)}'
    for (path, p), u in zip(
      jax.tree.leaves_with_path(params),
      treedef.flatten_up_to(updates),
      strict=True,
    )
    if u is not None and jnp.shape(u) != jnp.shape(p)
  ]
  if wrong:
    raise ValueError(
      'Trainer(optimizer=...): its updates have other shapes than the'
      f' parameters: {", ".join(wrong)}. One that takes the gradient of each'
      ' example, such as optax.contrib.dpsgd, is not supported.'
    )
  return updates, state


def decays(params: PyTree) -> PyTree:
  """Whether each leaf decays: not norms, biases and factors, by name."""
  return jax.tree.map_with_path(
    lambda path, _: not _name(path).endswith(('norm', 'bias', 'log_scale')),
    params,
  )


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')
