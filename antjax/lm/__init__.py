# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Language models: one transformer, pretrained weights, and generation."""
