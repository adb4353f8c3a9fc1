# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts Hugging Face's config.json to a `Config` and back."""

from collections.abc import Mapping
import dataclasses
import json
import math
import re
import typing
from typing import Any

from antjax.lm import families
from antjax.lm.config import Config
from antjax.lm.families import Family
from antjax.lm.family_tables import TABLES

# Fields of Config without a counterpart: how to compute, not what.
_OURS_ONLY = ('remat', 'attention', 'lora_scale', 'layers_per_step')
_ACTIVATIONS = TABLES['activations']
# T5's names of activation and gate together.
_FEED_FORWARD = {
  'relu': ('relu', False),
  'gelu': ('gelu', False),
  'gated-gelu': ('gelu_tanh', True),
  'gated-silu': ('silu', True),
}
# Numbers that may be null, which means 0 or derived from other fields.
_NULLABLE = ('head_dim', 'score_cap', 'logit_cap')
# Fields without effect on inference: tokens, training, files, other heads.
_HARMLESS = re.compile(TABLES['harmless'], re.VERBOSE)
_KINDS = {'full_attention': 'g', 'sliding_attention': 'w'}
_LETTERS = {'global': 'g', 'window': 'w', 'no_rope': 'n'}
_LIMITS = ('original_max_position_embeddings', 'max_position_embeddings')
# rope_type -> required fields, then, after '/', optional ones.
_SCALINGS = {
  'default': '/ factor',
  'linear': 'factor',
  'dynamic': 'factor max_position_embeddings',
  'llama3': 'factor low_freq_factor high_freq_factor',
  'yarn': 'factor original_max_position_embeddings / attention_factor beta_fast'
  ' beta_slow mscale mscale_all_dim truncate',
  'longrope': 'short_factor long_factor original_max_position_embeddings'
  ' max_position_embeddings / factor attention_factor',
}
_HINTS = typing.get_type_hints(Config)


def _kind(ours: str, theirs: str) -> str:
  """Kind of a field's value in config.json: size, number, flag or text."""
  if ours == 'norm_place' or theirs == 'feed_forward_proj':
    return 'flag' if ours == 'norm_place' else 'text'
  kinds = {float: 'number', bool: 'flag', int: 'size'}
  hint = _HINTS[ours]
  return kinds.get((typing.get_args(hint) or (hint,))[0], 'text')


def read_config(fields: Mapping[str, Any], path: Any = 'config.json') -> Config:
  """Converts the content of a config.json; errors name `path`.

  Raises:
    ValueError: The family or a field is unknown, a field is missing, or a value
      is not supported.
  """
  family = families.family_of(fields, path)
  fields = {k: v for k, v in fields.items() if v is not None} | {
    k: None for k in family.defaults if k in fields and fields[k] is None
  }
  if 'num_local_experts' in fields:
    fields['num_experts'] = fields.pop('num_local_experts')
  only = {**family.only, 'quantization_config': None, 'pruned_heads': {}}
  only['rope_interleaved'] = False
  if 'hidden_size' in fields:  # OPT-350m projects between two widths.
    only['word_embed_proj_dim'] = fields['hidden_size']
  for name, value in only.items():
    if name in fields and fields[name] != value:
      raise ValueError(
        f'{path}: {name}={fields[name]!r} is not supported; needed is {value!r}'
        ', or a model without it.'
      )
  known = {*only, *family.fields.values(), *_layer_fields(family)}
  for name, value in fields.items():
    if name not in known and not _HARMLESS.search(name):
      raise ValueError(
        f'{path}: {name}={value!r} is not known of a'
        f' {fields["model_type"]} model; needed is a model without it. Delete'
        ' the field if it changes no output.'
      )
  fields = {**family.defaults, **fields}
  # Models older than grouped queries omit their number.
  if fields.get('num_key_value_heads') is None:
    fields['num_key_value_heads'] = fields.get('num_attention_heads')
  if 'n_inner' in fields and fields['n_inner'] is None:
    width = fields.get('n_embd', 0)
    fields['n_inner'] = 4 * width if isinstance(width, int) else width
  missing = sorted(set(family.fields.values()) - set(fields))
  if missing:
    raise ValueError(f'{path} lacks {", ".join(missing)}.')
  values = dict(family.fixed)
  for ours, theirs in family.fields.items():
    values[ours] = _read_field(ours, theirs, fields[theirs], path)
  if fields['model_type'] == 'gemma' and fields['hidden_act'] == 'gelu':
    values['activation'] = 'gelu_tanh'  # As meant by its first files.
  if 'feed_forward_proj' in fields and 'dense_act_fn' in fields:
    if _ACTIVATIONS.get(str(fields['dense_act_fn'])) != values['activation']:
      needed = f'that of feed_forward_proj={fields["feed_forward_proj"]!r}'
      raise _fail(path, 'dense_act_fn', fields['dense_act_fn'], needed)
  values |= _read_pattern(family, fields, values, path)
  if values.get('positions', 'rope') == 'rope':
    has_local = 'w' in values.get('pattern', '')
    values |= _read_rope(family, fields, has_local, path)
  width = values['embed_dim'] / values['num_heads']
  if values.get('head_dim') == width:
    values['head_dim'] = None
  width = values.get('head_dim') or width
  if values.get('attention_scale') == width**-0.5:
    values['attention_scale'] = None
  if values.get('embed_scale') == 'root':
    values['embed_scale'] = values['embed_dim'] ** 0.5
  if family.padded_positions:
    values['max_positions'] -= values['position_offset']
  return Config(**values)


