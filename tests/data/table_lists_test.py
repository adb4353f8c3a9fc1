# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Features with many values in a row: texts to be parted, lists of Parquet."""

import collections
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import output_folder
from antjax.data.task_spans import TaskConfig
from antjax.meta import meta_io
from antjax.meta.episode_config import Bucket, EpisodeConfig
from tests.data import table_fixture, views
from tests.data.views import read

CONFIG = TaskConfig(
  cold_share=0.3,
  query_size=4,
  min_rows=8,
  max_support=9,
  max_rows=11,
  min_count=5,
)


def make(out, source, config=CONFIG, **options):
  schema = table_fixture.SCHEMA_WITH_TAGS
  return views.write_tasks(out, source, schema, config, **options)


@pytest.fixture(name='rows', scope='module')
def _rows():
  return table_fixture.make_rows_with_tags(600)


@pytest.fixture(name='out', scope='module')
def _out(rows, tmp_path_factory):
  folder = tmp_path_factory.mktemp('lists')
  source = table_fixture.write_with_tags(folder / 'clicks.csv', rows)
  make(folder / 'out', source)
  return folder / 'out'


def test_ids_of_lists_are_those_of_a_plain_loop(rows, out):
  description = output_folder.load_description(out / 'tasks')
  tags_of = {when: tags for _, tags, when, _ in rows}  # Times are unique.
  train = read(out, 'train')
  counts: collections.Counter[str] = collections.Counter()
  for record in train:
    for when in record['timestamp'].tolist():
      counts.update({*tags_of[when]})
  frequent = sorted(tag for tag, count in counts.items() if count >= 5)
  table = pq.read_table(out / 'tasks' / 'ids_tags.parquet')
  assert table['tags'].to_pylist() == frequent
  assert table['id'].to_pylist() == [*range(1, len(frequent) + 1)]
  width = max(len(tags) for tags in tags_of.values())
  assert description['features']['tags'] == {
    'num_ids': len(frequent) + 1,
    'max_values': width,
  }
  ids = {tag: i for i, tag in enumerate(frequent, 1)}
  found: collections.Counter[int] = collections.Counter()
  for split in ('train', 'warm', 'task_cold'):
    for record in read(out, split):
      for when, line in zip(record['timestamp'].tolist(), record['tags']):
        expected = [ids.get(tag, 0) for tag in tags_of[when]]
        assert line.tolist() == expected + [-1] * (width - len(expected))
        found.update(line.tolist())
  assert found[0] and found[-1]  # Rare values, and rows with fewer or none.
  assert any(len({*tags}) < len(tags) for tags in tags_of.values())


@pytest.mark.parametrize('kind', ['texts', 'lists', 'integers'])
def test_parquet_gives_the_same(rows, out, tmp_path, kind):
  user, tags, when, click = zip(*rows)
  source = tmp_path / 'c.parquet'
  column = {
    'texts': pa.array(['|'.join(x) for x in tags]),
    'lists': pa.array(tags, pa.list_(pa.string())),
    'integers': pa.array([[*map(int, x)] for x in tags], pa.list_(pa.int64())),
  }[kind]
  columns = {'user': user, 'tags': column, 'when': when, 'click': click}
  pq.write_table(pa.table(columns), source)
  description = make(tmp_path / 'out', source, file_format='parquet')
  expected = output_folder.load_description(out / 'tasks')
  assert description['features'] == expected['features']
  for split in ('train', 'warm', 'task_cold'):
    for a, b in zip(read(out, split), read(tmp_path / 'out', split)):
      assert a.keys() == b.keys()
      for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


def test_long_lists_are_cut_and_counted(rows, out, tmp_path, caplog):
  source = table_fixture.write_with_tags(tmp_path / 'c.csv', rows)
  config = TaskConfig(cold_share=0.3, query_size=4, min_rows=8, max_values=3)
  with caplog.at_level(logging.WARNING):
    description = make(tmp_path / 'out', source, config)
  lengths = [len(tags) for _, tags, *_ in rows]
  cut = sum(length > 3 for length in lengths)
  assert f'tags: {cut} rows have more than max_values=3 values, up to' in (
    caplog.text
  )
  assert description['features']['tags']['max_values'] == 3
  first = {when: tags[:3] for _, tags, when, _ in rows}
  table = pq.read_table(tmp_path / 'out' / 'tasks' / 'ids_tags.parquet')
  tag_of = dict(zip(table['id'].to_pylist(), table['tags'].to_pylist()))
  for record in read(tmp_path / 'out', 'train'):
    for when, line in zip(record['timestamp'].tolist(), record['tags']):
      assert [tag_of[i] for i in line if i >= 0] == first[when]


def test_episodes_of_lists(out):
  description = output_folder.load_description(out / 'tasks')
  widths = {k: v['max_values'] for k, v in description['features'].items()}
  config = EpisodeConfig(
    buckets=(Bucket(9, 4),), features=widths, label='click', query_size=4
  )
  records = read(out, 'warm')
  batch = next(meta_io.iter_episode_batches(records, config))
  tags = batch['ids']['s9']['support']['tags']
  assert tags.shape == (4, 9, widths['tags'])
  num_support = len(records[0]['click']) - 4
  np.testing.assert_array_equal(
    tags[0, :num_support], records[0]['tags'][:num_support]
  )


def test_lists_with_an_empty_value_are_set_aside(tmp_path):
  tags = [['a', 'b'] for _ in range(40)]
  tags[3], tags[7], tags[9] = ['a', None], None, []
  table = pa.table(
    {
      'user': ['u'] * 40,
      'tags': pa.array(tags, pa.list_(pa.string())),
      'when': range(40),
      'click': [i % 2 for i in range(40)],
    }
  )
  pq.write_table(table, tmp_path / 'c.parquet')
  out = tmp_path / 'out'
  description = make(out, tmp_path / 'c.parquet', max_rejected_share=0.1)
  assert description['counts']['rejected_lines'] == 2
  found = [(r['line'], r['column']) for r in views.rejected(out)]
  assert found == [('4', 'tags'), ('8', 'tags')]
  (record, *_) = read(out, 'train')
  assert record['timestamp'][:9].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
  assert record['tags'][6:9].tolist() == [[1, 2], [-1, -1], [1, 2]]


def test_a_feature_of_one_value_in_each_row_is_a_list_still(tmp_path):
  rows = [(f'u{i % 3}', ['7'], i, i % 2) for i in range(90)]
  source = table_fixture.write_with_tags(tmp_path / 'c.csv', rows)
  description = make(tmp_path / 'out', source)
  assert description['features']['tags']['max_values'] == 2
  (record, *_) = read(tmp_path / 'out', 'train')
  assert record['tags'].tolist() == [[1, -1]] * len(record['click'])
