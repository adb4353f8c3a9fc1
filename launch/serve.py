# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Serves an exported model over HTTP, and over gRPC if it is asked for."""

from antjax.jobs import script
from antjax.jobs.serve import Config, main

if __name__ == '__main__':
  script.run(main, Config())
