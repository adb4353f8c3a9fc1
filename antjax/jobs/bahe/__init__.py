# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Clicks on long textual behavior."""
