# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click networks: one interface and its implementations, by name."""
