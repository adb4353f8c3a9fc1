# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntM2C's files: every field is read, every bad row is told."""

import csv
import datetime

import numpy as np
import pyarrow.parquet as pq
import pytest

from antjax.data import event_antm2c, text_reader
from antjax.data.event_antm2c import Antm2cConfig
from antjax.data.rejects import Rejects
from tests.data import antm2c_fixture
from tests.data.antm2c_fixture import line, row


def read(tmp_path, *texts, config=None, share=1.0, **options):
  """Writes texts as parts; returns (rows, counts, rejected rows)."""
  files = []
  for number, text in enumerate(texts):
    path = tmp_path / f'antm2c_10m_part{number}'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    files.append(path)
  folder = tmp_path / 'parts'
  folder.mkdir(exist_ok=True)
  rejected = tmp_path / 'rejected.csv'
  layout = (config or Antm2cConfig()).layout()
  bad = Rejects(rejected, share)
  counts = text_reader.read(files, layout, folder, bad, **options)
  rows = []
  for path in folder.glob('*.parquet'):
    rows += pq.read_table(path).to_pylist()
  rows.sort(key=lambda r: r['__row'])
  bad = []
  if rejected.exists():
    with open(rejected, newline='', encoding='utf-8') as file:
      bad = [*csv.DictReader(file)]
  return rows, counts, bad


def seconds(text):
  moment = datetime.datetime.strptime(text, '%Y-%m-%d %H:%M:%S')
  return int(moment.replace(tzinfo=datetime.UTC).timestamp())


def typed(number, found, file=0):
  """What has to become of a good row."""
  config = Antm2cConfig()
  expected = dict(found)
  expected['log_time'] = seconds(found['log_time'])
  expected['label'] = int(found['label'])
  for name in config.numeric_columns:
    expected[name] = float(np.float32(found[name] or 0))
  return expected | {'__row': event_antm2c.row_number(file, number + 1)}


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('block_bytes', [300, 1 << 22])
def test_every_field_of_every_part_is_read(tmp_path, end, block_bytes):
  parts = [antm2c_fixture.rows(50), antm2c_fixture.rows(30)]
  texts = [antm2c_fixture.text(part, end) for part in parts]
  texts[1] = '\ufeff' + texts[1].removesuffix(end)
  rows, counts, bad = read(tmp_path, *texts, block_bytes=block_bytes, threads=2)
  expected = [
    typed(number, found, file)
    for file, part in enumerate(parts)
    for number, found in enumerate(part)
  ]
  # The newline in a text is the file's own, not that of its records.
  assert rows == expected
  assert not bad and (counts.rows, counts.rejected_lines) == (80, 0)
  assert counts.filled['deep_features_20'] == sum(
    found['deep_features_20'] == '' for part in parts for found in part
  )


def test_bad_rows_are_set_aside_and_told_with_their_lines(tmp_path):
  cases = [  # (line of CSV, column, reason, part of the message)
    ('1,2,3\n', '', 'columns', '3 columns; needed: 37'),
    (line(2).rstrip('\n') + ',x\n', '', 'columns', '38 columns'),
    (line(3, label='2'), 'label', 'value', "'2'; needed: 0, 1"),
    (line(4, label=''), 'label', 'value', "''; needed: 0, 1"),
    (line(5, scene='7'), 'scene', 'value', 'needed: 0, 1, 2, 3, 4'),
    (line(6, user_id=''), 'user_id', 'empty', ''),
    (line(7, item_id=' '), 'item_id', 'empty', ''),
    (line(8, deep_features_14='many'), 'deep_features_14', 'cast', 'many'),
    (line(9, deep_features_14='nan'), 'deep_features_14', 'cast', '"nan"'),
    (line(10, deep_features_22='1e39'), 'deep_features_22', 'cast', '1e39'),
    (line(11, log_time='soon'), 'log_time', 'time', 'soon'),
    (line(12, log_time='2023-02-30 00:00:00'), 'log_time', 'time', '02-30'),
    (line(16).replace('taxi', 'ta"xi'), '', 'quote', 'inside of a field'),
    (line(14, item_title='\udc80'), 'item_title', 'encoding', 'not utf-8'),
  ]
  good = antm2c_fixture.rows(3)
  found = [good[0], *(c[0] for c in cases), good[1], good[2]]
  text = antm2c_fixture.text(found) + line(15)[:100].rstrip('\n')
  data = text.encode('utf-8', 'surrogateescape')
  for block_bytes in (200, 1 << 22):
    (tmp_path / 'rejected.csv').unlink(missing_ok=True)
    folder = tmp_path / str(block_bytes)
    folder.mkdir()
    rows, counts, bad = read(folder, data, block_bytes=block_bytes)
    numbers = [0, len(cases) + 1, len(cases) + 2]
    assert rows == [typed(n, r) for n, r in zip(numbers, good)]
    assert counts.rows == len(found) + 1
    assert counts.rejected_lines == len(bad) == len(cases) + 1
    lines = data.split(b'\n')
    for entry, (text, column, reason, message) in zip(bad, cases):
      assert (entry['column'], entry['reason']) == (column, reason)
      assert message in entry['message']
      first = text.encode('utf-8', 'surrogateescape').split(b'\n')[0]
      assert lines[int(entry['line']) - 1] == first
    # The last line was cut off.
    assert bad[-1]['reason'] == 'columns'
    assert int(bad[-1]['line']) == len(lines)
    assert bad[-1]['text'] == line(15)[:100].rstrip('\n')
  assert counts.rejected['columns'] == 3 and counts.rejected['cast'] == 3


