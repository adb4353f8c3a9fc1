# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning of recommenders (G-Meta): episodes, MAML, models, scores."""
