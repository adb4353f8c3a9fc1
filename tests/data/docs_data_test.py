# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The code, the schema file and the flags of docs/data.md."""

import dataclasses
import pathlib
import re

import pytest

from antjax.data import (
  behavior_examples,
  behavior_text,
  event_antm2c,
  event_movielens,
  records,
  schema_file,
  task_spans,
  view_melu,
  view_sequences,
)
from antjax.jobs import prepare_data
from tests.data import movielens_fixture, views

_DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'data.md'


_TEXT = _DOCS.read_text()


def _blocks(language):
  return re.findall(rf'```{language}\n(.*?)```', _TEXT, re.S)


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('docs')
  fixture = movielens_fixture.Fixture()
  views.write(
    folder / 'data/ml-1m',
    event_movielens.source(fixture.write_original(folder / 'source')),
    'melu',
    view_melu.SplitConfig(query_size=4, min_ratings=7, max_ratings=20),
  )
  return folder


def test_parts(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'clicks.tsv').write_text('7\ta\t1\n7\tb\t0\n9\ta\t1\n')
  exec(_blocks('python')[0].replace('/tmp/spill', f'{tmp_path}/w'), {})
  assert len(records.open_source(tmp_path / 'tasks.parquet')) == 2


def test_reading(folder, monkeypatch):
  monkeypatch.chdir(folder)
  names = {
    'process': 0,
    'num_processes': 1,
    'parse': lambda r: {'task': r['task']},
  }
  code = _blocks('python')[1]
  exec(code.replace('shard_size=64', 'shard_size=4'), names)
  assert next(iter(names['batches']))['task'].shape == (32,)


def test_episodes(folder, monkeypatch):
  monkeypatch.chdir(folder)
  names: dict = {}
  code = _blocks('python')[2]
  # The made-up films have 3 genres at most.
  exec(code.replace("'genres': 6", "'genres': 3"), names)
  batch = next(iter(names['episodes']))
  assert batch['ids']['s16']['support']['genres'].shape == (32, 16, 3)
  assert batch['episodes']['s16']['weight'].any()


def test_the_schema_file(tmp_path):
  (text,) = _blocks('yaml')
  (tmp_path / 'clicks.yaml').write_text(text)
  schema = schema_file.load(str(tmp_path / 'clicks.yaml'))
  assert schema.features == ('user', 'item', 'tags')
  assert schema.task_column == 'user'
  assert schema.separator == {'tags': '|'}
  assert schema.numeric == schema.log == ('price',)
  defaults = schema_file.make(schema.columns, label='clicked')
  for name in ('delimiter', 'header', 'quote'):
    assert getattr(schema, name) == getattr(defaults, name)


def test_flags_exist():
  known = {
    f'{prefix}{field.name}'
    for prefix, config in (
      ('', prepare_data.Config),
      ('split.', view_melu.SplitConfig),
      ('tasks.', task_spans.TaskConfig),
      ('antm2c.', event_antm2c.Antm2cConfig),
      ('examples.', behavior_examples.ExampleConfig),
      ('normalizer.', behavior_text.Normalizer),
      ('sequences.', view_sequences.SequenceConfig),
      ('splitter.', behavior_text.Splitter),
    )
    for field in dataclasses.fields(config)
  }
  named = set(re.findall(r'`?--([a-z_.]+)', _TEXT))
  assert len(named) > 20
  assert named <= known, named - known
