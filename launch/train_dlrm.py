# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a DLRM in MLPerf's form: train_clicks.py with other defaults."""

from antjax.jobs import job as job_lib
from antjax.jobs.clicks.dlrm import Config, main

if __name__ == '__main__':
  job_lib.run(main, Config())
