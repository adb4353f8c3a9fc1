# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The notebooks run: on few made-up ratings, and whole in the slow tests.

What a notebook claims at its end it asserts, in both.
"""

import random
import re

import pytest

from tests import source_tree, warm_python
from tests.cases import slow_but
from tests.data import movielens_fixture

_PATHS = sorted((source_tree.ROOT / 'docs' / 'notebooks').glob('*.py'))
# The values of a notebook's cell of parameters that make it small.
_SMALL = {
  'custom_paro': {'NUM_STEPS, BATCH': '4, 64'},
  'dlrm': {'NUM_EXAMPLES, BATCH': '2048, 64', 'NUM_TESTS': '256'},
  'sequences': {'NUM_STEPS, BATCH': '25, 64', 'NUM_TESTS': '100'},
  'two_towers': {'NUM_STEPS, BATCH': '30, 256', 'NUM_TESTS': '200'},
}
# Other tests of `make test` train what the others do.
_FAST = [p for p in _PATHS if p.stem == 'two_towers']
_CELL = re.compile(
  r'^# %% tags=\["parameters"\]\n(.*?)^# %%', re.DOTALL | re.MULTILINE
)


class _Tastes(movielens_fixture.Fixture):
  """Users who watch films of one kind each, and like every other of them."""

  def __init__(self, num_users=300, num_items=60, num_kinds=4):
    super().__init__(num_users, num_items)
    rng = random.Random(1)
    self.ratings = []
    for user, *_ in self.users:
      kind = rng.randrange(num_kinds)
      films = rng.sample(range(kind + 1, num_items + 1, num_kinds), 12)
      times = sorted(rng.sample(range(978_000_000, 979_000_000), 12))
      self.ratings += [
        (user, film, 5 if film % 8 < 4 else 2, time)
        for film, time in zip(films, times)
      ]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('notebooks')
  _Tastes().write_original(folder / 'source')
  return folder


@pytest.mark.parametrize(
  'path', slow_but(_PATHS, *_FAST), ids=lambda path: path.stem
)
def test_a_small_notebook_runs(path, folder):
  text = path.read_text(encoding='utf-8')
  (cell,) = _CELL.findall(text)
  small = cell
  for name, value in {'SOURCE': "'source'", **_SMALL[path.stem]}.items():
    small, count = re.subn(
      rf'^{name} = .*?$', f'{name} = {value}', small, flags=re.MULTILINE
    )
    assert count == 1, name
  script = folder / path.name
  script.write_text(text.replace(cell, small), encoding='utf-8')
  done = warm_python.run(script, cwd=folder)
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('path', _PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path_factory):
  folder = tmp_path_factory.getbasetemp() / 'notebooks_whole'
  folder.mkdir(exist_ok=True)
  done = warm_python.run(path, cwd=folder, timeout=900)
  assert done.returncode == 0, done.stderr