def _read_field(ours: str, theirs: str, value: Any, path: Any) -> Any:
  kind = _kind(ours, theirs)
  is_bool, is_number = isinstance(value, bool), isinstance(value, int | float)
  if kind == 'number':
    fits = is_number and not is_bool and 0 < value < math.inf
    needed = 'a number above 0'
  elif kind == 'size':
    least = 0 if ours == 'vocab_size' else 1
    fits = isinstance(value, int) and not is_bool and value >= least
    needed = f'a whole number of at least {least}'
  else:
    fits = isinstance(value, bool if kind == 'flag' else str)
    needed = 'true or false' if kind == 'flag' else 'a text'
  if value is None and ours in _NULLABLE:
    return None if ours == 'head_dim' else 0.0
  if not fits:
    raise _fail(path, theirs, value, needed)
  if ours == 'norm_place':
    return 'pre' if value else 'post'
  if theirs == 'use_bidirectional_attention':
    return not value
  if theirs == 'query_pre_attn_scalar':
    return value**-0.5
  if ours not in ('activation', 'gated_mlp'):
    return float(value) if kind == 'number' else value
  names: Mapping[str, Any] = _ACTIVATIONS
  if theirs == 'feed_forward_proj':
    place = ('activation', 'gated_mlp').index(ours)
    names = {k: v[place] for k, v in _FEED_FORWARD.items()}
  if value not in names:
    raise ValueError(
      f'{path}: {theirs}={value!r}; known are {", ".join(names)}.'
    )
  return names[value]


def _layer_fields(family: Family) -> set[str]:
  """Names of the fields for kinds of layers and their windows."""
  found = {*family.layer_fields}
  if family.pattern:
    found.add(family.windows)
  if family.fixed.get('positions', 'rope') == 'rope':
    found |= {'rope_parameters', 'rope_scaling'}
    found |= {*family.thetas, *_LIMITS}
  return found


def _is_positive(value: Any) -> bool:
  return type(value) in (int, float) and 0 < value < math.inf


def _fail(path: Any, name: str, value: Any, needed: str) -> ValueError:
  return ValueError(f'{path}: {name}={value!r}; needed is {needed}.')


