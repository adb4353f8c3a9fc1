# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tensors of a file that hold several leaves: split where read, then joined.

'x.weight|1' is the name of the second part of 'x.weight', along the dim of its
outputs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from antjax.lm import families
from antjax.lm.families import Family

# (name, bytes, function that gives the array)
Tensor = tuple[str, int, Callable[[], np.ndarray]]


class SplitSource:
  """A `pretrained.TensorSource` with parts in place of tensors that have them.

  Attributes:
    shapes: Name -> shape.
  """

  def __init__(
    self, source: Any, family: Family, needed: Mapping[str, tuple[int, ...]]
  ):
    """Takes the source, and shapes of what is read by the names we write."""
    self._source, self._family = source, family
    self._parts: dict[str, tuple[str, int]] = {}  # Part -> (whole, start).
    self.shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in source.shapes.items():
      start, axis, k = 0, _axis(family, len(shape)), 0
      ours = families.our_name(family, name)
      while (part := needed.get(f'{ours}|{k}')) is not None:
        self._parts[f'{name}|{k}'] = name, start
        self.shapes[f'{name}|{k}'] = part
        start, k = start + part[axis], k + 1
      if not k or start != shape[axis]:  # What does not fit stays whole.
        for i in range(k):
          del self.shapes[f'{name}|{i}']
        self.shapes[name] = shape

  def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """A tensor's piece."""
    if name not in self._parts:
      return self._source.read(name, index)
    whole, start = self._parts[name]
    shape = self.shapes[name]
    spans = list(index) + [slice(None)] * (len(shape) - len(index))
    axis = _axis(self._family, len(shape))
    first, stop, _ = spans[axis].indices(shape[axis])
    spans[axis] = slice(start + first, start + stop)
    return self._source.read(whole, tuple(spans))


def joined(family: Family, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
  """Whole tensors in place of their parts."""
  parts: dict[str, dict[str, Tensor]] = {}
  for name, *rest in tensors:
    whole, _, part = name.partition('|')
    parts.setdefault(whole, {})[part] = (name, *rest)
  for whole, found in parts.items():
    in_order = [found[part] for part in sorted(found)]

    def read(in_order: list[Tensor] = in_order) -> np.ndarray:
      arrays = [one() for _, _, one in in_order]
      axis = _axis(family, arrays[0].ndim)
      return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)

    yield whole, sum(size for _, size, _ in in_order), read


def _axis(family: Family, ndim: int) -> int:
  """The dim of a tensor's outputs."""
  return 0 if family.is_transposed else ndim - 1
