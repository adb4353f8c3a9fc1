# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a causal language model on texts, from scratch or from another run."""

from antjax.jobs import job as job_lib
from antjax.jobs.lm.config import Config
from antjax.jobs.lm.job import main

if __name__ == '__main__':
  job_lib.run(main, Config())
