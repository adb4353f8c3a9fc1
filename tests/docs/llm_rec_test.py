# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""docs/llm_rec.md: its code and its flags."""

import pathlib
import re
from typing import get_args

from antjax.data import datasets
from antjax.jobs.llm_rec import config as llm_rec_config
from tests.data import sequence_fixture

_TEXT = (pathlib.Path(__file__).parents[2] / 'docs' / 'llm_rec.md').read_text()


def _blocks(language):
  return re.findall(rf'```{language}\n(.*?)```', _TEXT, re.S)


def test_the_code_runs_as_shown(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  source = sequence_fixture.Log().write_amazon(tmp_path / 'amazon')
  sequence_fixture.prepare(source, 'data/ml-1m', k_core=0)
  for block in _blocks('python'):
    if 'SequenceData' in block or 'ranking' in block:
      exec(block, {})
      assert capsys.readouterr().out


def test_every_method_and_layout_is_told():
  for method in llm_rec_config.METHODS:
    assert f'`{method}`' in _TEXT
  for name in ('ml-1m', 'amazon-2018', 'food-kitchen'):
    assert f'`{name}`' in _TEXT
    assert name in get_args(datasets.Name)
