# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The BUILD files: one rule a room, deps as its sources import; their writer.

Bazel need not be here: a BUILD file parses as Python. After a room imports a
room or a package that it did not before:

  python -m tests.build_files_test --write
"""

import ast
import pathlib
import sys

import pytest

from tests import source_tree


def rooms(root: pathlib.Path) -> list[pathlib.Path]:
  """Folders with a BUILD file: a target holds all that lies below them."""
  found = []
  for top in source_tree.FOLDERS:
    found.append(root / top)
    if top in ('antjax', 'tests'):
      found += [p.parent for p in (root / top).glob('*/*.py')]
      found += [p.parents[1] for p in (root / top).glob('*/*/*.py')]
  return sorted(set(found))


def room_of(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
  """The folder whose target holds a source file."""
  parts = path.relative_to(root).parts
  depth = 2 if parts[0] in ('antjax', 'tests') and len(parts) > 2 else 1
  return root.joinpath(*parts[:depth])


def _label(room: pathlib.Path, root: pathlib.Path) -> str:
  return f'//{room.relative_to(root).as_posix()}'


def _sources(room: pathlib.Path, root: pathlib.Path) -> list[pathlib.Path]:
  return [p for p in sorted(room.rglob('*.py')) if room_of(p, root) == room]


def expected(room: pathlib.Path, root: pathlib.Path) -> list[str]:
  """The deps of a room's target: what its sources import, sorted."""
  if room == root / 'antjax':
    return []  # Its names come from all rooms, each when it is asked for.
  deps = set()
  for path in _sources(room, root):
    for item in source_tree.imports(path, root):
      file = source_tree.module_path(item.module, root)
      if file is not None:
        deps.add(_label(room_of(file, root), root))
  # The rules of room.bzl add the last two.
  return sorted(deps - {_label(room, root), '//antjax', '//tests'})


def _build_text(room: pathlib.Path, root: pathlib.Path) -> str:
  parts = room.relative_to(root).parts
  rule = 'test_room' if parts[0] == 'tests' else 'room'
  golden = room / 'golden'  # Files of any name, or none of their own.
  files = [p for p in room.rglob('*') if p.is_file()]
  suffixes = {p.suffix for p in files if golden not in p.parents}
  data = [f'**/*{s}' for s in sorted(suffixes - {'.py', '.pyc', ''})]
  stated = {
    'exclude': ['*/**'] if parts in (('antjax',), ('tests',)) else [],
    'data': ['golden/**'] * golden.is_dir() + data if len(parts) > 1 else [],
    'rooms': expected(room, root),
  }
  words = ''.join(
    f'    {name} = {_starlark(value)},\n'
    for name, value in stated.items()
    if value
  )
  return (
    f'load("//:room.bzl", "{rule}")\n\n'
    f'{rule}(\n    name = "{room.name}",\n{words})\n'
  ).replace('\n)\n\n', '\n)\n')


def _starlark(values: list[str]) -> str:
  """A list as buildifier formats it."""
  if len(values) == 1:
    return f'["{values[0]}"]'
  return '[\n' + ''.join(f'        "{v}",\n' for v in values) + '    ]'


def write(root: pathlib.Path) -> None:
  """Writes the BUILD file of each room."""
  for room in rooms(root):
    (room / 'BUILD').write_text(_build_text(room, root))


@pytest.mark.parametrize(
  'room', rooms(source_tree.ROOT), ids=lambda p: _label(p, source_tree.ROOT)
)
def test_deps_of_a_room_are_what_its_sources_import(room):
  tree = ast.parse((room / 'BUILD').read_text())
  rule = tree.body[-1].value
  stated = {word.arg: ast.literal_eval(word.value) for word in rule.keywords}
  assert stated['name'] == room.name
  assert stated.get('rooms', []) == expected(room, source_tree.ROOT), (
    'run python -m tests.build_files_test --write'
  )


def test_every_source_file_is_in_a_room_with_a_build_file():
  for path in source_tree.python_files():
    assert (room_of(path, source_tree.ROOT) / 'BUILD').is_file(), path


if __name__ == '__main__':
  if '--write' in sys.argv:
    write(source_tree.ROOT)
  else:
    raise SystemExit(pytest.main([__file__]))
