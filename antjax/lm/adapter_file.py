# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads and writes LoRA adapters in PEFT's format.

A folder has adapter_config.json, see `adapter_settings`, and
adapter_model.safetensors.
"""

import json
import os
import pathlib
import re
from typing import Any, NamedTuple

from flax import nnx
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from antjax import paths
from antjax.lm import adapter_settings, config_json, families, hub, lora
from antjax.lm.blocks import Block
from antjax.lm.safetensors_file import SafetensorsFolder
from antjax.lm.transformer import Transformer

CONFIG_NAME = 'adapter_config.json'
FILE_NAME = 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
# Suffix of our leaf's name -> suffix of PEFT's tensor name.
_PARTS = {
  'a': 'lora_A.weight',
  'b': 'lora_B.weight',
  'm': 'lora_magnitude_vector',
}


def load(
  path: str | os.PathLike[str], model: Transformer, first_layer: int = 0
) -> None:
  """Adds the adapters in a folder to a model without adapters.

  An adapter of a fused tensor becomes adapters of its parts. Smaller ranks of
  some layers are padded with zeros, which stay zero in training.

  Args:
    path: Folder that PEFT or `save` wrote, or hf://org/name.
    model: A whole model, or a part with layers.
    first_layer: Index of the part's first layer in the whole model.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: The kind of adapter is not supported, or it belongs to another
      model; the message names the field or the tensor.
  """
  family = families.family_of(config_json.write_config(model.config))
  source, layers = _Folder(hub.local(path), family), model.layers
  leaves: dict[str, np.ndarray] = {}
  # Phi-3 computes what Llama or Mistral does, under names of its own.
  if any(re.search(r'\.(qkv|gate_up)_proj\.', x) for x in source.unused):
    family = families.FAMILIES['phi3']
  for target, (modules, span, num_outputs) in _targets(
    model, first_layer, family
  ).items():
    shape = layers.matrix(target).shape[1], num_outputs
    found = [source.read(module, span, shape) for module in modules]
    if not any(found):
      continue
    if not all(found):
      lost = modules[[bool(x) for x in found].index(False)]
      raise ValueError(
        f'{source.path}: needed is {lost}.{_PARTS["a"]}, since adapters of a'
        f' matrix are in all {len(modules)} layers.'
      )
    rank = max(len(x['b']) for x in found)
    if not rank and 'm' not in found[0]:
      continue  # The adapter changes other parts of the tensor.
    for one in found:
      missing = max(rank, 1) - len(one['b'])
      one['a'] = np.pad(one['a'], ((0, 0), (0, missing)))
      one['b'] = np.pad(one['b'], ((0, missing), (0, 0)))
    for part in found[0]:
      leaves[f'{target}_lora_{part}'] = np.stack([one[part] for one in found])
  if source.unused or not leaves:
    raise ValueError(
      f'{source.path}: {len(source.unused)} tensors are of no layer that is'
      f' trained here: {", ".join(sorted(source.unused)[:5])}.'
    )
  lora.set_scale(model, source.scale)
  dtype = layers.matrix('query').dtype
  for name, array in leaves.items():
    kind = jnp.float32 if name.endswith('m') else dtype  # As `lora.add`.
    setattr(layers, name, nnx.Param(jnp.asarray(array, kind)))


def save(
  path: str | os.PathLike[str],
  model: Transformer,
  first_layer: int = 0,
  base_model: str = '',
) -> None:
  """Writes a model's adapters as a folder that PEFT reads.

  Adapters of a fused tensor's parts become one, of the sum of their ranks
  unless they share A. If some matrices have DoRA, the others get lengths that
  change nothing.

  Args:
    path: Folder to create; it must not contain an adapter.
    model: A whole model, or a part with layers.
    first_layer: Index of the part's first layer in the whole model.
    base_model: Name or folder of the base model, for PEFT.

  Raises:
    FileExistsError: The folder contains an adapter.
    ValueError: The model has no adapters, or its family is unknown to Hugging
      Face.
  """
  folder = paths.local(path, 'adapter_file.save: path')
  if (folder / CONFIG_NAME).exists():
    raise FileExistsError(f'{folder} holds an adapter; give another folder.')
  wholes: dict[tuple[str, ...], list[str]] = {}
  family = families.family_of(config_json.write_config(model.config))
  for target, place in _targets(model, first_layer, family).items():
    wholes.setdefault(place.modules, []).append(target)
  is_dora = any(hasattr(model.layers, f'{t}_lora_m') for t in lora.TARGETS)
  tensors: dict[str, np.ndarray] = {}
  ranks: dict[str, int] = {}  # By module.
  for modules, parts in wholes.items():
    for part, stack in _joined(model.layers, parts, is_dora).items():
      for module, x in zip(modules, stack, strict=True):
        tensors[f'{_PREFIX}{module}.{_PARTS[part]}'] = np.ascontiguousarray(x)
        if part == 'a':
          ranks[module] = len(x)
  if not tensors:
    raise ValueError(
      'adapter_file.save: the model has no adapters; lora.add gives it some.'
    )
  rank, scale = min(ranks.values()), model.config.lora_scale
  others = {module: r for module, r in ranks.items() if r != rank}
  fields = {
    'peft_type': 'LORA',
    'base_model_name_or_path': base_model or None,
    'bias': 'none',
    'fan_in_fan_out': False,
    'inference_mode': True,
    'lora_alpha': scale * rank,
    'lora_dropout': 0.0,
    'r': rank,
    'rank_pattern': others,
    'alpha_pattern': {module: scale * r for module, r in others.items()},
    'target_modules': list(ranks),
    'use_dora': is_dora,
    'use_rslora': False,  # lora_alpha gives the same scale.
  }
  folder.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(tensors, folder / FILE_NAME, {'format': 'pt'})
  (folder / CONFIG_NAME).write_text(json.dumps(fields, indent=2))


class _Target(NamedTuple):
  """A matrix of our layers in Hugging Face's modules."""

  modules: tuple[str, ...]  # One per layer.
  span: slice  # Its outputs in a module that it shares with others.
  num_outputs: int  # Of the module.


