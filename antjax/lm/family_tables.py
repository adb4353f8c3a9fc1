# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model families in Hugging Face's layout, from families.toml."""

from collections.abc import Mapping
import dataclasses
import pathlib
import tomllib
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pattern:
  """Kinds of layers: 'global', 'window', or 'no_rope' (without positions).

  Attributes:
    others: Kind of all layers that no other attribute covers.
    begin: Kind of the first `count` layers of the model.
    first: Kind of the first of every `count` layers.
    last: Kind of the last of every `count` layers.
    count: Number of layers of a period, or at the beginning.
    count_field: Field of config.json that overrides the count.
  """

  others: str
  begin: str = ''
  first: str = ''
  last: str = ''
  count: int = 1
  count_field: str = ''

  def kinds(self, count: int, num_layers: int) -> list[str]:
    """Kind of each layer, or of each layer of a period."""
    if self.begin:
      count = min(count, num_layers)
      return [self.begin] * count + [self.others] * (num_layers - count)
    kinds = [self.others] * max(1, count)
    if self.first:
      kinds[0] = self.first
    if self.last:
      kinds[-1] = self.last
    return kinds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One `model_type`.

  Attributes:
    architecture: Class of `transformers` that reads what we write.
    fields: Field of Config -> field of config.json.
    top: Leaf -> module, for leaves outside layers.
    layer: Leaf -> module inside layer {i}. 'up_plain' is 'up' without a gate.
      A leaf that is a part of a tensor is 'tensor|part' here, and has separate
      keys in the file.
    fixed: Fields of Config that all its models share. An embed_scale of 'root'
      means the square root of the width.
    defaults: Field of config.json -> its value if omitted.
    only: Field of config.json -> its only supported value, the default.
    pattern: Kinds of layers without layer_types, for families with windows or
      layers without positions.
    layer_fields: Fields of config.json with the kinds of layers.
    windows: Field of config.json with the window width.
    half_windows: Whether that field counts both sides of a token in models that
      are not causal.
    thetas: Fields of config.json with rope_theta and rope_local_theta.
    prefix: Prefix of all written names except the output layer's.
    also: Other prefixes that files may have.
    ignored: Pattern of tensors that the model does not use.
    old: Suffix of a name in old files -> its current form.
    is_transposed: Whether layers' matrices are [out, in].
    padded_positions: Whether max_position_embeddings includes the rows before
      the first position.
  """

  architecture: str
  fields: Mapping[str, str]
  top: Mapping[str, str]
  layer: Mapping[str, str]
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  pattern: Pattern | None = None
  layer_fields: tuple[str, ...] = ()
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
    without = table.pop('without', {})
    nulls = dict.fromkeys(table.pop('null_defaults', ()))
    table['defaults'] = table.get('defaults', {}) | nulls
    for key, value in table.items():
      if key == 'pattern':
        value = Pattern(**value)
      elif isinstance(value, dict):
        value = {**found.get(key, {}), **value}
        value = {
          leaf: _name(x) if key == 'layer' else x for leaf, x in value.items()
        }
      found[key] = tuple(value) if isinstance(value, list) else value
    for key, names in without.items():
      found[key] = {k: x for k, x in found[key].items() if k not in names}
    tables[name] = found
  return {name: Family(**table) for name, table in tables.items()}


def _name(module: str | dict[str, Any]) -> str:
  """A module's name, or 'tensor|part'."""
  if isinstance(module, str):
    return module
  return f'{module["tensor"]}|{module["part"]}'


# Other tables of families.toml.
TABLES = _text()
FAMILIES = _families(TABLES.pop('family'))
