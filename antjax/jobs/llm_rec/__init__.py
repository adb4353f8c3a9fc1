# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequential recommendation with one language model, and its baselines."""
