# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How one field of a config is written: as text on a command line, as JSON.

`config.py` walks the dataclasses, this module knows the types of their fields.
`kind` is a type without Annotated, such as `int`, `float | None` or
`tuple[str, ...]`.
"""

from collections.abc import Mapping
import csv
import enum
import importlib
import io
import types
import typing
from typing import Any, Literal

_SCALARS = {
  bool: 'true or false',
  int: 'an integer',
  float: 'a number',
  str: 'a string',
}
NONE = 'none'


def check_least(
  config: Any, at_least: Mapping[str, float], prefix: str = ''
) -> None:
  """Raises ValueError where a field, unless None, is less than it may be."""
  for name, least in at_least.items():
    value = getattr(config, name)
    if value is not None and not value >= least:
      raise ValueError(f'{prefix}{name}={value}: must be at least {least}.')


def imported(flag: str, name: str, needed: str) -> Any:
  """What a flag names as package.module:function.

  Raises:
    ValueError: There is no such thing; `needed` says more of it.
  """
  module, _, function = name.partition(':')
  try:
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(
      f'{flag}={name!r}: {error}; needed is package.module:function, importable'
      f' from here, {needed}.'
    ) from error


def _without_none(kind: Any) -> tuple[Any, bool]:
  """Splits `T | None` into (T, True); anything else is (kind, False)."""
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    others = [k for k in typing.get_args(kind) if k is not type(None)]
    if len(others) == 1 and len(typing.get_args(kind)) == 2:
      return others[0], True
  return kind, False


def _is_enum(kind: Any) -> bool:
  return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _member_text(member: enum.Enum) -> str:
  """A member's name in lower case, unless two names differ only in case."""
  names = [name.lower() for name in type(member).__members__]
  lower = member.name.lower()
  return lower if names.count(lower) == 1 else member.name


def _choices(kind: Any) -> dict[str, Any] | None:
  """Text -> value of an enum or Literal; None for any other kind."""
  if _is_enum(kind):
    return {_member_text(member): member for member in kind}
  if typing.get_origin(kind) is Literal:
    return {str(value): value for value in typing.get_args(kind)}
  return None


def _element_kinds(kind: Any, count: int) -> list[Any] | None:
  """Kinds of `count` elements of a tuple or list kind; None: a wrong count."""
  arguments = typing.get_args(kind)
  if typing.get_origin(kind) is list or arguments[-1:] == (Ellipsis,):
    return [arguments[0]] * count
  return list(arguments) if len(arguments) == count else None


def check_supported(kind: Any, where: str) -> None:
  """Raises a TypeError that names the field `where` if no flag can hold it."""
  inner, optional = _without_none(kind)
  origin, arguments = typing.get_origin(inner), typing.get_args(inner)
  choices = _choices(inner)
  if choices is not None:
    if _is_enum(inner) or all(type(v) in (str, int) for v in arguments):
      if optional and NONE in choices:
        raise TypeError(
          f"{where}: 'none' would be both a choice and None; drop one."
        )
      if _is_enum(inner) or len(choices) == len(arguments):
        return
  elif origin in (tuple, list) and arguments:
    elements = [kind for kind in arguments if kind is not Ellipsis]
    if all(e in _SCALARS or _choices(e) is not None for e in elements):
      for element in elements:
        check_supported(element, where)
      return
  elif inner in _SCALARS:
    return
  raise TypeError(
    f'{where}: {kind} cannot be a flag; use bool, int, float, str, an Enum, a'
    ' Literal of distinct strings or ints, a tuple or list of these, `| None`,'
    ' or a dataclass.'
  )


def describe(kind: Any) -> str:
  """Says what to type, as --help shows it: 'an integer, or none'."""
  inner, optional = _without_none(kind)
  choices = _choices(inner)
  if choices is not None:
    text = f'<{"|".join(choices)}>'
  elif inner in _SCALARS:
    text = _SCALARS[inner]
  else:
    arguments = typing.get_args(inner)
    elements = [describe(kind) for kind in arguments if kind is not Ellipsis]
    text = f'comma-separated: {", ".join(elements)}'
    if len(elements) < len(arguments) or typing.get_origin(inner) is list:
      text += ', any number of them'
  return f'{text}, or {NONE}' if optional else text


def _scalar_from_text(kind: Any, text: str) -> Any:
  choices = _choices(kind)
  try:
    if choices is not None:
      return choices[text] if text in choices else choices[text.lower()]
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    return kind(text)
  except (KeyError, ValueError):
    raise ValueError(f'{text!r} is not {describe(kind)}') from None


def from_text(kind: Any, text: str) -> Any:
  """Reads a value of a kind from what `to_text` writes, or a person.

  Raises:
    ValueError: Says what was got and what is needed.
  """
  inner, optional = _without_none(kind)
  if optional and text == NONE:
    return None
  if typing.get_origin(inner) not in (tuple, list):
    return _scalar_from_text(inner, text)
  rows = list(csv.reader(io.StringIO(text, newline='')))
  parts = rows[0] if rows else []
  kinds = _element_kinds(inner, len(parts))
  if len(rows) > 1 or kinds is None:
    raise ValueError(f'{text!r} is not {describe(kind)}')
  elements = [_scalar_from_text(kind, part) for kind, part in zip(kinds, parts)]
  return elements if typing.get_origin(inner) is list else tuple(elements)


def to_text(value: Any) -> str:
  """Writes a value as `from_text` reads it."""
  if value is None:
    return NONE
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, enum.Enum):
    return _member_text(value)
  if isinstance(value, (tuple, list)):
    line = io.StringIO(newline='')
    if value:
      # csv quotes the characters of the line end: name both.
      writer = csv.writer(line, lineterminator='\r\n')
      writer.writerow([to_text(element) for element in value])
    return line.getvalue().removesuffix('\r\n')
  return str(value)


def to_json(value: Any) -> Any:
  """Returns a value as JSON types; an enum as the name of its member."""
  if isinstance(value, enum.Enum):
    return value.name
  if isinstance(value, (tuple, list)):
    return [to_json(element) for element in value]
  return value


def _scalar_from_json(kind: Any, data: Any, name: str) -> Any:
  if _is_enum(kind):
    if isinstance(data, str) and data in kind.__members__:
      return kind[data]
  elif (choices := _choices(kind)) is not None:
    for choice in choices.values():
      if type(choice) is type(data) and choice == data:
        return choice
  elif type(data) is kind:
    return data
  elif kind is float and type(data) is int:
    return float(data)
  raise ValueError(f'{name} must be {describe(kind)}; got {data!r}.')


def from_json(kind: Any, data: Any, name: str) -> Any:
  """Reads a value of a kind from what `to_json` returned, without guessing.

  Raises:
    ValueError: `data` has another type; names the field.
  """
  inner, optional = _without_none(kind)
  if optional and data is None:
    return None
  if typing.get_origin(inner) not in (tuple, list):
    return _scalar_from_json(inner, data, name)
  kinds = _element_kinds(inner, len(data)) if isinstance(data, list) else None
  if kinds is None:
    raise ValueError(f'{name} must be {describe(kind)}; got {data!r}.')
  elements = [
    _scalar_from_json(kind, element, name) for kind, element in zip(kinds, data)
  ]
  return elements if typing.get_origin(inner) is list else tuple(elements)