def _targets(
  model: Transformer, first_layer: int, family: families.Family
) -> dict[str, _Target]:
  """Matrices that may have adapters; parts of a tensor are in its order."""
  names = families.tensor_names(family, model.config)['layers']
  sizes = {
    target: getattr(model.layers, target)[...].shape
    for target in lora.TARGETS
    if hasattr(model.layers, target)
    and len(names[target]) == model.config.num_layers  # Not experts.
  }
  ends: dict[str, int] = {}
  found: dict[str, tuple[str, int]] = {}
  for target in sizes:
    whole = names[target][0].partition('|')[0]
    found[target] = whole, ends.get(whole, 0)
    ends[whole] = found[target][1] + sizes[target][-1]
  return {
    target: _Target(
      tuple(
        name.partition('|')[0].removesuffix('.weight')
        for name in names[target][first_layer : first_layer + sizes[target][0]]
      ),
      slice(start, start + sizes[target][-1]),
      ends[whole],
    )
    for target, (whole, start) in found.items()
  }


class _Folder:
  """The tensors of a folder.

  Attributes:
    path: The folder.
    scale: Factor of the adapters that no pattern names.
    unused: Names of the tensors that were not read yet, as we write them.
  """

  def __init__(self, path: pathlib.Path, family: families.Family):
    """Checks the settings, and reads no tensor."""
    self.path, file = path, path / CONFIG_NAME
    self._fields = adapter_settings.read(file)
    self.scale = self._setting('')[1]
    self._source = SafetensorsFolder(path, (FILE_NAME, 'adapter_model.bin'))
    self._names = {
      families.our_name(family, name.removeprefix(_PREFIX)): name
      for name in self._source.shapes
    }
    self.unused = {*self._names}

  def read(
    self, module: str, span: slice, shape: tuple[int, int]
  ) -> dict[str, np.ndarray]:
    """Our leaves of a span of a module's outputs; none if it has no adapter."""
    parts = 'abm' if self._fields.get('use_dora') else 'ab'
    names = {part: f'{module}.{_PARTS[part]}' for part in parts}
    found = [self._names[x] for x in names.values() if x in self._names]
    if not found:
      return {}
    theirs = found[0].removeprefix(_PREFIX).rpartition('.lora_')[0]
    if not adapter_settings.is_chosen(self._fields, theirs):
      raise ValueError(
        f'{self.path / CONFIG_NAME}: target_modules, exclude_modules or'
        f' layers_to_transform leave out {theirs}, of which there are tensors'
        ' that PEFT would not use; needed is a folder without them.'
      )
    rank, scale = self._setting(theirs)
    shapes = {'a': (rank, shape[0]), 'b': (shape[1], rank), 'm': shape[1:]}
    for part, name in names.items():
      if self._source.shapes.get(self._names.get(name, '')) != shapes[part]:
        raise ValueError(
          f'{self.path}: needed is {name} of shape {shapes[part]}.'
        )
    self.unused -= {*names.values()}
    read = {k: self._source.read(self._names[x]).T for k, x in names.items()}
    a, whole = read['a'], read['b']
    b = whole[:, span]
    if scale != self.scale:
      b = b.astype(np.float32) * (scale / self.scale)
    if b.shape != whole.shape and (whole != 0).any():
      is_used = (b != 0).any(axis=1)  # Other parts may have ranks of their own.
      a, b = a[:, is_used], b[is_used]
    return {'a': a, 'b': b} | ({'m': read['m'][span]} if 'm' in read else {})

  def _setting(self, module: str) -> tuple[int, float]:
    """Rank and scale of a module's adapter."""

    def value(name: str, pattern: str) -> Any:
      for key, x in (self._fields.get(pattern) or {}).items():
        if re.match(rf'(.*\.)?({key})$', module):  # As PEFT does.
          return x
      return self._fields.get(name, 8)

    rank = value('r', 'rank_pattern')
    alpha = value('lora_alpha', 'alpha_pattern')
    is_number = isinstance(alpha, int | float) and alpha
    if type(rank) is not int or rank < 1 or not is_number:
      raise ValueError(
        f'{self.path / CONFIG_NAME}: r={rank!r}, lora_alpha={alpha!r}; needed'
        ' are a whole number above 0 and a number that is not 0.'
      )
    is_root = bool(self._fields.get('use_rslora'))
    return rank, lora.scale_of(alpha, rank, is_root)


