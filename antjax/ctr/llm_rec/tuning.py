# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What of an `LLMRec` is trained, and its adapters."""

from collections.abc import Callable
import re
from typing import Any

import jax

from antjax.ctr.tuning import Tuning
from antjax.lm import lora

PyTree = Any


def is_lm(name: str) -> bool:
  """Whether a leaf is the language model's, by name; else it is the head's."""
  return name.startswith('lm.')


def trainable(tuning: Tuning) -> Callable[[str], bool]:
  """For Trainer(trainable=...): the head always is, the model as told.

  Args:
    tuning: Of the language model: all of it, adapters only, or nothing.
  """

  def is_trained(name: str) -> bool:
    if not is_lm(name) or tuning == 'full':
      return True
    return tuning == 'lora' and re.search(lora.PATTERN, name) is not None

  return is_trained


def add_lora(
  params: PyTree, key: jax.Array, *, rank: int, targets: tuple[str, ...]
) -> PyTree:
  """The parameters with adapters; see `lora.add`."""
  lm = lora.add(params['lm'], key, rank=rank, targets=targets)
  return {**params, 'lm': lm}
