# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ratings become clicks of an audience; the schema fits the table."""

import pyarrow.parquet as pq

from antjax.data import schema_file
from benchmarks import movielens_scenarios
from tests.data import movielens_fixture


def test_a_row_a_rating(tmp_path):
  fixture = movielens_fixture.Fixture(num_users=30)
  source = fixture.write_original(tmp_path / 'source')
  movielens_scenarios.write(tmp_path / 'out', str(source))
  rows = pq.read_table(tmp_path / 'out/clicks.parquet').to_pylist()
  assert len(rows) == len(fixture.ratings)
  assert {row['click'] for row in rows} == {0, 1}
  for row in rows:
    assert row['scenario'].count('/') == 2
    assert row['scenario'].startswith(row['gender'])
    assert row['decade'] % 10 == 0
  schema = schema_file.load(tmp_path / 'out/schema.json')
  assert schema.task == 'scenario' and schema.label == 'click'
  assert 'scenario' not in schema.features