def _read_pattern(family, fields, values, path) -> dict[str, Any]:
  if not family.pattern:
    return {}
  num_layers, window = values['num_layers'], fields.get(family.windows)
  is_windowed = fields.get('use_sliding_window', True)
  if not isinstance(is_windowed, bool):
    raise _fail(path, 'use_sliding_window', is_windowed, 'true or false')
  if not is_windowed:
    window = None
  if window is not None and (type(window) is not int or window < 1):
    raise _fail(path, family.windows, window, 'a whole number above 0 or null')
  rule = family.pattern
  count = fields.get(rule.count_field, rule.count)
  if type(count) is not int or count < 0:
    raise _fail(path, rule.count_field, count, 'a whole number')
  pattern = ''.join(_LETTERS[x] for x in rule.kinds(count, num_layers))
  if (places := fields.get('no_rope_layers')) is not None:
    is_list = isinstance(places, list) and len(places) == num_layers
    if not is_list or any(x not in (0, 1) for x in places):
      needed = f'a list of {num_layers} of 0 and 1'
      raise _fail(path, 'no_rope_layers', places, needed)
    pattern = ''.join('g' if x else 'n' for x in places)
  kinds = fields.get('layer_types')
  if kinds is not None:
    is_list = isinstance(kinds, list) and len(kinds) == num_layers
    if not is_list or any(x not in (*_KINDS,) for x in kinds):
      needed = f'{num_layers} of {", ".join(_KINDS)}'
      raise _fail(path, 'layer_types', kinds, needed)
    if 'n' in pattern and 'sliding_attention' in kinds:
      raise _fail(path, 'layer_types', kinds, 'full_attention everywhere')
    if 'n' not in pattern:
      pattern = ''.join(_KINDS[kind] for kind in kinds)
      if window is None and 'w' in pattern:
        raise _fail(path, family.windows, window, 'the width of a window')
  if window is None:
    pattern = pattern.replace('w', 'g')
  pattern = (pattern * num_layers)[:num_layers]
  if window is None or 'w' not in pattern:
    return {'pattern': pattern}
  if not values.get('causal', True):
    window = window // 2 + 1 if family.half_windows else window + 1
  return {'pattern': pattern, 'window': window}


def _read_rope(family, fields, has_local: bool, path) -> dict[str, Any]:
  for name in ('rope_parameters', 'rope_scaling'):
    if not isinstance(fields.get(name) or {}, dict):
      raise _fail(path, name, fields[name], 'an object or null')
  rope, old = (fields.get(x) or {} for x in ('rope_parameters', 'rope_scaling'))
  if rope and old and rope != old:
    needed = 'none beside other rope_parameters, which readers do not combine'
    raise _fail(path, 'rope_scaling', old, needed)
  rope = dict(rope or old)
  local: dict[str, Any] = {}
  if 'full_attention' in rope:
    both = [rope.get(x) or {} for x in ('full_attention', 'sliding_attention')]
    if not all(isinstance(x, dict) for x in both):
      raise _fail(path, 'rope_parameters', rope, 'an object for each kind')
    rope, local = map(dict, both)
  theta, local_theta = family.thetas
  for part, key in ((rope, theta), (local, local_theta)):
    part.setdefault('rope_theta', fields.get(key, 0.0))
  result = {}
  if has_local and local_theta:
    result['rope_local_theta'] = local.pop('rope_theta')
    if local.get('rope_type', 'default') != 'default':
      raise _fail(path, 'rope_type', local['rope_type'], "'default'")
  result['rope_theta'] = rope.pop('rope_theta')
  name = 'partial_rotary_factor'
  result['rope_fraction'] = rope.pop(name, fields.get(name, 1.0))
  if result['rope_fraction'] != 1 and name not in family.layer_fields:
    raise _fail(path, name, result['rope_fraction'], 'a model without it')
  shown = {'rope_local_theta': local_theta, 'rope_fraction': name}
  for key, value in result.items():
    if not _is_positive(value):
      raise _fail(path, shown.get(key, theta), value, 'a number above 0')
    result[key] = float(value)
  old = rope.pop('type', 'default')
  kind = rope.pop('rope_type', old)
  if family.architecture.startswith('Phi3') and kind in ('su', 'yarn'):
    kind = 'longrope'
  if not isinstance(kind, str) or kind not in _SCALINGS:
    raise _fail(path, 'rope_type', kind, ' or '.join(_SCALINGS))
  limit, longest = _LIMITS
  rope.setdefault(longest, fields.get(longest))
  if kind in ('llama3', 'yarn', 'longrope'):
    rope[limit] = fields.get(limit, rope.get(limit, rope[longest]))
  rope = {k: v for k, v in rope.items() if v is not None}
  required, more = (x.split() for x in _SCALINGS[kind].partition('/')[::2])
  missing = [name for name in required if name not in rope]
  unknown = [x for x in rope if x not in {*required, *more, *_LIMITS}]
  for names, problem in ((missing, 'lacks'), (unknown, 'does not know')):
    if names:
      raise ValueError(
        f'{path}: rope_type={kind!r} {problem} {", ".join(names)}.'
      )
  for name, value in rope.items():
    fits, needed = _is_positive(value), 'a number above 0'
    if name == 'truncate':
      fits, needed = isinstance(value, bool), 'true or false'
    elif name in ('short_factor', 'long_factor'):
      fits = isinstance(value, list) and all(map(_is_positive, value))
      needed = 'a list of numbers above 0'
    if not fits:
      raise _fail(path, name, value, needed)
  if kind == 'default':
    return result
  scaling = {'rope_type': kind, **rope}
  return result | {'rope_scaling': json.dumps(scaling, sort_keys=True)}


