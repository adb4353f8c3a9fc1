# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The wheel: builds, installs into an empty environment, imports, is typed."""

import configparser
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

from antjax.jobs import console

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _run(*command: object, cwd: pathlib.Path) -> str:
  done = subprocess.run(
    [str(part) for part in command],
    cwd=cwd,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Builds from a copy, so that the checkout stays as it is."""
  source = tmp_path_factory.mktemp('source') / 'antjax'
  source.mkdir()
  for name in (
    'LICENSE',
    'README.md',
    'MANIFEST.in',
    'pyproject.toml',
    'setup.cfg',
  ):
    shutil.copy(_ROOT / name, source)
  for name in ('antjax', 'launch', 'benchmarks', 'tests'):
    ignore = shutil.ignore_patterns('__pycache__')
    shutil.copytree(_ROOT / name, source / name, ignore=ignore)
  _run(
    sys.executable,
    '-m',
    'build',
    '--wheel',
    '--no-isolation',
    '--outdir=dist',
    cwd=source,
  )
  (path,) = (source / 'dist').glob('*.whl')
  return path


def test_wheel_holds_the_library_and_its_types_only(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  folders = {name.split('/')[0] for name in names}
  assert folders == {
    'antjax',
    next(name for name in folders if name.endswith('.dist-info')),
  }
  assert 'antjax/py.typed' in names
  sources = {
    path.relative_to(_ROOT).as_posix()
    for path in (_ROOT / 'antjax').rglob('*.py')
  }
  assert {name for name in names if name.endswith('.py')} == sources
  assert any(name.endswith('licenses/LICENSE') for name in names)
  shipped = {
    f'antjax/jobs/{path.parent.name}/{path.name}'
    for folder in ('dashboards', 'manifests', 'recipes', 'schemas')
    for path in (_ROOT / 'launch' / folder).iterdir()
  }
  assert len(shipped) > 8 and shipped <= set(names)


def test_wheel_states_requirements_and_extras(wheel):
  archive = zipfile.ZipFile(wheel)
  (name,) = (n for n in archive.namelist() if n.endswith('/METADATA'))
  metadata = archive.read(name).decode()
  assert 'Requires-Python: >=3.11' in metadata
  assert 'Requires-Dist: jax>=0.10.2\n' in metadata
  for extra in ('cuda12', 'cuda13', 'tpu', 'spark', 'bench'):
    assert f'Provides-Extra: {extra}\n' in metadata


def test_console_commands_are_the_scripts_of_launch(wheel):
  archive = zipfile.ZipFile(wheel)
  (name,) = (n for n in archive.namelist() if n.endswith('/entry_points.txt'))
  parser = configparser.ConfigParser()
  parser.read_string(archive.read(name).decode())
  stated = {
    command.removeprefix('antjax-') for command in parser['console_scripts']
  }
  scripts = {
    path.stem.replace('_', '-')
    for path in (_ROOT / 'launch').glob('*.py')
    if path.stem != '__init__'
  }
  assert stated == scripts == set(console.COMMANDS)


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
  """Interpreter of an environment that holds the wheel and nothing else."""
  folder = tmp_path_factory.mktemp('env')
  venv.create(folder, with_pip=False)
  path = folder / 'bin' / 'python'
  _run(
    sys.executable,
    '-m',
    'pip',
    f'--python={path}',
    'install',
    '--no-deps',
    '--no-index',
    '--quiet',
    wheel,
    cwd=folder,
  )
  return path


def test_wheel_imports_in_an_empty_environment(python, tmp_path):
  # What antjax requires is big; lend it this environment's, behind its own, and
  # without the .pth files that lead to the checkout.
  required = next(
    path for path in map(pathlib.Path, sys.path) if (path / 'jax').is_dir()
  )
  code = (
    'import pathlib, sys\n'
    f'sys.path.append({str(required)!r})\n'
    'import antjax\n'
    'from antjax import config\n'
    'for name in antjax.__all__: getattr(antjax, name)\n'
    'here = pathlib.Path(antjax.__file__)\n'
    f'assert here.is_relative_to({str(python.parents[1])!r}), here\n'
    "assert not any('launch' in name.split('.') for name in sys.modules)\n"
  )
  _run(python, '-I', '-c', code, cwd=tmp_path)


def test_a_command_explains_itself(python, tmp_path):
  required = next(
    path for path in map(pathlib.Path, sys.path) if (path / 'jax').is_dir()
  )
  command = python.with_name('antjax-prepare-text')
  done = subprocess.run(
    [python, command, '--help'],
    cwd=tmp_path,
    env={'PYTHONPATH': str(required)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert 'Prepares texts' in done.stdout, done.stderr
  assert '--source' in done.stdout


def test_a_type_checker_takes_the_types_of_the_installed_wheel(
  python, tmp_path
):
  script = tmp_path / 'user.py'
  script.write_text(
    'from antjax import config\nreveal_type(config.to_dict(1))\n'
  )
  said = _run(
    sys.executable,
    '-m',
    'mypy',
    f'--python-executable={python}',
    '--cache-dir=cache',
    '--ignore-missing-imports',
    'user.py',
    cwd=tmp_path,
  )
  assert 'Revealed type is "dict[str, Any]"' in said.replace('builtins.', '')
