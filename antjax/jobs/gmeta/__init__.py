# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning of DLRMs: training, scores, export."""
