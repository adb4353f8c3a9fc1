# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores new rows with a model of launch/train_clicks.py."""

from antjax.jobs import script
from antjax.jobs.clicks.score import Config, main

if __name__ == '__main__':
  script.run(main, Config())
