# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiles a training step for TPUs or GPUs without having any."""

from antjax.jobs import job as job_lib
from antjax.jobs.compile_for_pod import Config, main

if __name__ == '__main__':
  job_lib.run(main, Config())
