# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequences: files and reader, compared with plain Python."""

import collections

import numpy as np
import pytest

from antjax.data.engine import Engine
from antjax.data.sequence_data import SequenceData
from tests.data import sequence_fixture, views
from tests.data.views import files_of


@pytest.fixture(name='log', scope='module')
def _log():
  return sequence_fixture.Log()


@pytest.fixture(name='source', scope='module')
def _source(log, tmp_path_factory):
  return log.write_amazon(tmp_path_factory.mktemp('log') / 'amazon')


@pytest.fixture(name='folder', scope='module')
def _folder(source):
  out = source.parent / 'core'
  sequence_fixture.prepare(source, out, k_core=4)
  return out / 'sequences'


@pytest.mark.parametrize('k', [0, 2, 4])
@pytest.mark.parametrize('untitled', ['drop', 'keep'])
def test_sequences_are_those_of_plain_python(
  log, source, tmp_path, k, untitled
):
  out = tmp_path / 'out'
  sequence_fixture.prepare(source, out, k_core=k, untitled=untitled)
  expected = log.sequences(k, untitled)
  found = sequence_fixture.read_back(out)
  assert list(found.items()) == list(expected.items())
  data = SequenceData.open(out)
  items = log.items()
  left = {item for items in expected.values() for item in items}
  order = sorted(
    left, key=lambda i: (sequence_fixture.DOMAINS.index(items[i][0]), i)
  )
  assert data.keys == ['', *order]
  assert data.titles == ['', *(items[i][1] for i in order)]
  assert [data.domain_names[d] for d in data.domains[1:]] == [
    items[i][0] for i in order
  ]
  assert data.domains[0] == -1 and data.counts[0] == 0


def test_the_core_is_one_and_takes_rounds(log, source, folder, tmp_path):
  found = log.sequences(4)
  assert found != log.sequences(0)
  counts = SequenceData.open(folder).description['counts']
  assert counts['core_rounds'] > 1 and counts['events_outside_core'] > 0
  # Dropping repeats comes after the core, so counts are of the events before.
  config = {'k_core': 4, 'drop_repeats': False}
  sequence_fixture.prepare(source, tmp_path / 'out', **config)
  out = tmp_path / 'out'
  whole = sequence_fixture.read_back(out)
  sizes = collections.Counter(i for items in whole.values() for i in items)
  assert min(sizes.values()) >= 4
  assert min(map(len, whole.values())) >= 4


def test_items_without_events_are_counted_and_may_be_kept(
  log, source, folder, tmp_path
):
  out = tmp_path / 'out'
  sequence_fixture.prepare(source, out, k_core=4, without_events='keep')
  assert sequence_fixture.read_back(out) == log.sequences(4)
  every, few = SequenceData.open(out), SequenceData.open(folder)
  titled = {item for item, (_, title) in log.items().items() if title}
  assert {*every.keys} == titled | {''}
  left_out = few.description['counts']['items_without_events']
  assert every.num_items - few.num_items == left_out > 0
  assert (every.counts == 0).sum() >= left_out


def test_counts_are_told(log, folder):
  data = SequenceData.open(folder)
  expected, items = log.sequences(4), log.items()
  events = log.events()
  counts = data.description['counts']
  assert counts['events_read'] == len(events)
  unknown = sum(e[1] not in items for e in events)
  assert counts['events_of_unknown_items'] == unknown > 0
  untitled = sum(e[1] in items and not items[e[1]][1] for e in events)
  assert counts['events_of_untitled_items'] == untitled > 0
  assert counts['events'] == sum(map(len, expected.values()))
  assert counts['users'] == len(expected)
  left = counts['events_read'] - unknown - untitled
  left -= counts['events_outside_core'] + counts['repeats_dropped']
  assert left == counts['events'] and counts['repeats_dropped'] > 0
  rows = sum(len(rows) for rows in log.meta.values())
  assert counts['item_rows_read'] == rows
  assert counts['item_rows_repeated'] == rows - len(items) > 0


def test_counts_of_domains_are_told(log, folder):
  expected, items = log.sequences(4), log.items()
  found = SequenceData.open(folder).description
  for domain in found['domains']:
    in_domain = {
      user: [(items[i][0] == domain['name']) for i in sequence]
      for user, sequence in expected.items()
    }
    long = [marks for marks in in_domain.values() if len(marks) >= 3]
    assert domain['users'] == sum(map(any, in_domain.values()))
    assert domain['interactions'] == sum(map(sum, in_domain.values()))
    assert domain['test'] == sum(marks[-1] for marks in long)
    assert domain['validation'] == sum(marks[-2] for marks in long)
    total = domain['train'] + domain['validation'] + domain['test']
    assert domain['interactions'] == total
    assert domain['items'] == len(
      {
        i
        for sequence in expected.values()
        for i in sequence
        if items[i][0] == domain['name']
      }
    )
  domains = [{items[i][0] for i in s} for s in expected.values()]
  sizes = collections.Counter(str(len(d)) for d in domains)
  assert found['users_by_num_domains'] == dict(sizes)
  names = [d['name'] for d in found['domains']]
  assert names == [*sequence_fixture.DOMAINS]


