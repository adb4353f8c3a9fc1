# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics and their confidence intervals."""
