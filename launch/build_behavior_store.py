# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Encodes all distinct behaviors with the low half of a language model."""

from antjax.jobs import script
from antjax.jobs.bahe.build_store import Config, main

if __name__ == '__main__':
  script.run(main, Config())
