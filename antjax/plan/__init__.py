# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Plans of memory and time, and checks of compiled steps against them."""
