# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Assignment of records to workers.

Import the modules themselves. All but `dataset` and `position` need neither jax
nor grain, so that a small host without accelerators can use them.
"""
