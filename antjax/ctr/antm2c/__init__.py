# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntM2C: clicks of several scenarios, with texts and images."""