def _joined(
  layers: Block, parts: list[str], is_dora: bool
) -> dict[str, np.ndarray]:
  """PEFT's tensors of a module, stacked; none if no part has an adapter."""

  def leaf(part: str, kind: str) -> np.ndarray:
    return np.asarray(getattr(layers, f'{part}_lora_{kind}')[...])

  adapted = [x for x in parts if hasattr(layers, f'{x}_lora_a')]
  if not adapted:
    return {}
  downs = [leaf(x, 'a').swapaxes(1, 2) for x in adapted]  # [L, r, in]
  is_shared = all(np.array_equal(x, downs[0]) for x in downs)
  a = downs[0] if is_shared else np.concatenate(downs, axis=1)
  rows, first = [], 0
  for part in parts:
    matrix = getattr(layers, part)[...]
    row = np.zeros((len(a), matrix.shape[-1], a.shape[1]), a.dtype)
    if part in adapted:
      b = leaf(part, 'b').swapaxes(1, 2)  # [L, out, r]
      row[..., first : first + b.shape[2]] = b
      first += 0 if is_shared else b.shape[2]
    rows.append(row)
  found = {'a': a, 'b': np.concatenate(rows, axis=1)}
  if is_dora:

    def length(part: str) -> np.ndarray:
      if hasattr(layers, f'{part}_lora_m'):
        return leaf(part, 'm')
      held = layers.adapted if part in adapted else layers.matrix
      return np.linalg.norm(np.asarray(held(part), np.float32), axis=1)

    found['m'] = np.concatenate([length(x) for x in parts], axis=1)
  return found
