# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads and writes LoRA adapters in PEFT's format.

A folder has adapter_config.json and adapter_model.safetensors. Settings under
which PEFT computes something else than we do are rejected by name.
"""

from collections.abc import Mapping
import json
import os
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from antjax import paths
from antjax.lm import config_json, families, hub, lora
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
# Fields that change nothing, or that the tensors imply.
_HARMLESS = {
  *('auto_mapping', 'base_model_name_or_path', 'exclude_modules', 'peft_type'),
  *('inference_mode', 'layers_pattern', 'layers_to_transform', 'lora_alpha'),
  *('lora_dropout', 'megatron_core', 'peft_version', 'qalora_group_size', 'r'),
  *(
    'revision',
    'fan_in_fan_out',
    'target_modules',
    'task_type',
    'use_dora',
    'use_rslora',
  ),
}
_PLAIN: Mapping[str, tuple[Any, ...]] = {
  'bias': ('none',),
  # Others change the base model's weights.
  'init_lora_weights': (True, 'gaussian'),
}


def load(
  path: str | os.PathLike[str], model: Transformer, first_layer: int = 0
) -> None:
  """Adds the adapters in a folder to a model without adapters.

  Args:
    path: Folder that PEFT or `save` wrote, or hf://org/name.
    model: A whole model, or a part with layers.
    first_layer: Index of the part's first layer in the whole model.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: The kind of adapter is not supported, or it belongs to another
      model; the message names the field or the tensor.
  """
  folder = hub.local(path)
  file = folder / CONFIG_NAME
  fields = json.loads(file.read_text(encoding='utf-8'))
  wrong = [
    f'{name}={value!r}'
    for name, value in fields.items()
    if value and name not in _HARMLESS and value not in _PLAIN.get(name, ())
  ]
  if fields.get('peft_type') != 'LORA':
    wrong = [f'peft_type={fields.get("peft_type")!r}']
  if wrong:
    raise ValueError(f'{file}: {", ".join(sorted(wrong))} is not supported.')
  rank, is_root = fields['r'], bool(fields.get('use_rslora'))
  scale = lora.scale_of(fields['lora_alpha'], rank, is_root)
  source = SafetensorsFolder(folder, (FILE_NAME, 'adapter_model.bin'))
  family = families.family_of(config_json.write_config(model.config))
  there = {
    families.our_name(family, name.removeprefix(_PREFIX)): name
    for name in source.shapes
  }
  leaves: dict[str, np.ndarray] = {}
  layers = model.layers
  for target, modules in _modules(model, first_layer).items():
    size_in, size_out = layers.matrix(target).shape[1:]
    shapes = {'a': (rank, size_in), 'b': (size_out, rank), 'm': (size_out,)}
    for part in 'abm' if fields.get('use_dora') else 'ab':
      names = [f'{module}.{_PARTS[part]}' for module in modules]
      if not any(name in there for name in names):
        continue
      found = [there.pop(name) for name in names if name in there]
      right = {source.shapes[name] for name in found} == {shapes[part]}
      if len(found) < len(names) or not right:
        raise ValueError(
          f'{folder}: needed is {names[0]} of shape {shapes[part]}, and the'
          f' same in all {len(names)} layers.'
        )
      stack = [source.read(name).T for name in found]
      leaves[f'{target}_lora_{part}'] = np.stack(stack)
  if there or not leaves:
    raise ValueError(
      f'{folder}: {len(there)} tensors are of no layer that is trained here:'
      f' {", ".join(sorted(there)[:5])}.'
    )
  lora.set_scale(model, scale)
  dtype = layers.matrix('query').dtype
  for name, array in leaves.items():
    setattr(layers, name, nnx.Param(jnp.asarray(array, dtype)))


def save(
  path: str | os.PathLike[str],
  model: Transformer,
  first_layer: int = 0,
  base_model: str = '',
) -> None:
  """Writes a model's adapters as a folder that PEFT reads.

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
  layers, tensors = model.layers, {}
  targets: list[str] = []
  rank = 0
  all_modules = _modules(model, first_layer)
  for target in lora.TARGETS:
    if hasattr(layers, f'{target}_lora_a') and target not in all_modules:
      raise ValueError(
        f'adapter_file.save: {target} is a part of a tensor, which PEFT adapts'
        ' as a whole; merge the adapters (lora.merge).'
      )
  for target, modules in all_modules.items():
    for part, end in _PARTS.items():
      if hasattr(layers, f'{target}_lora_{part}'):
        stack = np.asarray(getattr(layers, f'{target}_lora_{part}')[...])
        if part == 'a':
          targets += modules
          rank = stack.shape[-1]
        for module, x in zip(modules, stack, strict=True):
          tensors[f'{_PREFIX}{module}.{end}'] = np.ascontiguousarray(x.T)
  if not tensors:
    raise ValueError(
      'adapter_file.save: the model has no adapters; lora.add gives it some.'
    )
  fields = {
    'peft_type': 'LORA',
    'base_model_name_or_path': base_model or None,
    'bias': 'none',
    'fan_in_fan_out': False,
    'inference_mode': True,
    'lora_alpha': model.config.lora_scale * rank,
    'lora_dropout': 0.0,
    'r': rank,
    'target_modules': targets,
    'use_dora': any(name.endswith(_PARTS['m']) for name in tensors),
    'use_rslora': False,  # lora_alpha gives the same scale.
  }
  folder.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(tensors, folder / FILE_NAME, {'format': 'pt'})
  (folder / CONFIG_NAME).write_text(json.dumps(fields, indent=2))


def _modules(model: Transformer, first_layer: int) -> dict[str, list[str]]:
  """Target -> Hugging Face's module name in each of a part's layers."""
  family = families.family_of(config_json.write_config(model.config))
  names = families.tensor_names(family, model.config)['layers']
  count = model.layers.matrix('query').shape[0]
  return {
    target: [
      name.removesuffix('.weight')
      for name in names[target][first_layer : first_layer + count]
    ]
    for target in lora.TARGETS
    if hasattr(model.layers, target)
    and '|' not in names[target][0]  # A part of a tensor has none in PEFT,
    and len(names[target]) == model.config.num_layers  # nor has an expert.
  }
