# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where things live: the two-level mesh, PaRO levels, shardings."""
