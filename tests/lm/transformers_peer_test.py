# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Distances in classes, as `transformers` has them."""

import numpy as np
import pytest

from antjax.lm import positions

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def torch():
  pytest.importorskip('transformers', reason='peers: requirements-bench.txt')
  return pytest.importorskip('torch', reason='peers: requirements-bench.txt')


@pytest.mark.parametrize('is_bidirectional', [True, False])
def test_classes_of_distances_are_theirs(is_bidirectional, torch):
  from transformers.models.t5.modeling_t5 import T5Attention

  for num, longest in ((32, 128), (8, 12), (32, 100), (64, 512), (320, 800)):
    offsets = np.arange(-longest - 50, longest + 51)
    theirs = T5Attention._relative_position_bucket(
      torch.from_numpy(offsets), is_bidirectional, num, longest
    ).numpy()
    half = num // 2 if is_bidirectional else num
    classes = positions.distance_classes(half, longest)
    distances = np.abs(offsets) if is_bidirectional else np.maximum(-offsets, 0)
    ours = classes[np.minimum(distances, longest)]
    if is_bidirectional:
      ours = ours + half * (offsets > 0)
    np.testing.assert_array_equal(ours, theirs)
