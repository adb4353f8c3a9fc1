# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Embedding tables sharded by rows over devices, with exact row gradients."""
