# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What records are, how they are prepared, stored and read."""
