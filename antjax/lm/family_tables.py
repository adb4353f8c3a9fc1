# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model families in Hugging Face's layout, of families.toml."""

from collections.abc import Mapping
import dataclasses
import pathlib
import tomllib
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One `model_type`.

  In the table a text 'a=b c' stands for the map a -> b, c -> c.

  Attributes:
    architecture: Class of `transformers` that reads what we write.
    fields: Field of Config -> field of config.json.
    top: Leaf -> module, for leaves that are no layer's.
    layer: Leaf -> module inside layer {i}. 'up_plain' is 'up' without a gate.
      'module|1' is the second part of a tensor that holds several leaves.
    fixed: Fields of Config that all its models share. An embed_scale of 'root'
      is the root of the width.
    defaults: Field of config.json -> its value where it is left out.
    only: Field of config.json -> the one value that is supported, its default.
    letters: The pattern of layers where no layer_types say it, for families
      with windows or layers without positions. x*y: a period of layers x and
      one y; x*y*: some layers x, the others y.
    count: Field of config.json, and its default, with the period, or the number
      of the first layers.
    letter_fields: Fields of config.json that say where layers look.
    windows: Field of config.json with the width of a window.
    half_windows: Whether that field counts both sides of a token, where the
      model is not causal.
    thetas: Fields of config.json with rope_theta and rope_local_theta.
    prefix: Stands before all names but the output layer's, where we write.
    also: Prefixes that files may have in its place.
    ignored: Pattern of tensors that the model does without.
    old: End of a name in old files -> what it is now.
    is_transposed: Whether layers' matrices are [out, in].
    padded_positions: Whether max_position_embeddings counts the rows before the
      first place too.
  """

  architecture: str
  fields: Mapping[str, str]
  top: Mapping[str, str]
  layer: Mapping[str, str]
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  letters: str = ''
  count: tuple[str, int] = ('', 1)
  letter_fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  windows: str = 'sliding_window'
  half_windows: bool = False
  thetas: tuple[str, str] = ('rope_theta', '')
  prefix: str = ''
  also: tuple[str, ...] = ()
  ignored: str = '^$'
  old: Mapping[str, str] = dataclasses.field(default_factory=dict)
  is_transposed: bool = True
  padded_positions: bool = False


def _text() -> dict[str, Any]:
  path = pathlib.Path(__file__).with_name('families.toml')
  return tomllib.loads(path.read_text('utf-8'))


def _families(families: Mapping[str, dict[str, Any]]) -> dict[str, Family]:
  tables: dict[str, dict[str, Any]] = {}
  for name, table in families.items():
    found = dict(tables.get(table.pop('like', ''), {}))
    for key, value in table.items():
      if key in ('fields', 'top', 'layer', 'letter_fields'):
        pairs = [word.partition('=') for word in value.split()]
        value = {k.strip('!'): '!' if '!' in k else v or k for k, _, v in pairs}
      if isinstance(value, dict):
        value = {**found.get(key, {}), **value}
        value = {k: v for k, v in value.items() if v != '!'}
        value = {k: None if v == 'null' else v for k, v in value.items()}
      found[key] = tuple(value) if isinstance(value, list) else value
    tables[name] = found
  return {name: Family(**table) for name, table in tables.items()}


# What families.toml holds besides.
TABLES = _text()
FAMILIES = _families(TABLES.pop('family'))
