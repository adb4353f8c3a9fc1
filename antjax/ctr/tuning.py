# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What of a language model is trained."""

from collections.abc import Callable
from typing import Any, Literal

import jax

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


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')
