# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Positions of inputs as JSON, for checkpoints."""

import base64
import json
from typing import Any

import numpy as np

_BYTES, _TUPLE = '__bytes__', '__tuple__'


def encode_position(position: Any) -> Any:
  """Encodes an input position as JSON; Grain's may have bytes and tuples.

  Raises:
    TypeError: It contains anything but dicts with string keys, lists, tuples,
      numbers, strings and bytes.
  """
  if isinstance(position, bytes):
    return {_BYTES: base64.b64encode(position).decode()}
  if isinstance(position, tuple):
    return {_TUPLE: encode_position(list(position))}
  if isinstance(position, list):
    return [encode_position(x) for x in position]
  if isinstance(position, dict) and all(isinstance(k, str) for k in position):
    return {name: encode_position(x) for name, x in position.items()}
  if isinstance(position, np.generic):
    return position.item()
  if position is None or isinstance(position, (bool, int, float, str)):
    return position
  kind = type(position).__name__
  raise TypeError(f'{kind} {str(position)[:80]} cannot be saved')


def decode_position(encoded: Any) -> Any:
  """Undoes `encode_position`."""
  return json.loads(json.dumps(encoded), object_hook=_from_json)


def _from_json(value: dict[str, Any]) -> Any:
  if value.keys() == {_BYTES}:
    return base64.b64decode(value[_BYTES])
  return tuple(value[_TUPLE]) if value.keys() == {_TUPLE} else value
