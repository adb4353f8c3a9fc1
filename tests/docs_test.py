# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the pages say is in a file, or is tested by a test, is there."""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = sorted((_ROOT / 'docs').rglob('*.md'))
_CODE = re.compile(r'`((?:\w+/)+\w+\.py)(?::([\w.]+))?`')
_TEST = re.compile(r'`(?:[\w/]*/)?(\w+_test)(?:\.py)?:(test_\w+)`')


def _file(path: str) -> pathlib.Path | None:
  """Pages name modules of antjax without its name."""
  found = (_ROOT / path, _ROOT / 'antjax' / path)
  return next((p for p in found if p.is_file()), None)


def _holds(path: pathlib.Path, name: str) -> bool:
  last = re.escape(name.split('.')[-1])
  text = path.read_text(encoding='utf-8')
  is_defined = rf'^\s*(?:def|class) {last}\b|^{last}\b'
  return re.search(is_defined, text, re.MULTILINE) is not None


@pytest.mark.parametrize('page', _PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
  text = page.read_text(encoding='utf-8')
  for path, name in _CODE.findall(text):
    file = _file(path)
    assert file is not None, path
    assert not name or _holds(file, name), f'{path}:{name}'
  for module, test in _TEST.findall(text):
    files = list((_ROOT / 'tests').rglob(f'{module}.py'))
    assert any(_holds(file, test) for file in files), f'{module}:{test}'


def test_a_name_that_is_not_there_is_seen():
  assert _file('train/no_such_module.py') is None
  assert not _holds(pathlib.Path(__file__), 'no_such_function')
  assert _holds(pathlib.Path(__file__), '_PAGES')
