# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model families in Hugging Face's layout, of families.toml."""

from collections.abc import Mapping
import dataclasses
import pathlib
import tomllib
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pattern:
  """Where layers look: 'global', 'window', or 'no_rope', without positions.

  Attributes:
    others: What layers do that nothing below is said of.
    begin: What the first `count` layers of all do.
    first: What the first layer of each `count` does.
    last: What the last layer of each `count` does.
    count: Layers of a period, or at the beginning.
    count_field: Field of config.json that says another count.
  """

  others: str
  begin: str = ''
  first: str = ''
  last: str = ''
  count: int = 1
  count_field: str = ''

  def kinds(self, count: int, num_layers: int) -> list[str]:
    """What each layer does, or each of a period."""
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
    top: Leaf -> module, for leaves that are no layer's.
    layer: Leaf -> module inside layer {i}. 'up_plain' is 'up' without a gate.
      A leaf that is a part of a tensor has the text 'tensor|part' here, and
      both by name in the file.
    fixed: Fields of Config that all its models share. An embed_scale of 'root'
      is the root of the width.
    defaults: Field of config.json -> its value where it is left out.
    only: Field of config.json -> the one value that is supported, its default.
    pattern: Where layers look if no layer_types say it, for families with
      windows or layers without positions.
    layer_fields: Fields of config.json that say where layers look.
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


# What families.toml holds besides.
TABLES = _text()
FAMILIES = _families(TABLES.pop('family'))
