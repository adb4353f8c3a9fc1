# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The Python of docs/data.md runs."""

import pathlib
import re

from antjax.input import movielens, movielens_files
from tests.input import movielens_fixture

_DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'data.md'


def test_examples(tmp_path, monkeypatch):
  prepare, train = re.findall(r'```python\n(.*?)```', _DOCS.read_text(), re.S)
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'clicks.tsv').write_text('7\ta\t1\n7\tb\t0\n9\ta\t1\n')
  prepare = prepare.replace('/tmp/spill', str(tmp_path))
  exec(prepare, {})
  fixture = movielens_fixture.Fixture()
  movielens_files.prepare_movielens(
    'data/ml-1m',
    movielens.SplitConfig(query_size=4, min_ratings=7, max_ratings=20),
    source=fixture.write_original(tmp_path / 'source'),
    allow_other_counts=True,
  )
  names = {
    'process': 0,
    'num_processes': 1,
    'parse': lambda r: {'task': r['task']},
  }
  exec(train.replace('shard_size=64', 'shard_size=4'), names)
  assert next(iter(names['batches']))['task'].shape == (32,)
