# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares sequences over several domains for launch/train_llm_rec.py."""

from antjax.jobs import script
from antjax.jobs.prepare_sequences import Config, main

if __name__ == '__main__':
  script.run(main, Config())
