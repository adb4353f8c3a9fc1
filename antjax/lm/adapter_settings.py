# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the settings of a LoRA adapter of PEFT.

Settings under which PEFT fails, or computes something else than we do, are
rejected by name.
"""

from collections.abc import Mapping
import json
import pathlib
import re
from typing import Any

# Fields that we read, that change nothing, or that the tensors imply.
_HARMLESS = {
  *('auto_mapping', 'base_model_name_or_path', 'exclude_modules', 'peft_type'),
  *('inference_mode', 'layers_pattern', 'layers_to_transform', 'lora_alpha'),
  *('lora_dropout', 'megatron_core', 'peft_version', 'qalora_group_size', 'r'),
  *('revision', 'fan_in_fan_out', 'target_modules', 'task_type', 'use_dora'),
  *('use_rslora', 'rank_pattern', 'alpha_pattern'),
}
_PLAIN: Mapping[str, tuple[Any, ...]] = {
  'bias': ('none',),
  # Others change the base model's weights.
  'init_lora_weights': (True, 'gaussian', 'orthogonal', 'eva'),
}
# Fields by the type that they need, if they are there.
_FLAGS = ('use_dora', 'use_rslora')
_NAMES = ('target_modules', 'exclude_modules', 'layers_pattern')
_BY_PATTERN = ('rank_pattern', 'alpha_pattern')
_OF_LISTS = ('layers_to_transform', 'layers_pattern')


def read(file: pathlib.Path) -> dict[str, Any]:
  """The fields of an adapter_config.json.

  Raises:
    FileNotFoundError: The file is missing.
    ValueError: A field is not supported or of a wrong type; the message names
      it.
  """
  try:
    fields = json.loads(file.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{file} is no JSON ({error}).') from error
  if not isinstance(fields, dict):
    raise ValueError(f'{file} is no JSON object.')
  wrong = [
    f'{name}={value!r}'
    for name, value in fields.items()
    if value and name not in _HARMLESS and value not in _PLAIN.get(name, ())
  ]
  if fields.get('peft_type') != 'LORA':
    wrong = [f'peft_type={fields.get("peft_type")!r}']
  targets = fields.get('target_modules')
  if not wrong and isinstance(targets, str):
    wrong = [
      f'{name}={fields[name]!r} beside target_modules={targets!r}, no list,'
      for name in _OF_LISTS
      if fields.get(name) is not None
    ]
  if wrong:
    raise ValueError(f'{file}: {", ".join(sorted(wrong))} is not supported.')
  for name in (*_FLAGS, *_NAMES, *_BY_PATTERN, *_OF_LISTS):
    value, needed = fields.get(name), _needed(name)
    if value is None and name != 'target_modules':
      continue
    if not _fits(name, value):
      raise ValueError(f'{file}: {name}={value!r}; needed is {needed}.')
  return fields


def _needed(name: str) -> str:
  if name in _FLAGS:
    return 'true or false'
  if name in _BY_PATTERN:
    return 'an object with regular expressions as names'
  if name == 'layers_to_transform':
    return 'a number of a layer, or a list of them'
  # PEFT chooses by the base's model_type, and writes what it chose.
  return 'a list of names of modules, or a regular expression'


def _fits(name: str, value: Any) -> bool:
  """Whether a field's value is of its type."""
  if name in _FLAGS:
    return isinstance(value, bool)
  if name == 'layers_to_transform':
    listed = value if isinstance(value, list) else [value]
    return all(type(i) is int for i in listed)
  if name in _BY_PATTERN:
    return isinstance(value, dict) and all(map(_is_pattern, value))
  if name == 'target_modules' and not value:
    return False
  if isinstance(value, list) and name != 'layers_pattern':
    return all(isinstance(x, str) for x in value)
  return all(map(_is_pattern, value if isinstance(value, list) else [value]))


def _is_pattern(x: Any) -> bool:
  try:
    return isinstance(x, str) and bool(re.compile(x))
  except re.error:
    return False


def is_chosen(fields: Mapping[str, Any], module: str) -> bool:
  """Whether the settings name a module, as PEFT has it."""

  def is_named(names: Any) -> bool:
    if isinstance(names, str):
      return re.fullmatch(names, module) is not None
    return any(f'.{module}'.endswith(f'.{name}') for name in names)

  if (out := fields.get('exclude_modules')) and is_named(out):
    return False
  targets, layers = fields['target_modules'], fields.get('layers_to_transform')
  if isinstance(targets, str):
    return targets.lower() == 'all-linear' or is_named(targets)
  if layers is None or layers == [] or module in targets:
    return is_named(targets)
  layers = [layers] if isinstance(layers, int) else layers
  patterns = fields.get('layers_pattern') or r'[^.]*'
  patterns = [patterns] if isinstance(patterns, str) else patterns
  tried = (re.match(rf'(?:^|.*?\.){x}\.(\d+)\.', module) for x in patterns)
  found = next(filter(None, tried), None)
  return is_named(targets) and found is not None and int(found[1]) in layers
