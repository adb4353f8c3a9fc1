# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of launch/accelerator_check.py."""
