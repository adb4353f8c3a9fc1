# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads this repository's own sources, for the tests of its rules."""

import ast
from collections.abc import Iterator
import configparser
import dataclasses
import functools
import pathlib
import re
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ('antjax', 'benchmarks', 'examples', 'launch', 'tests')

# Where the name to import is not the name to install.
_IMPORT_NAMES = {
  'fbgemm-gpu-cpu': ['fbgemm_gpu'],
  'absl-py': ['absl'],
  'array-record': ['array_record'],
  'grpcio': ['grpc'],
  'grpcio-tools': ['grpc_tools'],
  'ibis-framework': ['ibis', 'duckdb'],  # With its extra duckdb.
  'orbax-checkpoint': ['orbax'],
  'protobuf': ['google'],
  'pytest-xdist': ['xdist'],
  'pillow': ['PIL'],
  'pyyaml': ['yaml'],
  'tensorboardx': ['tensorboardX'],
}


@dataclasses.dataclass(frozen=True)
class Import:
  """One imported module: 'antjax.mesh.mesh', 'jax', ...

  Attributes:
    module: Full name; of `from a import b` it is a.b if that is a module.
    line: Line of the statement.
    at_import_time: False inside a function and under TYPE_CHECKING.
    is_for_types: Whether it stands under TYPE_CHECKING.
  """

  module: str
  line: int
  at_import_time: bool
  is_for_types: bool = False


def python_files(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
  """Returns the .py files of the repository, sorted."""
  return sorted(
    path
    for folder in FOLDERS
    for path in (root / folder).rglob('*.py')
    if '__pycache__' not in path.parts
  )


def module_name(path: pathlib.Path, root: pathlib.Path = ROOT) -> str:
  """antjax/mesh/mesh.py -> antjax.mesh.mesh; a package is its folder."""
  parts = path.relative_to(root).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def module_path(module: str, root: pathlib.Path = ROOT) -> pathlib.Path | None:
  """The file of one of our modules; None if there is none."""
  path = root.joinpath(*module.split('.'))
  for candidate in (path.with_suffix('.py'), path / '__init__.py'):
    if candidate.is_file():
      return candidate
  return None


def _statements(
  node: ast.AST, at_import_time: bool, is_for_types: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.expr) and not isinstance(child, ast.Lambda):
      continue  # No statement is in there.
    now, types = at_import_time, is_for_types
    if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
      now = False
    elif isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.unparse(
      child.test
    ):
      now, types = False, True
    if isinstance(child, (ast.Import, ast.ImportFrom)):
      yield child, now, types
    yield from _statements(child, now, types)


@functools.cache
def parsed(text: str) -> ast.Module:
  """The syntax tree of a source text; several rules read the same files."""
  return ast.parse(text)


@functools.cache
def _all_statements(text: str) -> list[tuple[Any, bool, bool]]:
  return list(_statements(parsed(text), True))


def imports(path: pathlib.Path, root: pathlib.Path = ROOT) -> list[Import]:
  """Returns what a file imports, relative imports and stdlib left out."""
  found = []
  for node, now, types in _all_statements(path.read_text()):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif node.level == 0 and node.module:
      names = []
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        is_module = module_path(full, root) is not None
        names.append(full if is_module else node.module)
    else:
      names = []
    found += [
      Import(name, node.lineno, now, types)
      for name in dict.fromkeys(names)
      if name.split('.')[0] not in sys.stdlib_module_names
    ]
  return found


@functools.cache
def requirements(*extras: str) -> dict[str, str]:
  """Top-level import name -> distribution, of setup.cfg and given extras."""
  parser = configparser.ConfigParser()
  parser.read(ROOT / 'setup.cfg')
  lines = parser['options']['install_requires'].splitlines()
  for extra in extras:
    lines += parser['options.extras_require'][extra].splitlines()
  result = {}
  for line in lines:
    line = line.split('#')[0].strip()
    if not line:
      continue
    name = re.split(r'[\s<>=!~\[]', line)[0]
    key = name.lower().replace('_', '-')
    for imported in _IMPORT_NAMES.get(key, [key.replace('-', '_')]):
      distribution = 'duckdb' if imported == 'duckdb' else name
      result[imported] = distribution
  return result
