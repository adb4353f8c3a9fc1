# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sides of benchmarks/meta_io_bench give the same tasks."""

import dataclasses

import numpy as np
import pytest

from antjax.data import event_movielens, record_writer, records, view_melu
from antjax.meta import meta_io
from benchmarks import meta_io_bench
from tests.data import movielens_fixture, views


@pytest.fixture(name='tasks', scope='module')
def _tasks(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  source = movielens_fixture.Fixture().write_original(folder / 'source')
  config = view_melu.SplitConfig(
    order='time', query_size=4, min_ratings=7, max_ratings=20
  )
  views.write(folder / 'out', event_movielens.source(source), 'melu', config)
  return views.read(folder / 'out', 'train')


def test_copies_are_the_same_tasks_under_other_ids(tasks, tmp_path):
  path = tmp_path / 'tasks.arrow'
  num = record_writer.write(
    path, meta_io_bench.repeated(tasks, 3), meta_io_bench._schema(tasks)
  )
  source = records.open_source(path)
  assert num == len(source) == 3 * len(tasks)
  found = source.read(0, num)
  assert len({int(r['task']) for r in found}) == num
  for i, record in enumerate(found):
    for name in ('item', 'genres', 'rating', 'zip'):
      np.testing.assert_array_equal(record[name], tasks[i % len(tasks)][name])


def test_rows_of_text_give_their_records_again(tasks, tmp_path):
  text = meta_io_bench.RowText(tmp_path / 'rows.txt', tasks)
  config = meta_io_bench.episode_config(tasks, 16, 'time')
  with open(text.path, 'rb') as file:
    for i, record in enumerate(tasks):
      found = text.read(file.fileno(), i, config.features['genres'])
      order = np.argsort(found['timestamp'], kind='stable')
      expected = np.argsort(record['timestamp'], kind='stable')
      for name in ('item', 'genres', 'rating', 'timestamp'):
        np.testing.assert_array_equal(
          found[name][order], record[name][expected], name
        )
      assert found['occupation'] == record['occupation']
  lines = text.path.read_text().splitlines()
  owners = [int(line.split(',')[0]) for line in lines]
  assert owners != sorted(owners)  # Its rows are far from each other.


def test_all_sides_lay_out_the_same_rows(tasks, tmp_path):
  path = tmp_path / 'tasks.arrow'
  record_writer.write(
    path,
    meta_io_bench.repeated(tasks, 2),
    meta_io_bench._schema(tasks),
    block_size=8,
  )
  config = meta_io_bench.episode_config(tasks, 16, 'time')
  config = dataclasses.replace(config, query_size=4)
  counts = [
    meta_io_bench.through_episodes(path, config, 8, num)[1:]
    for num in (None, 2 * len(tasks))
  ]
  text = meta_io_bench.RowText(tmp_path / 'rows.txt', tasks)
  once = meta_io_bench.row_text(text, config, len(tasks))[1:]
  assert counts[0] == counts[1] == (2 * once[0], 2 * once[1])
  batches = list(meta_io.iter_episode_batches(tasks, config))
  assert once[0] == sum(
    int(b['weight'].sum()) for x in batches for b in x['episodes'].values()
  )


def test_the_cache_is_as_asked_for_or_it_says_so(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'x' * 1_000_000)
  meta_io_bench.set_cache(path, 'warm')
  with open(path, 'rb') as file:
    assert meta_io_bench._cached_share(file.fileno(), 1_000_000) == 1
