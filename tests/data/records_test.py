# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parquet and ArrayRecord files: equal records, clear errors."""

import json
import os
import pickle

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import array_record_file, record_schema, record_writer, records
from antjax.data.record_schema import Field
from antjax.shards import record_source

SCHEMA = {
  'task': Field('int32'),
  'name': Field('str'),
  'item': Field('int32', 1),
  'genres': Field('int32', 2, width=3),
  'rating': Field('float32', 1),
}
FORMATS = ('arrow', 'parquet', 'array_record')
IN_COLUMNS = FORMATS[:2]  # They can be read as blocks.


def _table(num_records=10):
  rows = [
    {
      'task': i,
      'name': f'n\xe4me {i}',
      'item': list(range(i)),
      'genres': [list(range(j % 4)) for j in range(i)],
      'rating': [0.5 * j for j in range(i)],
    }
    for i in range(num_records)
  ]
  arrow_schema = pa.schema([(n, f.arrow_type()) for n, f in SCHEMA.items()])
  return pa.Table.from_pylist(rows, schema=arrow_schema)


def _write(path, table, schema=SCHEMA, batch_size=3):
  return record_writer.write(
    path, table.to_batches(max_chunksize=batch_size), schema
  )


@pytest.fixture(name='path', params=FORMATS)
def _path(request, tmp_path):
  path = tmp_path / f'r.{request.param}'
  assert _write(path, _table()) == 10
  return path


@pytest.mark.parametrize('block', (1, 3, 4, 100))
def test_every_process_reads_its_share_block_by_block(path, block):
  source = records.open_source(path, SCHEMA)
  for index in range(3):
    found = record_source.every(source, index, 3, block=block)
    assert [r['task'] for r in found] == list(range(10))[index::3]


def test_another_process_gets_a_source_of_the_same_file(path):
  source = pickle.loads(pickle.dumps(records.open_source(path, SCHEMA)))
  assert len(source) == 10
  assert set(source.read(4, 5)[0]) == set(SCHEMA)


def test_records(path):
  source = records.open_source(path, SCHEMA)
  assert len(source) == 10
  record = source.read(4, 5)[0]
  assert list(record) == list(SCHEMA)
  assert (record['task'], record['name']) == (4, 'n\xe4me 4')
  assert record['task'].dtype == np.int32
  np.testing.assert_array_equal(record['item'], np.arange(4, dtype=np.int32))
  np.testing.assert_array_equal(
    record['genres'], [[-1, -1, -1], [0, -1, -1], [0, 1, -1], [0, 1, 2]]
  )
  assert {record[n].dtype for n in ('item', 'genres')} == {np.dtype('int32')}
  assert record['rating'].dtype == np.float32
  empty = source.read(0, 1)[0]
  assert empty['item'].shape == (0,)
  assert empty['genres'].shape == (0, 3)


def test_formats_are_equal(tmp_path):
  sources = []
  for suffix in FORMATS:
    _write(tmp_path / f'r.{suffix}', _table())
    sources.append(records.open_source(tmp_path / f'r.{suffix}', SCHEMA))
  for a, *others in zip(*(s.read(0, 10) for s in sources)):
    for b in others:
      assert_equal_records(a, b)


def assert_equal_records(a, b):
  assert a.keys() == b.keys()
  for name in SCHEMA:
    np.testing.assert_array_equal(a[name], b[name])
    assert np.asarray(a[name]).dtype == np.asarray(b[name]).dtype


@pytest.mark.parametrize('suffix', IN_COLUMNS)
@pytest.mark.parametrize('block_size', [1, 4, 256])
def test_a_block_holds_the_records_as_columns(tmp_path, suffix, block_size):
  path = tmp_path / f'r.{suffix}'
  batches = _table().to_batches(3)
  record_writer.write(path, batches, SCHEMA, block_size=block_size)
  source = records.open_source(path, SCHEMA)
  as_blocks = records.open_source(path, SCHEMA, as_blocks=True)
  for start in range(11):
    for stop in range(start, 11):
      block = as_blocks.read(start, stop)
      expected = source.read(start, stop)
      assert len(block) == len(expected) == stop - start
      for a, b in zip(block, expected, strict=True):
        assert_equal_records(a, b)
  block = pickle.loads(pickle.dumps(as_blocks)).read(2, 10)
  np.testing.assert_array_equal(block.tasks['num_rows'], np.arange(2, 10))
  assert block.rows['genres'].shape == (sum(range(2, 10)), 3)
  chosen = block.take(np.array([3, 0]), key=np.array([7, 8]))
  assert chosen['tasks']['task'].tolist() == [5, 2]
  assert chosen['tasks']['key'].tolist() == [7, 8]
  assert chosen['rows']['item'] is block.rows['item']


