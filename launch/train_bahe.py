# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a click model on long textual behavior (BAHE), and its baselines."""

from antjax.jobs import job as job_lib
from antjax.jobs.bahe.config import Config
from antjax.jobs.bahe.job import main

if __name__ == '__main__':
  job_lib.run(main, Config())
