# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/prepare_sequences as a user runs it."""

import pytest

from antjax.data.sequence_data import SequenceData
from antjax.jobs import prepare_sequences
from tests import warm_python
from tests.data import sequence_fixture


def run(*arguments):
  return warm_python.run('-m', 'launch.prepare_sequences', *map(str, arguments))


def test_prepares_amazon_and_then_does_nothing(tmp_path):
  log = sequence_fixture.Log()
  source = log.write_amazon(tmp_path / 'amazon')
  flags = (
    '--layout=amazon2018',
    f'--source={source}',
    '--domains=Toys,Arts',
    '--k_core=3',
    '--memory_limit=300MB',
    f'--out={tmp_path / "out"}',
  )
  first = run(*flags)
  assert first.returncode == 0, first.stderr
  assert 'reading meta_Toys.json.gz' in first.stderr
  assert '3-core, round 2' in first.stderr
  assert 'repeats dropped' in first.stdout
  assert 'aclanthology.org/D19-1018' in first.stdout
  data = SequenceData.open(tmp_path / 'out')
  assert f'{data.description["counts"]["events"]:,}' in first.stdout
  assert sequence_fixture.read_back(tmp_path / 'out') == log.sequences(3)
  second = run(*flags)
  assert second.returncode == 0
  assert 'was complete already: nothing was done' in second.stdout
  third = run(*flags, '--untitled=keep')
  assert third.returncode == 1
  assert 'untitled=drop (now keep); add --overwrite' in third.stderr
  assert 'Traceback' not in third.stderr


@pytest.mark.parametrize(
  'options, message',
  [
    ({'layout': 'table', 'source': 'x'}, 'table needs a schema file'),
    ({'schema': 'x.yaml'}, 'nothing else takes one'),
    ({'layout': 'food_kitchen'}, 'is not fetched: name its files'),
    ({'domains': ('Arts',)}, 'only for layout=amazon2018, not movielens'),
    ({'threads': -1}, 'threads=-1 must not be negative'),
  ],
)
def test_wrong_flags_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    prepare_sequences.Config(**options)


def test_the_core_depends_on_the_layout():
  amazon = prepare_sequences.Config(layout='amazon2018', source='x')
  assert amazon.sequences.k_core == 5
  assert prepare_sequences.Config().sequences.k_core == 0
  assert prepare_sequences.Config(k_core=7).sequences.k_core == 7
  with pytest.raises(ValueError, match='k_core=-1 must not be negative'):
    prepare_sequences.Config(k_core=-1)
