# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a config.json says of positions and of layers that see a window."""

from collections.abc import Mapping
import json
from typing import Any

from antjax.lm.config import Config
from antjax.lm.family_tables import Family

_KINDS = {'full_attention': 'g', 'sliding_attention': 'w'}
# rope_type -> (fields that it needs, fields that it may have).
_LIMITS = ('original_max_position_embeddings', 'max_position_embeddings')
_SCALINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  'linear': (('factor',), _LIMITS),
  'dynamic': (('factor', _LIMITS[1]), _LIMITS),
  'llama3': (('factor', 'low_freq_factor', 'high_freq_factor'), _LIMITS),
  'yarn': (
    ('factor', _LIMITS[0]),
    tuple('attention_factor beta_fast beta_slow mscale mscale_all_dim'.split())
    + ('truncate', *_LIMITS),
  ),
  'longrope': (
    ('short_factor', 'long_factor', *_LIMITS),
    ('factor', 'attention_factor'),
  ),
}


def names(family: Family) -> set[str]:
  """The fields that `read` reads."""
  found = {*family.letter_fields}
  if family.letters:
    found.add(family.windows)
  if family.fixed.get('positions', 'rope') == 'rope':
    found |= {'partial_rotary_factor', 'rope_parameters', 'rope_scaling'}
    found |= {*family.thetas, *_LIMITS}
  return found


def read(
  family: Family,
  fields: Mapping[str, Any],
  values: Mapping[str, Any],
  path: Any,
) -> dict[str, Any]:
  """The fields of Config that say where a layer looks, and how far.

  Args:
    family: Family of the model.
    fields: Content of the config.json, with the family's defaults.
    values: What is read of it so far.
    path: Name for errors.

  Raises:
    ValueError: A field that is not understood.
  """
  found = _read_pattern(family, fields, values, path)
  if values.get('positions', 'rope') == 'rope':
    found |= _read_rope(family, fields, 'w' in found.get('pattern', ''), path)
  return found


def _fail(path: Any, name: str, value: Any, needed: str) -> ValueError:
  return ValueError(f'{path}: {name}={value!r}; needed is {needed}.')


def _read_pattern(family, fields, values, path) -> dict[str, Any]:
  if not family.letters:
    return {}
  num_layers = values['num_layers']
  window = fields.get(family.windows)
  if not fields.get('use_sliding_window', True):
    window = None
  elif window is not None and (type(window) is not int or window < 1):
    raise _fail(path, family.windows, window, 'a whole number above 0 or null')
  field, default = family.count
  pattern = _pattern(family.letters, fields.get(field, default), num_layers)
  if fields.get('no_rope_layers'):
    pattern = ''.join('g' if x else 'n' for x in fields['no_rope_layers'])
  kinds = fields.get('layer_types')
  if kinds is not None:
    if len(kinds) != num_layers or set(kinds) - set(_KINDS):
      raise _fail(
        path, 'layer_types', kinds, f'{num_layers} of {", ".join(_KINDS)}'
      )
    if 'n' not in pattern:
      pattern = ''.join(_KINDS[kind] for kind in kinds)
      if window is None and 'w' in pattern:
        raise _fail(path, family.windows, window, 'the width of a window')
  if window is None:
    pattern = pattern.replace('w', 'g')
  pattern = (pattern * num_layers)[:num_layers]
  if 'w' not in pattern:
    return {'pattern': pattern}
  if not values.get('causal', True):
    window = window // 2 + 1 if family.half_windows else window + 1
  return {'pattern': pattern, 'window': window}


def _pattern(letters: str, count: int, num_layers: int) -> str:
  """See `Family.letters`."""
  if letters.count('*') == 2:  # g*w*
    count = min(count, num_layers)
    return letters[0] * count + letters[2] * (num_layers - count)
  star = letters.find('*')
  if star < 0:
    return letters
  many = letters[star - 1] * (count - 1)
  return letters[: star - 1] + many + letters[star + 1 :]


def _read_rope(family, fields, has_local: bool, path) -> dict[str, Any]:
  for name in ('rope_parameters', 'rope_scaling'):
    if not isinstance(fields.get(name) or {}, dict):
      raise _fail(path, name, fields[name], 'an object or null')
  rope = dict(fields.get('rope_parameters') or {})
  local: dict[str, Any] = {}
  if 'full_attention' in rope:
    local = dict(rope.get('sliding_attention') or {})
    rope = dict(rope['full_attention'])
  rope |= fields.get('rope_scaling') or {}
  theta, local_theta = family.thetas
  for part, key in ((rope, theta), (local, local_theta)):
    part.setdefault('rope_theta', fields.get(key, 0.0))
  result = {}
  if has_local and local_theta:
    result['rope_local_theta'] = local.pop('rope_theta')
    if local.get('rope_type', 'default') != 'default':
      raise _fail(path, 'rope_type', local['rope_type'], "'default'")
  result['rope_theta'] = rope.pop('rope_theta')
  result['rope_fraction'] = rope.pop(
    'partial_rotary_factor', fields.get('partial_rotary_factor', 1.0)
  )
  for name, value in result.items():
    if (
      isinstance(value, bool)
      or not isinstance(value, int | float)
      or value <= 0
    ):
      raise _fail(path, name, value, 'a number above 0')
    result[name] = float(value)
  old = rope.pop('type', 'default')
  kind = rope.pop('rope_type', old)
  if family.architecture.startswith('Phi3') and kind in ('su', 'yarn'):
    kind = 'longrope'
  if kind == 'default':
    return result
  if kind not in _SCALINGS:
    raise _fail(path, 'rope_type', kind, f'default or {", ".join(_SCALINGS)}')
  rope = {k: v for k, v in rope.items() if v is not None}
  limit, longest = _LIMITS
  if longest in fields:
    rope.setdefault(longest, fields[longest])
  found = fields.get(limit, rope.get(limit, rope.get(longest)))
  if found and kind in ('llama3', 'yarn', 'longrope'):
    rope[limit] = found
  needed, more = _SCALINGS[kind]
  missing = [name for name in needed if name not in rope]
  unknown = sorted(set(rope) - {*needed, *more})
  if missing or unknown:
    raise ValueError(
      f'{path}: rope_type={kind!r} lacks {", ".join(missing) or "nothing"}, and'
      f' these of its fields are not known: {", ".join(unknown) or "none"}.'
    )
  scaling = {'rope_type': kind, **rope}
  return result | {'rope_scaling': json.dumps(scaling, sort_keys=True)}


def write(family: Family, config: Config) -> dict[str, Any]:
  """The fields of config.json that `read` reads."""
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
  if not family.letters:
    return fields
  if 'no_rope_layers' in family.letter_fields:
    fields['no_rope_layers'] = [int(x != 'n') for x in config.letters]
  window: int | None = config.window or None
  if window and not config.causal:
    window = 2 * (window - 1) if family.half_windows else window - 1
  fields[family.windows] = window
  names = {letter: kind for kind, letter in _KINDS.items()}
  if 'use_sliding_window' in family.letter_fields:
    fields['use_sliding_window'] = window is not None
  if 'layer_types' in family.letter_fields:
    fields['layer_types'] = [
      names.get(x, 'full_attention') for x in config.letters
    ]
  return fields
