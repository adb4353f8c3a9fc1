# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains many click models on one data set, into one table."""

from antjax.jobs import job as job_lib
from antjax.jobs.clicks.benchmark import Config, main

if __name__ == '__main__':
  job_lib.run(main, Config())
