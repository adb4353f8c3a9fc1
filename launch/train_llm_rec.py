# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains LLM-Rec: one language model that recommends in all domains."""

from antjax.jobs import job as job_lib
from antjax.jobs.llm_rec.config import Config
from antjax.jobs.llm_rec.job import main

if __name__ == '__main__':
  job_lib.run(main, Config())
