# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trained models as files that score without the code that trained them."""