def write_config(config: Config) -> dict[str, Any]:
  """Converts to a config.json, which `read_config` inverts.

  Raises:
    ValueError: No family of Hugging Face matches the model.
  """
  for name, family in families.FAMILIES.items():
    architecture = family.architecture
    if not config.causal:
      architecture = architecture.replace('ForCausalLM', 'Model')
    fields: dict[str, Any] = {
      'architectures': [architecture],
      'model_type': name,
      'pad_token_id': None,  # Defaults may exceed a small vocabulary.
      **family.only,
    }
    for ours, theirs in family.fields.items():
      fields[theirs] = _write_field(family, config, ours, theirs)
    fields |= _write_layers(family, config)
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
  found = dataclasses.asdict(config).items()
  chosen = {k: v for k, v in found if v != getattr(Config, k, None)}
  raise ValueError(
    f'no family of {", ".join(families.FAMILIES)} has models like {chosen};'
    ' save the parameters with antjax.train.checkpoint instead.'
  )


def _write_field(family: Family, config: Config, ours: str, theirs: str) -> Any:
  value = getattr(config, ours)
  if ours == 'norm_place':
    return value == 'pre'
  if ours == 'head_dim':
    return config.head_width
  if ours == 'attention_scale':
    value = config.head_width**-0.5 if value is None else value
    if theirs == 'query_pre_attn_scalar':
      square = value**-2
      return round(square) if round(square) ** -0.5 == value else square
  if theirs == 'use_bidirectional_attention':
    return not value
  if theirs == 'feed_forward_proj':
    pair = config.activation, config.gated_mlp
    return next((k for k, v in _FEED_FORWARD.items() if v == pair), None)
  if ours == 'activation':
    return next(k for k, v in _ACTIVATIONS.items() if v == value)
  if ours == 'max_positions' and family.padded_positions:
    return value + config.position_offset
  return value or None if ours in ('score_cap', 'logit_cap') else value


def _write_layers(family: Family, config: Config) -> dict[str, Any]:
  """Values of `_layer_fields`."""
  fields: dict[str, Any] = {}
  if config.positions == 'rope':
    theta, local_theta = family.thetas
    fields[theta] = config.rope_theta
    if local_theta:
      fields[local_theta] = config.rope_local_theta or config.rope_theta
    if config.rope_fraction != 1:
      fields['partial_rotary_factor'] = config.rope_fraction
    if config.rope_scaling:
      scaling = json.loads(config.rope_scaling)
      fields |= {k: scaling.pop(k) for k in _LIMITS[1:] if k in scaling}
      if scaling['rope_type'] == 'longrope':
        fields[_LIMITS[0]] = scaling[_LIMITS[0]]
      fields['rope_scaling'] = scaling
  if not family.pattern:
    return fields
  if 'no_rope_layers' in family.layer_fields:
    fields['no_rope_layers'] = [int(x != 'n') for x in config.letters]
  window: int | None = config.window or None
  if window and not config.causal:
    window = 2 * (window - 1) if family.half_windows else window - 1
  fields[family.windows] = window
  names = {letter: kind for kind, letter in _KINDS.items()}
  if 'use_sliding_window' in family.layer_fields:
    fields['use_sliding_window'] = window is not None
  if 'layer_types' in family.layer_fields:
    fields['layer_types'] = [
      names.get(x, 'full_attention') for x in config.letters
    ]
  return fields
