# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/prepare_behaviors as a user runs it."""

import pytest

from antjax.data import output_folder
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from antjax.jobs import prepare_behaviors
from tests import warm_python
from tests.data import behavior_fixture, movielens_fixture


def run(*arguments):
  return warm_python.run('-m', 'launch.prepare_behaviors', *map(str, arguments))


def test_prepares_films_and_then_does_nothing(tmp_path):
  fixture = movielens_fixture.Fixture()
  source = fixture.write_original(tmp_path / 'source')
  flags = (f'--source={source}', f'--out={tmp_path / "out"}')
  first = run(*flags)
  assert first.returncode == 0, first.stderr
  assert 'reading ratings.dat' in first.stderr
  assert 'not the whole MovieLens-1M' in first.stderr
  assert 'doi.org/10.1145/2827872' in first.stdout
  second = run(*flags)
  assert second.returncode == 0
  assert 'was complete already: nothing was done' in second.stdout
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


def test_prepares_a_log_by_its_schema_file(tmp_path):
  log = behavior_fixture.Log(num_rows=100)
  source = log.write(tmp_path / 'log', behavior_fixture.UNLABELLED)
  done = run(
    '--dataset=sequences',
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
  assert done.returncode == 0, done.stderr
  assert 'drawing negatives' in done.stderr
  assert 'behaviors dropped' in done.stdout
  description = output_folder.load_description(tmp_path / 'out')
  assert description['normalizer'] == 'nfkc-lower-1'
  assert description['files']['train']['path'] == 'train.parquet'
  states = [
    BehaviorVocabulary.open(tmp_path / name)
    for name in ('behaviors', 'out/behaviors')
  ]
  texts = [state.texts(0, len(state)) for state in states]
  assert texts[0] == texts[1]
  assert 'book hotel' in texts[0] and 'BOOK hotel' not in texts[0]


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'dataset': 'sequences'}, 'sequences needs both'),
    ({'schema': 'x.yaml'}, 'ml-1m takes no schema'),
    ({'dataset': 'antm2c'}, 'antm2c a source and no schema'),
    ({'threads': -1}, 'must not be negative'),
    ({'max_rejected_share': 2}, 'must be from 0 to 1'),
  ],
)
def test_settings_that_cannot_be_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    prepare_behaviors.Config(**fields)


def test_a_source_that_is_not_there_is_one_line(tmp_path):
  done = run(f'--out={tmp_path}/out', '--source=/no/such')
  assert done.returncode == 1
  assert 'no such source: /no/such' in done.stderr
  assert 'Traceback' not in done.stderr


def test_the_order_of_rows_is_no_time_to_split_by(tmp_path):
  log = behavior_fixture.Log(num_rows=5)
  schema = behavior_fixture.UNLABELLED.replace('time: when\n', '')
  source = log.write(tmp_path / 'log', schema)
  flags = ('--dataset=sequences', f'--schema={source}/log.yaml')
  done = run(f'--out={tmp_path}/out', f'--source={source}/log.csv', *flags)
  assert done.returncode == 1
  assert 'only --examples.split=last and random are possible' in done.stderr
