# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click models for one or many scenarios."""
