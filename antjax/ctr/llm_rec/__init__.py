# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LLM-Rec: one language model for the sequences of every domain."""
