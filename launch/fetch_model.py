# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Downloads a small pretrained model by package name."""

from antjax.jobs import script
from antjax.jobs.fetch_model import Config, main

if __name__ == '__main__':
  script.run(main, Config())
