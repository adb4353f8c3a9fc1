# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Distinct positions on the host."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from antjax.embedding import routing


@pytest.fixture(params=['scratch', 'search'], autouse=True, scope='module')
def way(request):
  """With a table of indices, and by search as for the largest tables."""
  with pytest.MonkeyPatch.context() as patch:
    if request.param == 'search':
      patch.setattr(routing, '_MAX_SCRATCH', 0)
    yield


@given(st.lists(st.integers(-1, 30), max_size=40))
def test_distinct_positions_and_indices(values):
  positions = np.array(values, np.int32)
  unique, index = routing._unique(positions, 31)
  np.testing.assert_array_equal(unique, np.unique(positions[positions >= 0]))
  assert unique.dtype == index.dtype == np.int32
  for value, i in zip(values, index, strict=True):
    assert (i == routing.PAD) if value == routing.PAD else unique[i] == value
