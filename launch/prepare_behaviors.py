# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares a log of textual behaviour for launch/train_bahe.py."""

from antjax.jobs import script
from antjax.jobs.prepare_behaviors import Config, main

if __name__ == '__main__':
  script.run(main, Config())
