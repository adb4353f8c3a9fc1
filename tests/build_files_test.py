# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BUILD files say what the sources say; also their writer.

Each .py is in exactly one target, and its deps are its imports. Bazel need not
be here: a BUILD file parses as Python. After adding a file or an import:

  python -m tests.build_files_test --write
"""

import ast
import pathlib
import re
import sys

import pytest

from tests import source_tree

_HEADER = """\
# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""
_ROOT_BUILD = (
  _HEADER
  + """
exports_files([
    "LICENSE",
    "pyproject.toml",
    "requirements-bench-no-deps.txt",
    "requirements-bench.txt",
    "requirements-dev.txt",
    "requirements.txt",
    "setup.cfg",
])
"""
)
_MAIN = re.compile(r"^if __name__ == '__main__':", re.MULTILINE)
_MARK = re.compile(r'^\s*(?:@|pytestmark = )pytest\.mark\.(\w+)', re.MULTILINE)


def _label(path: pathlib.Path, package: pathlib.Path, root: pathlib.Path):
  folder = path.parent.relative_to(root).as_posix()
  where = '' if path.parent == package else f'//{folder}'
  return f'{where}:{path.stem}'


def expected_target(
  path: pathlib.Path, root: pathlib.Path
) -> dict[str, object]:
  """What the BUILD file must say about one source file."""
  text = path.read_text()
  is_test = path.name.endswith('_test.py')
  is_binary = bool(_MAIN.search(text)) and not is_test
  distributions = source_tree.requirements(
    'dev', 'bench', 'bench_tables', 'bench_fuxictr'
  )
  deps = set()
  for item in source_tree.imports(path, root):
    file = source_tree.module_path(item.module, root)
    top = item.module.split('.')[0]
    if file == path:
      continue
    elif file is not None:
      deps.add(_label(file, path.parent, root))
    elif top not in source_tree.FOLDERS:
      name = distributions.get(top, top).lower().replace('-', '_')
      deps.add(f'@pypi//{name}')
  conftest = root / 'tests' / 'conftest.py'
  if is_test and conftest.exists():
    deps.add(_label(conftest, path.parent, root))
  target: dict[str, object] = {
    'rule': 'py_test'
    if is_test
    else 'py_binary'
    if is_binary
    else 'py_library',
    'name': path.stem,
    'srcs': [path.name],
  }
  if is_test:
    tags = sorted(set(_MARK.findall(text)) & {'multiprocess', 'slow'})
    target['size'] = 'large' if 'slow' in tags else 'medium'
    if tags:
      target['tags'] = tags
  if deps:
    target['deps'] = sorted(deps)
  return target


def packages(root: pathlib.Path) -> dict[pathlib.Path, list[pathlib.Path]]:
  """Folder -> its source files."""
  result: dict[pathlib.Path, list[pathlib.Path]] = {}
  for path in source_tree.python_files(root):
    result.setdefault(path.parent, []).append(path)
  return result


def _format(value: object) -> str:
  if isinstance(value, str):
    return f'"{value}"'
  assert isinstance(value, list)
  if len(value) == 1:
    return f'["{value[0]}"]'
  return '[\n' + ''.join(f'        "{v}",\n' for v in value) + '    ]'


def build_text(files: list[pathlib.Path], root: pathlib.Path) -> str:
  """The BUILD file of one folder."""
  targets = [expected_target(path, root) for path in files]
  rules = sorted({str(target['rule']) for target in targets})
  loads = ', '.join(f'"{rule}"' for rule in rules)
  in_library = files[0].relative_to(root).parts[0] == 'antjax'
  visibility = '//visibility:public' if in_library else '//:__subpackages__'
  text = _HEADER + f'\nload("@rules_python//python:defs.bzl", {loads})\n'
  text += f'\npackage(default_visibility = ["{visibility}"])\n'
  for target in targets:
    text += f'\n{target["rule"]}(\n'
    for key, value in target.items():
      if key != 'rule':
        text += f'    {key} = {_format(value)},\n'
    if (
      target['srcs'] == ['__init__.py'] and (root / 'antjax') == files[0].parent
    ):
      text += '    data = ["py.typed"],\n'
    text += ')\n'
  return text


