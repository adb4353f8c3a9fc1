# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports of trained models that score without the training code."""
