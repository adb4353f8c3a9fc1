# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and what: the rules of the house, from the sources.

launch -> jobs -> serving | plan, report -> meta | ctr
  -> lm, layers, embedding, train -> metrics, collectives -> mesh
  jobs -> data, elastic -> shards         config: a leaf anyone may use
"""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests import source_tree

# package -> the antjax packages it may import beside itself and config.
_LOW = {'collectives', 'mesh', 'metrics'}
_MIDDLE = _LOW | {'embedding', 'layers', 'lm', 'train'}
_OUTSIDE = {'shards', 'data', 'elastic'}
_TOOLS = {'plan', 'report'}
_ALLOWED = {
  'collectives': {'mesh'},
  'config': set(),
  'config_values': set(),
  'ctr': _MIDDLE,
  'data': {'shards'},
  'elastic': {'shards'},
  'embedding': _LOW,
  'jobs': _MIDDLE | _OUTSIDE | _TOOLS | {'ctr', 'meta', 'serving'},
  'layers': _LOW,
  'lm': _LOW | {'layers'},
  'mesh': set(),
  'meta': _MIDDLE,
  'metrics': set(),
  'plan': _MIDDLE | {'report'},
  'report': _MIDDLE,
  'serving': _MIDDLE | {'meta', 'ctr'},
  'shards': set(),
  # The step looks rows up and pushes their gradients.
  'train': _LOW | {'embedding'},
}
_LEAVES = {'config', 'config_values'}
# They run on a small host; importing grain pulls in jax.
_WITHOUT_JAX = (
  'antjax.elastic',
  'antjax.shards.data_shard',
  'antjax.shards.journal',
  'antjax.shards.record_source',
)
_FORBIDDEN_THERE = {'flax', 'grain', 'jax', 'jaxlib', 'optax', 'orbax'}


def _where(path, line, root):
  return f'{path.relative_to(root)}:{line}'


def layer_violations(root: pathlib.Path) -> list[str]:
  """Imports of antjax that point left, or out of the library."""
  found = []
  for path in (root / 'antjax').rglob('*.py'):
    parts = source_tree.module_name(path, root).split('.')
    if len(parts) == 1:
      continue  # antjax/__init__.py: the public names.
    for item in source_tree.imports(path, root):
      top, *rest = item.module.split('.')
      if top in ('launch', 'tests', 'benchmarks'):
        other = top
      elif top == 'antjax':
        other = rest[0] if rest else 'antjax/__init__.py'
      else:
        continue
      allowed = _ALLOWED.get(parts[1], set()) | {parts[1]} | _LEAVES
      if other not in allowed:
        found.append(
          f'{_where(path, item.line, root)}: {parts[1]} may not import {other}'
        )
  return found


def third_party_violations(root: pathlib.Path) -> list[str]:
  """Imports of packages that setup.cfg does not require."""
  extras = {
    'antjax': ['spark', 'search'],
    'launch': [],
    'benchmarks': ['bench', 'bench_tables', 'bench_fuxictr'],
    'tests': ['dev', 'bench', 'bench_tables', 'bench_fuxictr'],
  }
  found = []
  for path in source_tree.python_files(root):
    folder = path.relative_to(root).parts[0]
    known = {*source_tree.requirements(*extras[folder]), *source_tree.FOLDERS}
    for item in source_tree.imports(path, root):
      if item.module.split('.')[0] not in known:
        found.append(
          f'{_where(path, item.line, root)}: {item.module} is not required in'
          ' setup.cfg'
        )
  return found


def environment_violations(root: pathlib.Path) -> list[str]:
  """Uses of environment variables in the library: its callers pass values."""
  found = []
  for path in (root / 'antjax').rglob('*.py'):
    if path.relative_to(root).parts[1] == 'jobs':
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Attribute):
        names = [node.attr]
      elif isinstance(node, ast.ImportFrom) and node.module == 'os':
        names = [alias.name for alias in node.names]
      if {'environ', 'environb', 'getenv', 'putenv'} & set(names):
        found.append(
          f'{_where(path, node.lineno, root)}: environment variables are read'
          ' in jobs/ only'
        )
  return found


def jax_violations(root: pathlib.Path) -> list[str]:
  """Chains of imports from a module without jax to jax, grain and the like."""
  found = []
  for start in source_tree.python_files(root):
    name = source_tree.module_name(start, root)
    if not any(f'{name}.'.startswith(f'{one}.') for one in _WITHOUT_JAX):
      continue
    chains, seen = [(name,)], {name}
    while chains:
      chain = chains.pop()
      parents = chain[-1].split('.')
      following = ['.'.join(parents[:n]) for n in range(1, len(parents))]
      path = source_tree.module_path(chain[-1], root)
      if path is not None:
        following += [
          item.module
          for item in source_tree.imports(path, root)
          if item.at_import_time
        ]
      for module in following:
        if module.split('.')[0] in _FORBIDDEN_THERE:
          found.append(f'{" -> ".join(chain)} imports {module}')
        elif module.startswith('antjax') and module not in seen:
          seen.add(module)
          chains.append((*chain, module))
  return found


@pytest.mark.parametrize(
  'rule',
  [
    layer_violations,
    third_party_violations,
    environment_violations,
    jax_violations,
  ],
)
def test_rule_holds(rule):
  assert not rule(source_tree.ROOT)


def test_the_rules_know_every_package():
  packages = {
    path.parent.name
    for path in (source_tree.ROOT / 'antjax').glob('*/__init__.py')
  }
  assert packages and packages <= set(_ALLOWED)


@pytest.mark.parametrize(
  'rule, file, text, message',
  [
    (
      layer_violations,
      'antjax/mesh/a.py',
      'def f():\n  from antjax.train import step\n',
      'antjax/mesh/a.py:2: mesh may not import train',
    ),
    (
      layer_violations,
      'antjax/ctr/a.py',
      'import antjax.meta.maml',
      'antjax/ctr/a.py:1: ctr may not import meta',
    ),
    (
      layer_violations,
      'antjax/train/a.py',
      'from antjax import input',
      'antjax/train/a.py:1: train may not import antjax/__init__.py',
    ),
    (
      layer_violations,
      'antjax/meta/a.py',
      'from launch import common',
      'antjax/meta/a.py:1: meta may not import launch',
    ),
    (
      third_party_violations,
      'antjax/lm/a.py',
      'import torch.nn',
      'antjax/lm/a.py:1: torch.nn is not required in setup.cfg',
    ),
    (
      third_party_violations,
      'launch/a.py',
      'import pytest',
      'launch/a.py:1: pytest is not required in setup.cfg',
    ),
    (
      environment_violations,
      'antjax/lm/a.py',
      'import os\nx = os.environ["X"]',
      'antjax/lm/a.py:2: environment variables are read in jobs/ only',
    ),
    (
      environment_violations,
      'antjax/lm/a.py',
      'from os import getenv',
      'antjax/lm/a.py:1: environment variables are read in jobs/ only',
    ),
    (
      jax_violations,
      'antjax/shards/data_shard.py',
      'import jax.numpy as jnp',
      'antjax.shards.data_shard imports jax.numpy',
    ),
  ],
)
def test_rule_catches_a_violation(tmp_path, rule, file, text, message):
  path = tmp_path / file
  path.parent.mkdir(parents=True)
  path.write_text(text)
  assert rule(tmp_path) == [message]


def test_a_chain_of_imports_is_followed(tmp_path):
  folder = tmp_path / 'antjax' / 'shards'
  folder.mkdir(parents=True)
  (folder / 'data_shard.py').write_text('from antjax.shards import other\n')
  (folder / 'other.py').write_text(
    'from typing import TYPE_CHECKING\n'
    'if TYPE_CHECKING:\n  import flax\n'
    'import grain\n'
  )
  assert jax_violations(tmp_path) == [
    'antjax.shards.data_shard -> antjax.shards.other imports grain'
  ]
  # Importing a module runs the packages around it.
  (folder / 'other.py').write_text('')
  (tmp_path / 'antjax' / '__init__.py').write_text('import jax\n')
  assert jax_violations(tmp_path) == [
    'antjax.shards.data_shard -> antjax imports jax'
  ]


def test_the_ledger_runs_without_jax():
  code = (
    'import sys, antjax.shards.data_shard\n'
    f'found = {_FORBIDDEN_THERE!r} & set(sys.modules)\n'
    'assert not found, found\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=source_tree.ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr


if __name__ == '__main__':
  raise SystemExit(pytest.main([__file__]))
