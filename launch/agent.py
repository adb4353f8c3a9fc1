# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Supervises one host of an elastic job: starts and restarts its worker."""

from antjax.jobs import agent

if __name__ == '__main__':
  agent.run()
