# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a job on this machine as if on several hosts, one process per host."""

from antjax.jobs import local_cluster

if __name__ == '__main__':
  local_cluster.run()
