# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What train_lm measures of the machine."""

import numpy as np
import pytest

from antjax.jobs import speed as lm_speed


def test_measures_speed_and_memory():
  assert 0 < lm_speed.matmul_flops(np.float32, size=64) < 1e15
  assert lm_speed.peak_bytes()['process'] > 2**20


if __name__ == '__main__':
  raise SystemExit(pytest.main([__file__]))
