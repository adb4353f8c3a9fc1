# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Encodes the images of items once, for models that take them as vectors."""

from antjax.jobs import script
from antjax.jobs.clicks.encode_images import Config, main

if __name__ == '__main__':
  script.run(main, Config())
