# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Recommends items for titles with an export of launch/train_llm_rec.py."""

from antjax.jobs import script
from antjax.jobs.llm_rec.recommend import Config, define_flags, main

if __name__ == '__main__':
  script.run(main, Config(), define_flags)
