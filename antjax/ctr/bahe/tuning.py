# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What of a click model is trained, and what adapters it gets."""

from collections.abc import Callable
import re
from typing import Any

import jax

from antjax.ctr.tuning import Tuning
from antjax.lm import lora

PyTree = Any

# The language model's own; what stands beside it in the tower is the head's.
_LM = re.compile(r'^tower\.(high|low|lm)\.')
# Adapters, and places of behaviours, which no pretraining has seen.
_NEW = re.compile(rf'{lora.PATTERN}|\.behavior_positions$')


def is_lm(name: str) -> bool:
  """Whether a leaf is the language model's, by name; else it is the head's."""
  return _LM.match(name) is not None


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
    if not is_lm(name) or tuning == 'full':
      return True
    return tuning == 'lora' and _NEW.search(name) is not None

  return is_trained


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
