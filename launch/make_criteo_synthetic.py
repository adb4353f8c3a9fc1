# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes synthetic clicks in the formats of Criteo and MLPerf."""

from antjax.jobs import script
from antjax.jobs.clicks.make_criteo import Config, main

if __name__ == '__main__':
  script.run(main, Config())
