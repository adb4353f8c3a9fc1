# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/recipes: published settings of click models."""

import pathlib

from absl import flags
import pytest

from antjax import config as config_lib
from antjax.jobs.clicks.config import Config

_RECIPES = pathlib.Path(__file__).parents[2] / 'launch' / 'recipes'


def parse(path):
  """Parses a flagfile of launch/train_clicks.py."""
  values = flags.FlagValues()
  flags.DEFINE_string('flagfile', '', '', flag_values=values)
  config_lib.define_flags(Config(), values)
  values(['train_clicks', f'--flagfile={path}'])
  return config_lib.parse_flags(Config(), values)


@pytest.mark.parametrize('name', ['dcnv2', 'deepfm', 'finalmlp', 'masknet'])
def test_settings_of_bars(name):
  config = parse(_RECIPES / f'bars_{name}.flags')
  assert config.model == name
  assert (config.batch_size, config.fields.embedding_dim) == (4096, 10)
  # Their epoch; 1e-5 x the training rows.
  rows = 33_003_326
  assert config.evaluate_every == -(-rows // config.batch_size)
  assert config.fields.l2 == pytest.approx(1e-5 * rows, rel=1e-3)
