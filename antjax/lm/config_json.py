# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's config.json to a `Config`, and back."""

from collections.abc import Mapping
import dataclasses
import math
import typing
from typing import Any

from antjax.lm import families
from antjax.lm.config import Config

# Fields of Config that no config.json holds: how to compute, not what.
_OURS_ONLY = ('remat', 'attention', 'lora_scale')
_ACTIVATIONS = {
  'silu': 'silu',
  'swish': 'silu',
  'gelu': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'relu': 'relu',
}
# T5's name of both activation and gate.
_FEED_FORWARD = {
  'relu': ('relu', False),
  'gelu': ('gelu', False),
  'gated-gelu': ('gelu_tanh', True),
  'gated-silu': ('silu', True),
}
_HINTS = typing.get_type_hints(Config)


def _kind(ours: str, theirs: str) -> str:
  """Kind of a field's value in config.json: size, number, flag or text."""
  if ours == 'norm_place':
    return 'flag'
  if theirs == 'feed_forward_proj':
    return 'text'
  kinds = {float: 'number', bool: 'flag', int: 'size', int | None: 'size'}
  return kinds.get(_HINTS[ours], 'text')


def read_config(fields: Mapping[str, Any], path: Any = 'config.json') -> Config:
  """The config of a model, of the content of a config.json; errors name `path`.

  Raises:
    ValueError: An unknown family, a field that is missing, or one whose value
      is not supported.
  """
  family = families.family_of(fields, path)
  fields = dict(fields)
  for name in ('rope_parameters', 'rope_scaling'):
    if not isinstance(fields.get(name) or {}, dict):
      raise ValueError(
        f'{path}: {name}={fields[name]!r}; needed is an object or null.'
      )
  rope = fields.get('rope_parameters') or {}
  rope = {**rope, **(fields.get('rope_scaling') or {})}
  if 'rope_theta' in rope:
    fields['rope_theta'] = rope['rope_theta']
  only = {**family.only, 'rope_type': 'default', 'quantization_config': None}
  if 'hidden_size' in fields:  # OPT-350m maps between two widths.
    only['word_embed_proj_dim'] = fields['hidden_size']
  fields['rope_type'] = rope.get('rope_type', rope.get('type', 'default'))
  for name, value in only.items():
    if fields.get(name, value) != value:
      raise ValueError(
        f'{path}: {name}={fields[name]!r} is not supported; needed is'
        f' {value!r}, or a model without it.'
      )
  fields = {**family.defaults, **fields}
  # Models from before grouped queries leave their number out.
  if fields.get('num_key_value_heads') is None:
    fields['num_key_value_heads'] = fields.get('num_attention_heads')
  missing = sorted(set(family.fields.values()) - set(fields))
  if missing:
    raise ValueError(f'{path} lacks {", ".join(missing)}.')
  values = dict(family.fixed)
  for ours, theirs in family.fields.items():
    values[ours] = _read_field(ours, theirs, fields[theirs], path)
  width = values['embed_dim'] / values['num_heads']
  if values.get('head_dim') == width:
    values['head_dim'] = None
  return Config(**values)


def _read_field(ours: str, theirs: str, value: Any, path: Any) -> Any:
  kind = _kind(ours, theirs)
  is_bool, is_number = isinstance(value, bool), isinstance(value, int | float)
  if kind == 'number':
    fits = is_number and not is_bool and 0 < value < math.inf
    needed = 'a number above 0'
  elif kind == 'size':
    least = 0 if ours in ('vocab_size', 'token_types') else 1
    fits = isinstance(value, int) and not is_bool and value >= least
    fits = fits or (ours == 'head_dim' and value is None)
    needed = f'a whole number of at least {least}'
  else:
    fits = isinstance(value, bool if kind == 'flag' else str)
    needed = 'true or false' if kind == 'flag' else 'a text'
  if not fits:
    raise ValueError(f'{path}: {theirs}={value!r}; needed is {needed}.')
  if ours == 'norm_place':
    return 'pre' if value else 'post'
  if ours not in ('activation', 'gated_mlp'):
    return value
  names: Mapping[str, Any] = _ACTIVATIONS
  if theirs == 'feed_forward_proj':
    place = ('activation', 'gated_mlp').index(ours)
    names = {k: v[place] for k, v in _FEED_FORWARD.items()}
  if value not in names:
    raise ValueError(
      f'{path}: {theirs}={value!r}; known are {", ".join(names)}.'
    )
  return names[value]


def write_config(config: Config) -> dict[str, Any]:
  """The config.json of a model: `read_config` gives the config back.

  Raises:
    ValueError: The model is of no family that Hugging Face knows.
  """
  for name, family in families.FAMILIES.items():
    fields: dict[str, Any] = {
      'architectures': [family.architecture],
      'model_type': name,
      **family.only,
    }
    for ours, theirs in family.fields.items():
      fields[theirs] = _write_field(config, ours, theirs)
    try:
      again = read_config(fields)
    except ValueError:
      continue
    keep = {field: getattr(config, field) for field in _OURS_ONLY}
    if config.head_dim == again.head_width:
      keep['head_dim'] = config.head_dim
    if not config.causal:  # An encoder has no output layer to tie.
      keep['tie_embeddings'] = config.tie_embeddings
    if dataclasses.replace(again, **keep) == config:
      return fields
  raise ValueError(
    f'no family of {", ".join(families.FAMILIES)} has models like {config};'
    ' save the parameters with antjax.train.checkpoint instead.'
  )


def _write_field(config: Config, ours: str, theirs: str) -> Any:
  if ours == 'norm_place':
    return config.norm_place == 'pre'
  if ours == 'head_dim':
    return config.head_width
  if theirs == 'feed_forward_proj':
    pair = config.activation, config.gated_mlp
    return next((k for k, v in _FEED_FORWARD.items() if v == pair), None)
  if ours == 'activation':
    return next(k for k, v in _ACTIVATIONS.items() if v == config.activation)
  return getattr(config, ours)
