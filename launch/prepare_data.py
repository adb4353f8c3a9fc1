# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares a data set: its events, and the views of them that jobs read."""

from antjax.jobs import script
from antjax.jobs.prepare_data import Config, main

if __name__ == '__main__':
  script.run(main, Config())