def test_leave_one_out(log, source, tmp_path):
  sequence_fixture.prepare(source, tmp_path / 'out', k_core=0)
  data = SequenceData.open(tmp_path / 'out')
  expected = [*log.sequences(0).values()]
  assert min(map(len, expected)) < 3  # Who is trained on only.
  wanted = {'train': [], 'validation': [], 'test': []}
  train_counts = collections.Counter()
  for u, items in enumerate(expected):
    n = len(items)
    held = 2 if n >= 3 else 0
    wanted['train'] += [(u, p) for p in range(1, n - held)]
    train_counts.update(items[: n - held])
    if held:
      wanted['validation'].append((u, n - 2))
      wanted['test'].append((u, n - 1))
  for split, examples in wanted.items():
    user, position = data.examples(split)
    assert user.dtype == position.dtype == np.int32
    assert [*zip(user.tolist(), position.tolist())] == examples
    targets = data.all_events.targets(user, position)
    histories = data.all_events.whole_histories(user, position)
    for (u, p), target, history in zip(examples, targets, histories):
      keys = [data.keys[i] for i in history if i]
      assert keys == expected[u][:p]
      assert data.keys[target] == expected[u][p]
  assert dict(zip(data.keys[1:], data.counts[1:])) == {
    key: train_counts[key] for key in data.keys[1:]
  }
  assert data.training().num_examples == len(wanted['train'])
  counts = data.description['counts']
  assert counts['train_examples'] == len(wanted['train'])
  assert counts['test_examples'] == len(wanted['test'])


def test_training_on_one_domain_and_without_one(folder):
  data = SequenceData.open(folder)
  whole = data.training()
  for options, is_kept in (
    ({'only': 'Arts'}, lambda d: d == data.domain_id('Arts')),
    ({'without': 'Arts'}, lambda d: d != data.domain_id('Arts')),
  ):
    part = data.training(**options)
    assert part.num_users == data.num_users
    for u in range(data.num_users):
      events = whole.events[whole.starts[u] : whole.stops[u]]
      found = part.events[part.starts[u] : part.stops[u]]
      assert found.tolist() == [i for i in events if is_kept(data.domains[i])]
  with pytest.raises(ValueError, match="domain 'Games'.*has Toys, Arts"):
    data.training(only='Games')


def test_users_are_drawn_before_their_domains(folder):
  data = SequenceData.open(folder)

  def users(**options):
    events = data.training(**options)
    assert events.num_users == 7
    return [
      events.events[start:stop].tolist()
      for start, stop in zip(events.starts, events.stops, strict=True)
    ]

  drawn = users(num_users=7, seed=1)
  assert drawn == users(num_users=7, seed=1) != users(num_users=7, seed=2)
  assert min(map(len, drawn)) > 1
  arts = data.domain_id('Arts')
  assert users(num_users=7, seed=1, only='Arts') == [
    [i for i in events if data.domains[i] == arts] for events in drawn
  ]
  whole = data.training(num_users=10**6)
  assert whole.num_examples == data.training().num_examples


def test_threads_do_not_matter(source, folder, tmp_path):
  sequence_fixture.prepare(
    source, tmp_path / 'out', k_core=4, engine=Engine(threads=1)
  )
  assert files_of(tmp_path / 'out' / 'sequences') == files_of(folder)


@views.on_spark
def test_spark_writes_equal_files(source, folder, tmp_path):
  sequence_fixture.prepare(
    source, tmp_path / 'out', k_core=4, engine=Engine(name='spark', threads=2)
  )
  assert files_of(tmp_path / 'out' / 'sequences') == files_of(folder)


def test_nothing_left_is_an_error(source, tmp_path):
  with pytest.raises(ValueError, match='no event is left.*lower k_core=99'):
    sequence_fixture.prepare(source, tmp_path / 'out', k_core=99)


def test_other_folders_are_refused(tmp_path, folder):
  with pytest.raises(FileNotFoundError, match='holds no prepared data'):
    SequenceData.open(tmp_path)
  with pytest.raises(ValueError, match='came without a split of its users'):
    SequenceData.open(folder, split='source')
  with pytest.raises(ValueError, match="split='first': use last or source"):
    SequenceData.open(folder, split='first')
  with pytest.raises(ValueError, match="examples.'val'.: use train"):
    SequenceData.open(folder).examples('val')
