# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""docs/antm2c.md: its code, flags, columns and schema files."""

import pathlib
import re

import numpy as np

from antjax.data import (
  antm2c_synthetic,
  event_antm2c,
  strict_columns,
  text_reader,
)
from antjax.jobs import prepare_data
from antjax.jobs.clicks import encode_images
from antjax.jobs.clicks import make_synthetic as make_antm2c_synthetic

_ROOT = pathlib.Path(__file__).parents[2]
_TEXT = (_ROOT / 'docs' / 'antm2c.md').read_text(encoding='utf-8')
_CODE = re.findall(r'```python\n(.*?)```', _TEXT, re.S)


def _has(config, name):
  for part in name.split('.'):
    if not hasattr(config, part):
      return False
    config = getattr(config, part)
  return True


def test_flags_of_data_exist():
  configs = (
    prepare_data.Config(),
    encode_images.Config(),
    make_antm2c_synthetic.Config(),
  )
  # How to train is another page's; here is a command alone.
  before, _, rest = _TEXT.partition('## Train')
  data = before + rest.partition('\n## ')[2]
  named = {*re.findall(r'--([a-z_][a-z0-9_.]+)', data)}
  assert len(named) > 10
  prefixes = ('antm2c', 'examples', 'synthetic', 'splitter')
  for name in named:
    if '.' in name:
      assert name.split('.')[0] in prefixes
    assert any(_has(config, name) for config in configs), name


def test_the_encoder_shown_is_one():
  found = {}
  exec(_CODE[0], found)
  images = np.full((3, 4, 4, 3), 255, np.uint8)
  np.testing.assert_array_equal(found['encode'](images), np.ones((3, 3)))


def test_columns_reasons_and_weights_are_those_of_the_code():
  shown = {*re.findall(r'`(\w+)`', _TEXT)}
  fixed = [c for c in event_antm2c.COLUMNS if not c.startswith('deep')]
  assert {*fixed, *event_antm2c.SEQUENCES, event_antm2c.CLICKED} <= shown
  source = ''.join(
    pathlib.Path(module.__file__).read_text()
    for module in (text_reader, strict_columns)
  )
  table = _TEXT.partition('| reason |')[2].partition('\n\n')[0]
  reasons = re.findall(r'^\| `(\w+)`', table, re.M)
  assert len(reasons) == 7
  for reason in reasons:
    assert f"'{reason}'" in source
  table = _TEXT.partition('| weight |')[2].partition('\n\n')[0]
  weights = re.findall(r'\| `(\w+)` \|$', table, re.M)
  synthetic = antm2c_synthetic.SyntheticConfig()
  assert len(weights) == 6 and all(hasattr(synthetic, w) for w in weights)


def test_all_schema_files_are_named():
  table = _TEXT.partition('| schema |')[2]
  named = {*re.findall(r'`(\w+)`', table)} - {'random', 'tab', '301'}
  files = {p.stem for p in (_ROOT / 'launch' / 'schemas').iterdir()}
  assert named == files
