# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's layout of a model's tensors: names, parts, order of dims.

'x.weight|1' names the second part of a tensor 'x.weight' that concatenates
several leaves along its output dim.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import re
from typing import Any

import numpy as np

from antjax.lm import transformer
from antjax.lm.config import Config
from antjax.lm.family_tables import FAMILIES as FAMILIES
from antjax.lm.family_tables import Family as Family

PyTree = Any
# (name, bytes, function that returns the array)
Tensor = tuple[str, int, Callable[[], np.ndarray]]
_ROWS = 8192  # Compared at once.


def family_of(fields: Mapping[str, Any], path: Any = 'config.json') -> Family:
  """The family of a config.json.

  Raises:
    ValueError: The family is unknown.
  """
  name = fields.get('model_type')
  if not isinstance(name, str) or name not in FAMILIES:
    raise ValueError(
      f'{path}: model_type={name!r}; known are {", ".join(FAMILIES)}.'
    )
  return FAMILIES[name]


def tensor_names(family: Family, config: Config) -> PyTree:
  """The tree of `transformer.shapes` with names in place of shapes.

  Each leaf is a list of names: one, or one per layer (and expert) for leaves of
  layers; None for the norm that the first layer lacks.
  """

  def name(table: Mapping[str, str], leaf: str) -> str:
    base = leaf if leaf in table else leaf.removesuffix('_bias')
    module = table[base]
    if not config.gated_mlp:
      module = table.get(f'{base}_plain', module)
    module, mark, part = module.partition('|')
    end = '.weight' if base == leaf else '.bias'
    full = '' if module.startswith('lm_head') else family.prefix
    return f'{full}{module}{end}{mark}{part}'

  def each(leaf: str) -> list[str | None]:
    found = name(family.layer, leaf)
    experts = range(config.num_experts if '{e}' in found else 1)
    names: list[str | None] = [
      found.format(i=i, e=e) for i in range(config.num_layers) for e in experts
    ]
    if leaf.startswith('attention_norm') and not config.first_norm:
      names[0] = None
    return names

  tree = transformer.shapes(config)
  result = {k: [name(family.top, k)] for k in tree if k != 'layers'}
  return result | {'layers': {leaf: each(leaf) for leaf in tree['layers']}}


def num_stacked(path: tuple[str, ...], shape: tuple[int, ...]) -> int:
  """Number of leading dims of our leaf: layers, then experts."""
  return (2 if len(shape) == 4 else 1) if path[0] == 'layers' else 0


def is_transposed(
  family: Family, path: tuple[str, ...], shape: tuple[int, ...]
) -> bool:
  """Whether our leaf is [in, out] and theirs [out, in]."""
  is_matrix = path[0] == 'layers' and len(shape) >= 3
  return path[-1] == 'lm_head' or (is_matrix and family.is_transposed)


def our_name(family: Family, name: str) -> str:
  """A tensor's name with the prefix and suffix that we write."""
  for old, new in family.old.items():
    if name.endswith(old):
      name = name.removesuffix(old) + new
  prefixes = (family.prefix, *family.also)
  for prefix in sorted(prefixes, key=len, reverse=True):
    module = name.removeprefix(prefix)
    if name.startswith(prefix) and not module.startswith('lm_head'):
      return family.prefix + module
  return name


def is_ignored(family: Family, name: str, config: Config) -> bool:
  """Whether the model ignores a tensor; `name` is as we write it."""
  if name == 'lm_head.weight':
    return not config.causal or config.tie_embeddings
  return re.search(family.ignored, name) is not None


def check_tied(
  source: Any, config: Config, files: Mapping[str, str], embed: str
) -> None:
  """Checks that a tied model's file has no output layer of its own.

  `files` are the names in the file of those that we write.

  Raises:
    ValueError: It has one. Transformers ties it before version 5 only.
  """
  name = files.get('lm_head.weight')
  if name is None or not (config.causal and config.tie_embeddings):
    return
  both = name, files[embed]
  size, width = source.shapes[files[embed]]

  def is_equal(start: int) -> bool:
    rows = slice(start, min(start + _ROWS, size)), slice(0, width)
    return np.array_equal(*(source.read(x, rows) for x in both))

  is_same = source.shapes[name] == (size, width)
  if not is_same or not all(map(is_equal, range(0, size, _ROWS))):
    raise ValueError(
      f'config.json says tie_word_embeddings=true, but {name} differs from'
      f' {files[embed]}. Set tie_word_embeddings to false to use {name}, or'
      ' leave the tensor out.'
    )


class SplitSource:
  """A `pretrained.TensorSource` that splits tensors with parts.

  `needed` has the shapes of all tensors to read, by the names that we write.
  """

  def __init__(
    self, source: Any, family: Family, needed: Mapping[str, tuple[int, ...]]
  ):
    self._source, self._family = source, family
    self._parts: dict[str, tuple[str, int]] = {}  # Part -> (whole, start).
    shapes: dict[str, tuple[int, ...]] = {}
    self.shapes: Mapping[str, tuple[int, ...]] = shapes
    for name, shape in source.shapes.items():
      ours, axis = our_name(family, name), _axis(family, len(shape))
      parts: list[tuple[int, ...]] = []
      while f'{ours}|{len(parts)}' in needed:
        parts.append(needed[f'{ours}|{len(parts)}'])
      if sum(part[axis] for part in parts) != shape[axis]:  # Not split.
        shapes[name] = shape
        continue
      for k, part in enumerate(parts):
        shapes[f'{name}|{k}'] = part
        self._parts[f'{name}|{k}'] = name, sum(p[axis] for p in parts[:k])

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
  """Replaces parts by whole tensors."""
  parts: dict[str, dict[str, Tensor]] = {}
  for tensor in tensors:
    whole, _, part = tensor[0].partition('|')
    parts.setdefault(whole, {})[part] = tensor
  for whole, found in parts.items():
    in_order = [found[part] for part in sorted(found)]

    def read(in_order: list[Tensor] = in_order) -> np.ndarray:
      arrays = [one() for _, _, one in in_order]
      axis = _axis(family, arrays[0].ndim)
      return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)

    yield whole, sum(size for _, size, _ in in_order), read


def _axis(family: Family, ndim: int) -> int:
  """The output dim of a tensor."""
  return 0 if family.is_transposed else ndim - 1
