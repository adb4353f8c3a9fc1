# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntDT: the coordinator of data shards, speed and failures, and its agents."""
