# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Command-line flags and run records derived from frozen dataclasses.

A job states its settings once, as a frozen dataclass with a default, a type and
a help text with the unit for each field:

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config:
    num_steps: Annotated[int, 'Optimizer steps.'] = 1000
    optimizer: OptimizerConfig = OptimizerConfig()

`define_flags(Config())` makes `--num_steps` and `--optimizer.learning_rate` of
it, `parse_flags(Config())` reads them back, and `save` records what was run so
that `--config=<run_dir>/config.json` runs it again.

Field types: bool, int, float, str, an `enum.Enum`, a `Literal` of strings or
ints, tuples and lists of these (comma-separated on the command line), any of
these or None (`none` on the command line), and other dataclasses. Rules between
and bounds on fields belong into `__post_init__` as ValueErrors.
"""

from collections.abc import Iterator
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import typing
from typing import Annotated, Any, TypeVar

from absl import flags, logging

from antjax import config_values as values
from antjax import paths

# Flags belong to the script that calls define_flags: its --help shows them.
flags.disclaim_key_flags()

FILE_NAME = 'config.json'

_T = TypeVar('_T')


class _Parser(flags.ArgumentParser[Any]):
  """Reads one field from the command line; None is not a flag's business."""

  def __init__(self, kind: Any):
    super().__init__()
    self._kind = kind
    self.syntactic_help = values.describe(kind)

  def parse(self, argument: Any) -> Any:
    if not isinstance(argument, str):
      return argument  # A default, already of the field's type.
    return values.from_text(self._kind, argument)

  def flag_type(self) -> str:
    return values.describe(self._kind)


class _Serializer(flags.ArgumentSerializer[Any]):
  """Writes one field as `_Parser` reads it."""

  def serialize(self, value: Any) -> str:
    return values.to_text(value)


@dataclasses.dataclass(frozen=True)
class _Field:
  """A leaf of a config: dotted name, type without Annotated, notes, value."""

  name: str
  kind: Any
  help: str
  takes: paths.Takes
  value: Any


def _hints(config_class: type[Any]) -> dict[str, tuple[Any, str, paths.Takes]]:
  """Field name -> (type, help, URLs) of the fields that `__init__` takes.

  A field that a subclass declares again without notes keeps its notes.
  """
  classes = [c for c in config_class.__mro__ if dataclasses.is_dataclass(c)]
  by_class = [typing.get_type_hints(c, include_extras=True) for c in classes]
  result = {}
  for field in dataclasses.fields(config_class):
    if field.init:
      found = [hints[field.name] for hints in by_class if field.name in hints]
      notes = [x for hint in found for x in getattr(hint, '__metadata__', ())]
      texts = [note for note in notes if isinstance(note, str)]
      takes = [note for note in notes if isinstance(note, paths.Takes)]
      kind = found[0]
      if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
      result[field.name] = kind, [*texts, ''][0], [*takes, paths.Takes()][0]
  return result


def _check_config(config: Any, call: str) -> None:
  if not dataclasses.is_dataclass(config) or isinstance(config, type):
    raise TypeError(
      f'{call}: {config!r} is not an instance of a dataclass; pass e.g.'
      ' Config().'
    )


def _leaves(config: Any, prefix: str = '') -> Iterator[_Field]:
  """Yields the fields of a config and of the configs in it, in order."""
  for name, (kind, text, takes) in _hints(type(config)).items():
    value = getattr(config, name)
    if dataclasses.is_dataclass(kind):
      yield from _leaves(value, f'{prefix}{name}.')
    else:
      values.check_supported(kind, f'{type(config).__name__}.{name}')
      yield _Field(prefix + name, kind, text, takes, value)


