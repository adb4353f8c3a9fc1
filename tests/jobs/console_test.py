# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Console commands, called as a module."""

import sys

from antjax.jobs import script
from tests import warm_python


def test_help_shows_the_commands_own_flags():
  done = warm_python.run(
    *('-m', 'antjax.jobs.console', 'apply-delta', '--help')
  )
  assert 'Makes a new export from an old one' in done.stdout
  assert '--delta' in done.stdout
  assert '--base' in done.stdout
  # As a user of the wheel calls it.
  assert 'antjax-apply-delta --base=' in done.stdout
  assert 'launch.' not in done.stdout


def test_a_command_is_named_once(monkeypatch):
  text = 'launch/prepare_data.py (antjax-prepare-data) writes it'
  assert script.as_called(text) == text
  monkeypatch.setattr(sys, 'argv', ['/bin/antjax-train-clicks'])
  assert script.as_called(text) == 'antjax-prepare-data writes it'
