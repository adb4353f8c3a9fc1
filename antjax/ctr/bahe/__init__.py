# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BAHE: click models on long textual behavior, with a cached low half."""
