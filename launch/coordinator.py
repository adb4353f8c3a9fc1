# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the coordinator of elastic jobs, or asks a running one."""

from antjax.jobs import script
from antjax.jobs.coordinator import Config, main

if __name__ == '__main__':
  script.run(main, Config())