def problems(root: pathlib.Path) -> list[str]:
  """Everywhere a BUILD file and the sources disagree."""
  found = []
  for folder, files in packages(root).items():
    build = folder / 'BUILD'
    name = build.relative_to(root).as_posix()
    if not build.exists():
      found.append(f'{name}: is missing')
      continue
    targets = []
    for call in ast.walk(ast.parse(build.read_text())):
      if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
        if call.func.id.startswith('py_'):
          values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
          targets.append({'rule': call.func.id, **values})
    sources = [source for target in targets for source in target['srcs']]
    for source in sorted(set(sources) - {path.name for path in files}):
      found.append(f'{name}: {source} does not exist')
    for path in files:
      owners = [target for target in targets if path.name in target['srcs']]
      if len(owners) != 1:
        found.append(f'{name}: {path.name} is in {len(owners)} targets')
        continue
      for key, value in expected_target(path, root).items():
        actual = owners[0].get(key)
        if key == 'deps':
          for dep in sorted(set(value) - set(actual or [])):
            found.append(f'{name}: {path.stem} lacks the dep {dep}')
        elif actual != value:
          found.append(
            f'{name}: {path.stem} has {key} {actual!r}, not {value!r}'
          )
      unused = set(owners[0].get('deps', [])) - set(
        expected_target(path, root).get('deps', [])
      )
      for dep in sorted(unused):
        found.append(f'{name}: {path.stem} has the unused dep {dep}')
  for build in sorted(root.rglob('BUILD')):
    folder = build.parent
    ours = build.relative_to(root).parts[0] in source_tree.FOLDERS
    if ours and folder not in packages(root):
      found.append(f'{build.relative_to(root).as_posix()}: has no sources')
  return found


def write(root: pathlib.Path) -> None:
  """Writes all BUILD files, and the licence header where a source lacks it."""
  (root / 'BUILD').write_text(_ROOT_BUILD)
  for folder, files in packages(root).items():
    for path in files:
      if not path.read_text().startswith(_HEADER):
        path.write_text(_HEADER + path.read_text())
    (folder / 'BUILD').write_text(build_text(files, root))


def test_build_files_say_what_the_sources_say():
  hint = 'run: python -m tests.build_files_test --write'
  assert not problems(source_tree.ROOT), hint


def test_every_source_has_the_licence_header():
  assert not [
    str(path.relative_to(source_tree.ROOT))
    for path in source_tree.python_files()
    if not path.read_text().startswith(_HEADER)
  ]


@pytest.fixture
def tree(tmp_path):
  """A small repository whose BUILD files are right."""
  files = {
    'antjax/mesh/a.py': 'import jax\nfrom antjax.mesh import b\n',
    'antjax/mesh/b.py': '',
    'antjax/meta/c.py': 'def f():\n  import antjax.mesh.a as a\n',
    'launch/job.py': "import absl.app\nif __name__ == '__main__':\n  pass\n",
    'tests/conftest.py': '',
    'tests/mesh/a_test.py': '@pytest.mark.slow\ndef test(): pass\n',
  }
  for name, text in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_HEADER + text)
  write(tmp_path)
  return tmp_path


def test_what_write_writes_is_right(tree):
  assert not problems(tree)
  mesh = (tree / 'antjax' / 'mesh' / 'BUILD').read_text()
  assert 'deps = [\n        ":b",\n        "@pypi//jax",\n    ]' in mesh
  meta = (tree / 'antjax' / 'meta' / 'BUILD').read_text()
  assert 'deps = ["//antjax/mesh:a"]' in meta
  job = (tree / 'launch' / 'BUILD').read_text()
  assert 'py_binary(' in job and '"@pypi//absl_py"' in job
  test = (tree / 'tests' / 'mesh' / 'BUILD').read_text()
  assert 'tags = ["slow"]' in test and '"//tests:conftest"' in test


@pytest.mark.parametrize(
  'file, old, new, expected',
  [
    (
      'antjax/mesh/BUILD',
      '        ":b",\n',
      '',
      'antjax/mesh/BUILD: a lacks the dep :b',
    ),
    (
      'antjax/mesh/BUILD',
      '"@pypi//jax"',
      '"@pypi//jax", "@pypi//flax"',
      'antjax/mesh/BUILD: a has the unused dep @pypi//flax',
    ),
    (
      'antjax/mesh/BUILD',
      '"b.py"',
      '"z.py"',
      'antjax/mesh/BUILD: z.py does not exist',
    ),
    (
      'antjax/mesh/BUILD',
      '"b.py"',
      '"a.py"',
      'antjax/mesh/BUILD: a.py is in 2 targets',
    ),
    (
      'tests/mesh/BUILD',
      '"slow"',
      '"fast"',
      "tests/mesh/BUILD: a_test has tags ['fast'], not ['slow']",
    ),
    (
      'antjax/meta/c.py',
      'import antjax.mesh.a as a',
      'pass',
      'antjax/meta/BUILD: c has the unused dep //antjax/mesh:a',
    ),
  ],
)
def test_a_mistake_is_found(tree, file, old, new, expected):
  path = tree / file
  assert old in path.read_text()
  path.write_text(path.read_text().replace(old, new))
  assert expected in problems(tree)


def test_a_missing_and_an_empty_build_file_are_found(tree):
  (tree / 'antjax' / 'meta' / 'BUILD').unlink()
  (tree / 'antjax' / 'lm').mkdir()
  (tree / 'antjax' / 'lm' / 'BUILD').write_text('')
  assert problems(tree) == [
    'antjax/meta/BUILD: is missing',
    'antjax/lm/BUILD: has no sources',
  ]


if __name__ == '__main__':
  if sys.argv[1:] == ['--write']:
    write(source_tree.ROOT)
  else:
    raise SystemExit(pytest.main([__file__, *sys.argv[1:]]))
