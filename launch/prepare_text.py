# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares texts for launch/train_lm.py: a tokenizer, tokenized documents."""

from antjax.jobs import script
from antjax.jobs.lm.prepare_text import Config, main

if __name__ == '__main__':
  script.run(main, Config())
