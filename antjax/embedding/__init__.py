# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Embedding tables split by rows over devices, with true row gradients."""
