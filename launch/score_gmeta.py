# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a file of task records, or one new user, with an exported model."""

from antjax.jobs import script
from antjax.jobs.gmeta.score import Config, main

if __name__ == '__main__':
  script.run(main, Config())
