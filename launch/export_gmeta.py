# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports a model of train_gmeta for serving, or its changes as a delta."""

from antjax.jobs import script
from antjax.jobs.gmeta.export import Config, main

if __name__ == '__main__':
  script.run(main, Config())
