# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The jobs that the scripts in launch/ and the console commands run."""
