# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Predicts the best PaRO code for a model and a cluster, from shapes alone."""

from antjax.jobs import job as job_lib
from antjax.jobs.plan import Config, main

if __name__ == '__main__':
  job_lib.run(main, Config())
