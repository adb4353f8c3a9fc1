# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training step, the loop around it, checkpoints and metrics."""
