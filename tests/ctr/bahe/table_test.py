# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the vectors of behaviours go, and what is said of it."""

import numpy as np
import pytest

import antjax
from antjax.ctr.bahe import table

ROWS = np.arange(10 * 4, dtype=np.float32).reshape(10, 4)


@pytest.mark.parametrize(
  'device_bytes, kind, said',
  [
    (4 * ROWS.nbytes, table.DeviceTable, 'on every device, where a table may'),
    (2 * ROWS.nbytes, table.SplitTable, 'split over 8 devices'),
    (ROWS.nbytes // 8, table.HostTable, 'on the host, where a table may'),
    (None, table.DeviceTable, 'does not say how much memory it has'),
  ],
)
def test_a_table_goes_to_the_first_home_with_room(device_bytes, kind, said):
  mesh = antjax.make_mesh(intra=4)
  found, sentence = table.place(
    ROWS, mesh, device_bytes=device_bytes, max_distinct=6
  )
  assert isinstance(found, kind)
  assert said in sentence and '10 rows x 4 float32' in sentence


def test_a_home_may_be_asked_for():
  mesh = antjax.make_mesh(intra=4)
  found, said = table.place(
    ROWS, mesh, home='split', max_distinct=6, inside_groups=True
  )
  assert isinstance(found, table.SplitTable) and 'as asked for' in said
  assert found.exchange.num_owners == 4
  # Row i is the (i // 4)-th of owner i % 4.
  stored = np.asarray(found.constants['behavior_rows']).reshape(4, 3, 4)
  for i, row in enumerate(ROWS):
    np.testing.assert_array_equal(stored[i % 4, i // 4], row)


def test_most_distinct_counts_titles_and_padding():
  assert table.most_distinct(3, (5, 2)) == 3 * 8 + 1


def test_a_host_table_brings_the_rows_of_a_batch():
  mesh = antjax.make_mesh(intra=4)
  found, _ = table.place(ROWS, mesh, home='host', max_distinct=6)
  batch = {
    'behaviors': np.array([[[7, 3]], [[3, 0]]], np.int32),
    'title': np.array([9, 3], np.int32),
  }
  prepared = found.prepare(batch, 1)
  np.testing.assert_array_equal(
    prepared['behavior_rows'][prepared['behaviors']], ROWS[batch['behaviors']]
  )
  np.testing.assert_array_equal(
    prepared['behavior_rows'][prepared['title']], ROWS[batch['title']]
  )
  assert prepared['behavior_rows'].shape == (6, 4)
