# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder of record files that grows."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from antjax.data import record_schema, record_writer
from antjax.data.stream import END, FileStream

SCHEMA = {'x': record_schema.Field('int32')}


def write(path, start, stop):
  batch = pa.RecordBatch.from_pydict(
    {'x': np.arange(start, stop, dtype=np.int32)}
  )
  record_writer.write(path, [batch], SCHEMA)


def numbers(read):
  return [int(record['x']) for record in read]


@pytest.mark.parametrize('suffix', ['.array_record', '.parquet'])
def test_grows_by_whole_files(tmp_path, suffix):
  stream = FileStream(tmp_path, suffix=suffix)
  assert len(stream) == 0 and stream.poll() == (0, False)
  write(tmp_path / f'a{suffix}', 0, 7)
  (tmp_path / f'.hidden{suffix}').write_bytes(b'in the making')
  (tmp_path / 'notes.txt').touch()
  assert stream.poll() == (7, False)
  write(tmp_path / f'b{suffix}', 7, 8)
  write(tmp_path / f'c{suffix}', 8, 20)
  assert len(stream) == 7
  # Another worker has seen more.
  assert numbers(stream.read(5, 19)) == list(range(5, 19))
  (tmp_path / END).touch()
  assert stream.poll() == (20, True)
  again = pickle.loads(pickle.dumps(stream))
  assert numbers(again.read(0, 20)) == list(range(20))
  with pytest.raises(ValueError, match='it has 20 records'):
    stream.read(0, 21)


def test_many_files_are_not_all_open(tmp_path):
  for i in range(40):
    write(tmp_path / f'{i:03}.array_record', 2 * i, 2 * i + 2)
  stream = FileStream(tmp_path)
  assert numbers(stream.read(0, 80)) == list(range(80))
  assert len(stream._open) <= 16


def test_a_file_that_comes_before_others_is_refused(tmp_path):
  write(tmp_path / 'b.array_record', 0, 3)
  stream = FileStream(tmp_path)
  write(tmp_path / 'a.array_record', 0, 3)
  with pytest.raises(ValueError, match='a.array_record.*later name'):
    stream.poll()
  (tmp_path / 'a.array_record').unlink()
  (tmp_path / 'b.array_record').unlink()
  with pytest.raises(ValueError, match='b.array_record.*stay'):
    stream.poll()


def test_no_folder(tmp_path):
  with pytest.raises(ValueError, match='no such folder'):
    FileStream(tmp_path / 'none')
