# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Encodes texts with a sentence encoder, on one host or several."""

from antjax.jobs import script
from antjax.jobs.encode import Config, define_flags, main

if __name__ == '__main__':
  script.run(main, Config(), define_flags)
