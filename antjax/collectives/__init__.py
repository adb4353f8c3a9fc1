# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Collectives: pure functions to call inside `shard_map`."""
