# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""NumPy files as a table."""

import numpy as np
import pyarrow as pa
import pytest

from antjax.data.numpy_table import NumpyTable

IDS = np.arange(10, dtype=np.int32).reshape(5, 2)
ONE = 7 * np.arange(5, dtype=np.int64)[:, None]
DENSE = np.arange(15, dtype=np.float32).reshape(5, 3)
LABELS = np.array([[0], [1], [1], [0], [1]], np.int32)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_are_columns_and_those_beside_them_too(tmp_path, save):
  path = tmp_path / 'day_0_sparse_multi_hot.npz'
  save(path, **{'0': IDS, '1': ONE, '2': np.asfortranarray(IDS)})
  np.save(tmp_path / 'day_0_dense.npy', DENSE)
  np.save(tmp_path / 'day_0_labels.npy', LABELS)
  np.save(tmp_path / 'day_1_labels.npy', LABELS[:2])
  table = NumpyTable(path)
  dense = ['dense_0', 'dense_1', 'dense_2']
  assert sorted(table.names) == ['0', '1', '2', *dense, 'labels']
  assert table.num_rows == 5
  batches = table.iter_batches(3, ['labels', '2', '0', '1', 'dense_1'])
  found = pa.Table.from_batches(batches).to_pydict()
  assert [*found] == ['labels', '2', '0', '1', 'dense_1']
  assert found['0'] == found['2'] == IDS.tolist()
  assert found['1'] == ONE[:, 0].tolist()
  assert found['labels'] == LABELS[:, 0].tolist()
  assert found['dense_1'] == DENSE[:, 1].tolist()
  table.close()


def test_other_files_are_refused(tmp_path):
  (tmp_path / 'a.npz').write_bytes(b'nothing')
  with pytest.raises(ValueError, match='a.npz is no .npz file'):
    NumpyTable(tmp_path / 'a.npz')
  np.savez(tmp_path / 'b.npz', a=IDS, b=ONE[:3])
  with pytest.raises(ValueError, match=r"'b': \(3, 1\).*needed: \[n\]"):
    NumpyTable(tmp_path / 'b.npz')
