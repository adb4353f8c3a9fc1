# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Columns of record files as arrays in memory."""

import numpy as np
import pyarrow as pa
import pytest

from antjax.data import record_writer, records
from antjax.data.record_schema import Field

SCHEMA = {
  'user': Field('int64'),
  'label': Field('float32'),
  'ids': Field('int64', 1),
  'starts': Field('int64', 1),
}
BIG = 2**40


def write(path, lists=((1, 2), (3, 4), (5, 6)), start=BIG):
  table = pa.table(
    {
      'user': pa.array([7, 8, 9], pa.int64()),
      'label': pa.array([0, 1, 0], pa.float32()),
      'ids': pa.array(list(map(list, lists)), pa.list_(pa.int64())),
      'starts': pa.array([[start]] * 3, pa.list_(pa.int64())),
    }
  )
  record_writer.write(path, table.to_batches(max_chunksize=2), SCHEMA)
  return records.open_source(path)


@pytest.mark.parametrize('suffix', ['arrow', 'parquet'])
def test_columns_are_those_of_the_records(tmp_path, suffix):
  source = write(tmp_path / f'rows.{suffix}')
  found = records.whole_columns(source, list(SCHEMA), wide=('starts',))
  assert found['user'].tolist() == [7, 8, 9]
  assert found['ids'].tolist() == [[1, 2], [3, 4], [5, 6]]
  assert found['starts'].tolist() == [[BIG]] * 3
  kinds = {name: x.dtype.name for name, x in found.items()}
  assert kinds == {
    'user': 'int32',
    'label': 'float32',
    'ids': 'int32',
    'starts': 'int64',
  }


def test_a_number_that_is_too_wide_is_refused(tmp_path):
  source = write(tmp_path / 'rows.arrow')
  with pytest.raises(ValueError, match="'starts' has numbers beyond int32"):
    records.whole_columns(source, ['starts'])


@pytest.mark.parametrize('lists', [((1,), (2, 3), (4,)), ((1,), (2,), (3, 4))])
def test_lists_of_unequal_length_are_refused(tmp_path, lists):
  source = write(tmp_path / 'rows.parquet', lists)
  with pytest.raises(ValueError, match='values'):
    records.whole_columns(source, ['ids'])


def test_rows_are_read_in_their_order(tmp_path):
  found = records.whole_columns(write(tmp_path / 'rows.arrow'), ['label'])
  np.testing.assert_array_equal(found['label'], [0, 1, 0])
