# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes synthetic clicks in the forms of Criteo's and MLPerf's files."""

from antjax.jobs import script
from antjax.jobs.clicks.make_criteo import Config, main

if __name__ == '__main__':
  script.run(main, Config())