def define_flags(
  default_config: Any, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
  """Defines one absl flag for each field, and `--config` to load a saved run.

  The values of `default_config`, a frozen dataclass, are the flags' defaults.
  Fields of nested dataclasses get dotted names.

  Raises:
    TypeError: A field has a type that no flag can hold; names the field.
    flags.DuplicateFlagError: Another flag has the name of a field.
  """
  _check_config(default_config, 'define_flags')
  flags.DEFINE_string(
    'config',
    None,
    f'{FILE_NAME} of an earlier run, or its folder, to repeat. Other flags'
    ' override its values.',
    flag_values=flag_values,
  )
  for field in _leaves(default_config):
    if field.kind is bool:  # This kind of flag also has the form --no<name>.
      flags.DEFINE_boolean(
        field.name, field.value, field.help, flag_values=flag_values
      )
    else:
      text = field.help
      if field.value is None:  # absl shows no default then.
        text += '\n(default: none)'
      flags.DEFINE(
        _Parser(field.kind),
        field.name,
        field.value,
        text,
        flag_values=flag_values,
        serializer=_Serializer(),
      )


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split())


def _replace(config: Any, changes: dict[str, Any], prefix: str = '') -> Any:
  """Copies a config with changed leaves; runs every `__post_init__`."""
  updates = {}
  for name, (kind, *_) in _hints(type(config)).items():
    path = prefix + name
    if dataclasses.is_dataclass(kind):
      updates[name] = _replace(getattr(config, name), changes, f'{path}.')
    elif path in changes:
      updates[name] = changes[path]
  try:
    return dataclasses.replace(config, **updates)
  except ValueError as error:
    where = f'{prefix[:-1]}: ' if prefix else ''
    raise ValueError(where + _one_line(error)) from error


def parse_flags(
  default_config: _T, flag_values: flags.FlagValues = flags.FLAGS
) -> _T:
  """Builds a config from parsed flags; takes what `define_flags` took.

  Values come, later ones winning, from `default_config`, from the file that
  `--config` names, and from the flags that were given.

  Raises:
    flags.IllegalFlagValueError: A one-line message: a `__post_init__` refused
      the values, a URL cannot be used, or the `--config` file does not fit.
  """
  _check_config(default_config, 'parse_flags')
  base = default_config
  try:
    if flag_values['config'].value is not None:
      base = load(type(default_config), flag_values['config'].value)
    given = {
      field.name: flag_values[field.name].value
      for field in _leaves(base)
      if not flag_values[field.name].using_default_value
    }
    config = _replace(base, given)
    for field in _leaves(config):
      if isinstance(field.value, str):
        paths.check(field.value, field.name, field.takes)
    return typing.cast(_T, config)
  except ValueError as error:
    raise flags.IllegalFlagValueError(_one_line(error)) from error


def to_dict(config: Any) -> dict[str, Any]:
  """Returns a config as nested dicts of JSON types; enums by member name."""
  _check_config(config, 'to_dict')
  return {
    name: to_dict(getattr(config, name))
    if dataclasses.is_dataclass(kind)
    else values.to_json(getattr(config, name))
    for name, (kind, *_) in _hints(type(config)).items()
  }


def values_of(config: Any) -> dict[str, Any]:
  """JSON values of a config and of the configs in it, by dotted name."""
  found = {leaf.name: values.to_json(leaf.value) for leaf in _leaves(config)}
  return json.loads(json.dumps(found))  # Lists where there were tuples.


def from_dict(config_class: type[_T], data: Any, prefix: str = '') -> _T:
  """Builds a config from what `to_dict` returned.

  `prefix` is the dotted name of this config in an outer one, for messages.

  Raises:
    ValueError: A key is unknown or missing or a value has a wrong type; names
      it. Or `__post_init__` refused the values.
  """
  hints = _hints(config_class)
  if not isinstance(data, dict):
    raise ValueError(
      f'{prefix[:-1] or "config"} must be an object of fields; got {data!r}.'
    )
  unknown = [f'{prefix}{key}' for key in data if key not in hints]
  missing = [f'{prefix}{name}' for name in hints if name not in data]
  if unknown or missing:
    problems = []
    if unknown:
      problems.append(f'unknown: {", ".join(unknown)}')
    if missing:
      problems.append(f'missing: {", ".join(missing)}')
    raise ValueError(
      f'keys do not fit {config_class.__name__}; {"; ".join(problems)}. It was'
      ' saved by another job or another version.'
    )
  arguments = {
    name: from_dict(kind, data[name], f'{prefix}{name}.')
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    else values.from_json(kind, data[name], prefix + name)
    for name, (kind, *_) in hints.items()
  }
  return config_class(**arguments)


