# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds unnecessary traffic of a training step over slow links."""

from antjax.jobs import script
from antjax.jobs.lint_step import Config, main

if __name__ == '__main__':
  script.run(main, Config())
