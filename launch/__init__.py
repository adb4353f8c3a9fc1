# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Entry points of the jobs: `python -m launch.<job> --help`."""
