# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What of a language model inside a recommender is trained.

Its leaves are named 'lm. ...', or, in a BAHE tower, 'tower.lm. ...' or
'tower.low. ...' and 'tower.high. ...'; all others are the head's, which is
always trained.
"""

from collections.abc import Callable
import re
from typing import Any, Literal

from flax import nnx
import jax

from antjax.lm import lora

PyTree = Any
Tuning = Literal['full', 'lora', 'none']

_LM = re.compile(r'^(lm|tower\.(high|low|lm))\.')
# Adapters, and places of behaviors, which no pretraining has seen.
_NEW = re.compile(rf'{lora.PATTERN}|\.behavior_positions$')


def is_lm(name: str) -> bool:
  """Whether a leaf is the language model's, by name; else it is the head's."""
  return _LM.match(name) is not None


def trainable(tuning: Tuning) -> Callable[[str], bool]:
  """For Trainer(trainable=...), by the names of a model's leaves.

  Of the language model's layers all are trained, adapters only, or none; a low
  half never is.
  """

  def is_trained(name: str) -> bool:
    if name.startswith('tower.low.'):
      return False
    if not is_lm(name) or tuning == 'full':
      return True
    return tuning == 'lora' and _NEW.search(name) is not None

  return is_trained


def add_lora(model: nnx.Module, *, rngs: nnx.Rngs, **options: Any) -> None:
  """Gives a model's trained layers adapters; the options are `lora.add`'s.

  Raises:
    ValueError: The tower trains no layers, or as for `lora.add`.
  """
  for path in ('lm', 'tower.high', 'tower.lm'):
    part: Any = model
    for name in path.split('.'):
      part = getattr(part, name, None)
    if hasattr(part, 'layers'):
      return lora.add(part, rngs=rngs, **options)
  raise ValueError(
    'tuning=lora: this tower has no layers to put adapters in; use tuning=none.'
  )


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


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')