def test_arrow_columns_are_views_of_the_file(tmp_path):
  path = tmp_path / 'r.arrow'
  record_writer.write(path, _table().to_batches(3), SCHEMA, block_size=4)
  source = records.open_source(path, SCHEMA, as_blocks=True)
  assert source.block_size == 4
  with open(path, 'rb') as file:
    whole = file.read()
  block = source.read(4, 8)
  for name in ('item', 'genres', 'rating'):
    column = block.rows[name]
    assert not column.flags.owndata and not column.flags.writeable
    at = column.ctypes.data - source._address
    assert whole[at : at + column.nbytes] == column.tobytes()
    record = source.read(4, 8)[1][name]
    assert record.ctypes.data == column[4:].ctypes.data


def test_arrow_records_of_any_numbers(tmp_path):
  path = tmp_path / 'r.arrow'
  record_writer.write(path, _table().to_batches(3), SCHEMA, block_size=4)
  source = records.open_source(path, SCHEMA)
  numbers = [9, 0, 5, 5, 8]
  found = source.take(numbers)
  assert len(source.take([])) == 0
  for number, record in zip(numbers, found, strict=True):
    assert_equal_records(record, source.read(number, number + 1)[0])
  as_blocks = records.open_source(path, SCHEMA, as_blocks=True)
  assert as_blocks.take([3, 7]).tasks['task'].tolist() == [3, 7]
  for wrong in ([10], [-1, 3]):
    with pytest.raises(ValueError, match=r'r\.arrow'):
      source.take(wrong)


def test_what_cannot_be_a_block_is_refused(tmp_path):
  schema = {'a': Field('int32', 1), 'b': Field('int32', 1)}
  table = pa.table({'a': [[1], [2]], 'b': [[1, 2], [3]]})
  path = tmp_path / 'r.arrow'
  record_writer.write(path, table.to_batches(), schema)
  source = records.open_source(path, schema, as_blocks=True)
  with pytest.raises(ValueError, match="lists of 'b' are not as long .* 'a'"):
    source.read(0, 2)
  assert len(records.open_source(path).read(0, 2)) == 2
  record_writer.write(
    path, table.select(['a']).to_batches(), {'a': schema['a']}
  )
  source = records.open_source(path, {}, as_blocks=True)
  with pytest.raises(ValueError, match='a block needs a list'):
    source.read(0, 2)
  record_writer.write(tmp_path / 'r.array_record', table.to_batches(), schema)
  with pytest.raises(ValueError, match='needs --format=arrow or parquet'):
    records.open_source(tmp_path / 'r.array_record', as_blocks=True)


def test_a_schema_survives_json():
  text = json.dumps(record_schema.schema_to_json(SCHEMA))
  assert record_schema.schema_from_json(json.loads(text)) == SCHEMA


def test_blocks(path):
  source = records.open_source(path)
  for start in range(11):
    for stop in range(start, 11):
      block = source.read(start, stop)
      assert [r['task'] for r in block] == list(range(start, stop))
  for start, stop in ((-1, 2), (3, 2), (0, 11)):
    with pytest.raises(ValueError, match='needed 0 <= start <= stop <= 10'):
      source.read(start, stop)


@pytest.mark.parametrize('row_group_size', [1, 3, 4, 10, 99])
def test_blocks_over_row_groups(tmp_path, row_group_size):
  path = tmp_path / 'r.parquet'
  record_writer.write(
    path, _table().to_batches(2), SCHEMA, block_size=row_group_size
  )
  assert pq.ParquetFile(path).metadata.row_group(0).num_rows == min(
    row_group_size, 10
  )
  source = records.ParquetSource(path)
  for start in range(11):
    block = source.read(start, min(10, start + 4))
    assert [r['task'] for r in block] == list(range(start, min(10, start + 4)))


def test_other_fields_are_left_out(path):
  source = records.open_source(path, {'rating': SCHEMA['rating']})
  assert list(source.read(3, 4)[0]) == ['rating']


def test_no_records(tmp_path):
  for suffix in FORMATS:
    path = tmp_path / f'r.{suffix}'
    assert _write(path, _table(0)) == 0
    source = records.open_source(path, SCHEMA)
    assert len(source) == 0
    assert source.read(0, 0) == []


def test_missing_file(tmp_path):
  for suffix in FORMATS:
    with pytest.raises(FileNotFoundError, match=f'no such file: .*x.{suffix}'):
      records.open_source(tmp_path / f'x.{suffix}')
  with pytest.raises(ValueError, match="unknown suffix '.csv'"):
    records.open_source(tmp_path / 'x.csv')


def test_missing_column(path):
  schema = {**SCHEMA, 'label': Field('float32')}
  with pytest.raises(ValueError) as error:
    records.open_source(path, schema)
  assert str(path) in str(error.value)
  assert "no column 'label'" in str(error.value)
  assert 'it has: task, name, item, genres, rating' in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('field', 'message'),
  [
    (Field('int64', 1), 'is list of int32; needed: list of int64'),
    (Field('int32'), 'is list of int32; needed: int32'),
    (Field('str', 1), 'is list of int32; needed: list of str'),
  ],
)
def test_wrong_type(path, field, message):
  with pytest.raises(ValueError, match=f"column 'item' {message}"):
    records.open_source(path, {'item': field})


