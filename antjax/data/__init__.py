# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Records: schemas, preparation, storage and reading."""