def _git(*arguments: str) -> str | None:
  """Output of a git command on the folder of this file; None if it fails."""
  folder = pathlib.Path(__file__).parent
  try:
    done = subprocess.run(
      ['git', '-C', str(folder), *arguments],
      capture_output=True,
      text=True,
      timeout=30,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()


def git_revision() -> dict[str, Any] | None:
  """Returns {'revision', 'dirty'} of antjax's checkout; None outside one.

  An antjax that is installed inside somebody else's repository (a .venv folder)
  is outside: that repository's revision says nothing about this code.
  """
  if _git('ls-files', '--error-unmatch', pathlib.Path(__file__).name) is None:
    return None
  revision = _git('rev-parse', 'HEAD')
  status = _git('status', '--porcelain')
  if revision is None or status is None:
    return None
  return {'revision': revision, 'dirty': bool(status)}


def _version() -> str | None:
  try:
    return importlib.metadata.version('antjax')
  except importlib.metadata.PackageNotFoundError:
    return None  # Imported from a checkout that is not installed.


def _config_text(text: str) -> str | None:
  """The config in the text of a config.json; None if it is none."""
  try:
    return json.dumps(json.loads(text)['config'])
  except (ValueError, KeyError, TypeError):
    return None


def save(config: Any, run_dir: str | os.PathLike[str]) -> pathlib.Path:
  """Writes what is run to `<run_dir>/config.json`, in one atomic step.

  The file holds the resolved config, the command line, the antjax version and
  the git revision. An earlier file with another config is kept as
  `config.<n>.json`, the first as n = 0; nothing is written over. Makes the
  folder if it is missing; returns the path of the file.
  """
  folder = paths.local(run_dir, 'run_dir')
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / FILE_NAME
  record = {
    'config': to_dict(config),
    'argv': list(sys.argv),
    'antjax_version': _version(),
    'git': git_revision(),
  }
  if path.exists():
    earlier = _config_text(path.read_text(encoding='utf-8'))
    if earlier != json.dumps(record['config']):
      n = 0
      while (folder / f'config.{n}.json').exists():
        n += 1
      shutil.copyfile(path, folder / f'config.{n}.json')
  with paths.replaced(path, is_durable=True) as new:
    new.write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')
  return path


def _complete(data: Any, defaults: dict[str, Any], where: str) -> None:
  """Gives `data` the defaults of fields that it lacks, and logs them."""
  for name, value in defaults.items() if isinstance(data, dict) else ():
    if name not in data:
      logging.warning('%s%s, a newer field: it is %r.', where, name, value)
      data[name] = value
    elif isinstance(value, dict):
      _complete(data[name], value, f'{where}{name}.')


def load(
  config_class: type[_T],
  path: str | os.PathLike[str],
  *,
  may_lack_fields: bool = False,
) -> _T:
  """Reads the config that `save` wrote, of the file or its folder.

  With `may_lack_fields` those that an older version did not have take their
  defaults, which are logged.

  Raises:
    ValueError: No such file, no JSON, or its keys or values do not fit the
      class; names them.
  """
  file = paths.fetched(path, 'config')
  if file.is_dir():
    file = file / FILE_NAME
  try:
    record = json.loads(file.read_text(encoding='utf-8'))
  except OSError as error:
    raise ValueError(
      f'{file}: cannot read the config: {error.strerror}; give the'
      f' {FILE_NAME} that a run wrote into its folder.'
    ) from error
  except ValueError as error:
    raise ValueError(f'{file}: is not a JSON file: {error}') from error
  if not isinstance(record, dict) or 'config' not in record:
    raise ValueError(
      f"{file}: has no key 'config'; give the {FILE_NAME} that a run wrote into"
      ' its folder.'
    )
  try:
    if may_lack_fields:
      _complete(record['config'], to_dict(config_class()), f'{file} lacks ')
    return from_dict(config_class, record['config'])
  except ValueError as error:
    raise ValueError(f'{file}: {_one_line(error)}') from error
