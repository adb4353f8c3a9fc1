# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes a new export from an old one and the deltas after it."""

from antjax.jobs import script
from antjax.jobs.apply_delta import Config, main

if __name__ == '__main__':
  script.run(main, Config())