def test_times_of_a_spreadsheet_and_bad_ones_that_are_filled(tmp_path):
  lines = [
    line(0, log_time='2023/8/3 9:05'),
    line(1, log_time='2023/13/3 9:05'),
    line(2, log_time='2023-08-03 24:00:00'),
    line(3, log_time=''),
  ]
  config = Antm2cConfig(fill_bad_time='2023-08-01 12:00:00')
  rows, counts, bad = read(tmp_path, antm2c_fixture.text(lines), config=config)
  noon = seconds('2023-08-01 12:00:00')
  assert [r['log_time'] for r in rows] == [
    seconds('2023-08-03 09:05:00'),
    *[noon] * 3,
  ]
  assert counts.filled['log_time'] == 3 and not bad


def test_times_are_those_of_datetime(tmp_path):
  rng = np.random.default_rng(0)
  found = []
  for number in range(300):
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(
      seconds=int(rng.integers(0, 4_000_000_000))
    )
    found.append(row(number, log_time=f'{moment:%Y-%m-%d %H:%M:%S}'))
  rows, _, bad = read(tmp_path, antm2c_fixture.text(found))
  assert not bad
  assert [r['log_time'] for r in rows] == [
    seconds(r['log_time']) for r in found
  ]


def test_which_features_are_numbers_and_which_scenes_there_are(tmp_path):
  config = Antm2cConfig(numeric=(0,), scenes=('a',))
  found = [row(0, scene='a', deep_features_0='7', deep_features_14='x')]
  rows, _, bad = read(tmp_path, antm2c_fixture.text(found), config=config)
  assert not bad
  assert rows[0]['deep_features_0'] == 7 and rows[0]['deep_features_14'] == 'x'
  assert config.categories[:2] == ('scene', 'deep_features_1')


@pytest.mark.parametrize(
  'text', ['', 'user_id,item_id\n1,2\n', '1,2,3\n', '"user_id\n']
)
def test_another_header_is_refused(tmp_path, text):
  with pytest.raises(ValueError, match='has the columns .*; needed: user_id'):
    read(tmp_path, text)


def test_another_layout_is_for_a_schema(tmp_path):
  path = tmp_path / 'antm2c_10m_part0'
  path.write_text('user_id,item_id,label\n1,2,0\n')
  with pytest.raises(ValueError, match='has the 3 columns .*--schema=FILE'):
    event_antm2c.source(path)


def test_parts_are_found_in_their_order(tmp_path):
  names = [f'antm2c_10m_part{n}' for n in (0, 2, 10)]
  for name in [*names, 'AntM2C_image.tar.gz', 'antm2c_part.parquet', 'notes']:
    (tmp_path / name).write_text('')
  found = event_antm2c.find_files(tmp_path)
  assert [path.name for path in found] == names
  assert event_antm2c.find_files(tmp_path / 'notes') == [tmp_path / 'notes']
  with pytest.raises(FileNotFoundError, match='does not exist'):
    event_antm2c.find_files(tmp_path / 'no')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match=r'no file antm2c\*part'):
    event_antm2c.find_files(tmp_path / 'empty')


@pytest.mark.parametrize(
  'options, message',
  [
    ({'numeric': (27,)}, 'different numbers from 0 to 26'),
    ({'numeric': (1, 1)}, 'different numbers'),
    ({'scenes': ()}, 'scenes is empty'),
    ({'fill_bad_time': '2023-08-01'}, 'is no moment'),
  ],
)
def test_settings_that_cannot_be_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    Antm2cConfig(**options)
