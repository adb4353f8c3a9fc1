# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click prediction from long textual behavior."""
