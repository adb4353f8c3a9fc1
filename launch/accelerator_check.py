# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks antjax on these devices and compares its times with predictions."""

from antjax.jobs import job as job_lib
from antjax.jobs.accelerator_check import Config, main

if __name__ == '__main__':
  job_lib.run(main, Config())
