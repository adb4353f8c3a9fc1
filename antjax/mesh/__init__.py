# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The two-level mesh, PaRO levels and shardings."""
