# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes synthetic click logs in the format of AntM2C's files."""

from antjax.jobs import script
from antjax.jobs.clicks.make_synthetic import Config, main

if __name__ == '__main__':
  script.run(main, Config())
