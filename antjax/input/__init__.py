# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which records, on which worker, and how they are stored and read.

Import the modules: `data_shard`, `ledger_state` and `ledger_client` need
neither jax nor grain, so that a small host without accelerators can use them.
"""
