# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which records, on which worker.

Import the modules: all but `dataset` and `position` need neither jax nor grain,
so that a small host without accelerators can use them.
"""
