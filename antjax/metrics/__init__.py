# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics, each once, with their intervals."""
