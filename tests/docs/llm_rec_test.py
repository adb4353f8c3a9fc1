# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""docs/llm_rec.md: its flags."""

import pathlib
from typing import get_args

from antjax.data import datasets
from antjax.jobs.llm_rec import config as llm_rec_config

_TEXT = (pathlib.Path(__file__).parents[2] / 'docs' / 'llm_rec.md').read_text()


def test_every_method_and_layout_is_told():
  for method in llm_rec_config.METHODS:
    assert f'`{method}`' in _TEXT
  for name in ('ml-1m', 'amazon-2018', 'food-kitchen'):
    assert f'`{name}`' in _TEXT
    assert name in get_args(datasets.Name)
