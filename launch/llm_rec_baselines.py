# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs baselines of LLM-Rec on the same held-out examples."""

from antjax.jobs import job as job_lib
from antjax.jobs.llm_rec.baselines import main
from antjax.jobs.llm_rec.config import BaselinesConfig

if __name__ == '__main__':
  job_lib.run(main, BaselinesConfig())