@pytest.mark.parametrize('content', [b'', b'PAR1', b'user,item\n1,2\n' * 9999])
def test_not_a_record_file(tmp_path, content):
  for suffix in FORMATS:
    path = tmp_path / f'r.{suffix}'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'{path} is not a whole') as error:
      records.open_source(path)
    assert '\n' not in str(error.value)


def test_cut_short(path):
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match='is not a whole'):
    records.open_source(path)


def test_damaged_in_the_middle(path):
  data = bytearray(path.read_bytes())
  start = 100
  if path.suffix == '.arrow':  # Values have no checksum: where lists end.
    batch = records.open_source(path)._file.get_batch(0)
    offsets = batch['item'].offsets.to_numpy().tobytes()
    start = data.index(offsets, 8)
  for i in range(start, start + 60):
    data[i] ^= 255
  path.write_bytes(data)
  with pytest.raises(ValueError, match='the file is damaged') as error:
    records.open_source(path).read(0, 10)
  assert '\n' not in str(error.value)


def test_foreign_array_record(tmp_path):
  from array_record.python import array_record_module

  path = tmp_path / 'r.array_record'
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  writer.write(b'something else')
  writer.close()
  with pytest.raises(ValueError, match='record 0 of .*: not a record of ant'):
    records.open_source(path, SCHEMA)


def test_empty_values_are_refused(tmp_path):
  path = tmp_path / 'r.parquet'
  for values in ([1, None], [[1], [2, None]], [[[1]], [[None]]], [[1], None]):
    pq.write_table(pa.table({'x': pa.array(values)}), path)
    with pytest.raises(ValueError, match="column 'x' has 1 empty values"):
      records.open_source(path).read(0, 2)


@pytest.mark.parametrize('suffix', FORMATS)
def test_a_failed_write_leaves_nothing(tmp_path, suffix):
  path = tmp_path / f'r.{suffix}'

  def batches():
    yield from _table().to_batches(4)
    raise OSError('disk')

  with pytest.raises(OSError, match='disk'):
    record_writer.write(path, batches(), SCHEMA)
  assert os.listdir(tmp_path) == []
  _write(path, _table())
  whole = path.read_bytes()
  with pytest.raises(OSError, match='disk'):
    record_writer.write(path, batches(), SCHEMA)
  assert os.listdir(tmp_path) == [path.name]
  assert path.read_bytes() == whole


def test_write_refuses_what_does_not_fit(tmp_path):
  wide = pa.table({'task': pa.array([2**40])})
  with pytest.raises(pa.ArrowInvalid, match='not in range'):
    _write(tmp_path / 'r.parquet', wide, {'task': Field('int32')})
  narrow = {'genres': Field('int32', 2, width=2)}
  with pytest.raises(ValueError, match='list of 3 values exceeds the width 2'):
    _write(tmp_path / 'r.array_record', _table(), narrow)
  with pytest.raises(ValueError, match="unknown suffix '.csv'"):
    _write(tmp_path / 'r.csv', _table())
  assert os.listdir(tmp_path) == []


_ARRAYS = st.one_of(
  hnp.boolean_dtypes(),
  hnp.integer_dtypes(endianness='='),
  hnp.unsigned_integer_dtypes(endianness='='),
  hnp.floating_dtypes(endianness='=', sizes=(16, 32, 64)),
).flatmap(
  lambda dtype: hnp.arrays(
    dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
  )
)
_RECORDS = st.dictionaries(
  st.text(max_size=20), st.one_of(_ARRAYS, st.text()), max_size=5
)


@hypothesis.given(_RECORDS)
def test_codec_round_trip(record):
  decoded = array_record_file.decode(array_record_file.encode(record))
  assert list(decoded) == list(record)
  for name, value in record.items():
    if isinstance(value, str):
      assert decoded[name] == value
    else:
      assert decoded[name].dtype == value.dtype
      assert decoded[name].shape == value.shape
      assert decoded[name].tobytes() == value.tobytes()  # NaN too.


@hypothesis.given(_RECORDS, st.data())
def test_codec_refuses_damage(record, data):
  """Cut or with a changed byte: the right type of error, or a record."""
  encoded = array_record_file.encode(record)
  size = data.draw(st.integers(0, len(encoded) - 1))
  with pytest.raises(ValueError):
    array_record_file.decode(encoded[:size])
  with pytest.raises(ValueError, match='1 bytes follow'):
    array_record_file.decode(encoded + b'x')
  changed = bytearray(encoded)
  changed[size] = data.draw(st.integers(0, 255))
  try:
    array_record_file.decode(bytes(changed))
  except ValueError:
    pass


def test_codec_keeps_big_endian_values():
  record = array_record_file.encode({'x': np.arange(3, dtype='>i4')})
  np.testing.assert_array_equal(
    array_record_file.decode(record)['x'], [0, 1, 2]
  )


@pytest.mark.parametrize('value', [None, object(), np.array(['a']), [1, 'a']])
def test_codec_refuses_objects(value):
  with pytest.raises(ValueError, match='needed: numbers, bools or str'):
    array_record_file.encode({'x': value})
