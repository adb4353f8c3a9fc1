# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learns a rating or click model and scores it on cold-start tasks."""

from antjax.jobs import job as job_lib
from antjax.jobs.gmeta.config import Config
from antjax.jobs.gmeta.job import main

if __name__ == '__main__':
  job_lib.run(main, Config())
