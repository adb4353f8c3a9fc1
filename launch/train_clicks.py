# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a click model for several scenarios and scores each of them."""

from antjax.jobs import job as job_lib
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.job import main

if __name__ == '__main__':
  job_lib.run(main, Config())
