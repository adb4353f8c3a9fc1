# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Main of every Bazel test: pytest on the files that it is given."""

import sys

import pytest

if __name__ == '__main__':
  sys.exit(pytest.main(['-p', 'no:cacheprovider', *sys.argv[1:]]))
