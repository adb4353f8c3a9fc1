# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A log becomes examples: compared with plain Python, example by example."""

import collections
import json

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from antjax.data import example_records, output_folder, prepare
from antjax.data.behavior_examples import ExampleConfig
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from antjax.data.engine import Engine
from tests.data import behavior_fixture, views
from tests.data.views import files_of, rejected


@pytest.fixture(scope='module')
def log():
  return behavior_fixture.Log()


@pytest.fixture(scope='module')
def prepared(log, tmp_path_factory):
  """Folder with the labelled log, prepared."""
  folder = tmp_path_factory.mktemp('log')
  behavior_fixture.prepare(log.write(folder), folder / 'out')
  return folder / 'out' / 'examples'


@pytest.fixture(scope='module')
def drawn(log, tmp_path_factory):
  """Folder with the same log, unlabelled, with drawn negatives."""
  folder = tmp_path_factory.mktemp('unlabelled')
  source = log.write(folder, behavior_fixture.UNLABELLED)
  behavior_fixture.prepare(source, folder / 'out', ExampleConfig(negatives=3))
  return folder / 'out' / 'examples'


def test_every_example_is_the_one_of_plain_python(log, prepared):
  expected = log.splits(log.expected())
  found = behavior_fixture.read_back(prepared)
  trained = expected['train']
  known = [{e['ids'][i] for e in trained} for i in range(2)]
  users, items = (
    collections.Counter(e[n] for e in trained) for n in ('user', 'item')
  )
  assert [*found] == ['train', 'validation', 'test']
  for split, examples in expected.items():
    assert len(found[split]) == len(examples) > 0
    for got, want in zip(found[split], examples):
      want = {
        **want,
        'ids': [x if x in k else '' for x, k in zip(want['ids'], known)],
        'numeric': [np.float32(x) for x in want['numeric']],
        'is_new_user': want['user'] not in users,
        'is_new_item': want['item'] not in items,
        'user_count': users[want['user']],
        'item_count': items[want['item']],
      }
      assert got == want


def test_no_history_has_an_event_at_or_after_its_example(prepared):
  """Each history is a prefix of the user's events, all of them earlier."""
  description = output_folder.load_description(prepared)
  for number, sequence in enumerate(description['sequences'][:2]):
    label = 1 - number  # Positive events, then negative ones.
    times = collections.defaultdict(list)
    records = []
    for split in description['splits']:
      source = output_folder.open_split(prepared, split)
      records += source.read(0, len(source))
    for r in records:
      if r['label'] == label:
        times[int(r['user'])].append(int(r['time']))
    total = 0
    for user in sorted(times):
      times[user].sort()
    starts = {}
    for user in sorted({int(r['user']) for r in records}):
      starts[user] = total
      total += len(times[user])
    assert sequence['events'] == total
    for r in records:
      start, stop = int(r['starts'][number]), int(r['stops'][number])
      user = int(r['user'])
      assert start == starts[user]
      seen = times[user][: stop - start]
      assert all(time < r['time'] for time in seen)
      assert len(seen) == sum(time < r['time'] for time in times[user])


def test_counts_are_told(log, prepared):
  description = output_folder.load_description(prepared)
  splits, expected = description['splits'], log.splits(log.expected())
  for split, examples in expected.items():
    assert splits[split]['examples'] == len(examples)
    assert splits[split]['positives'] == sum(e['label'] for e in examples)
    assert splits[split]['no_history'] == sum(
      not any(e['histories']) for e in examples
    )
  texts = [row['searches'] for row in log.rows]
  pieces = [
    behavior_fixture.SPLITTER.split(text, behavior_fixture.NORMALIZER)
    for text in texts
  ]
  counts = description['counts']
  assert counts['behaviors_dropped'] == sum(p.num_dropped for p in pieces) > 0
  assert counts['texts_cut'] == sum(p.num_cut for p in pieces) > 0
  empty = log.items[0]['id']
  assert counts['rows_without_text'] == sum(
    row['item'] == empty for row in log.rows
  )
  vocabulary = BehaviorVocabulary.open(prepared / 'behaviors')
  assert len(vocabulary) == description['num_behaviors']
  occurrences = collections.Counter(t for p in pieces for t in p.texts)
  titles = {i['id']: behavior_fixture.NORMALIZER(i['title']) for i in log.items}
  occurrences.update(filter(None, (titles[row['item']] for row in log.rows)))
  named = zip(
    vocabulary.texts(2, len(vocabulary)), vocabulary.frequencies()[2:]
  )
  assert dict(named) == occurrences


def test_a_second_run_does_nothing_and_another_is_refused(log, prepared):
  source, out = prepared.parent.parent, prepared.parent
  before = files_of(prepared)
  description, made = behavior_fixture.prepare(source, out)
  assert not made
  assert description == output_folder.load_description(prepared)
  with pytest.raises(ValueError, match='add --overwrite'):
    behavior_fixture.prepare(source, out, ExampleConfig(test_from=0.95))
  assert files_of(prepared) == before
  assert not list(source.rglob('.*'))  # Nothing in between is left.


def test_neither_threads_nor_the_format_of_the_source_matter(
  log, prepared, tmp_path
):
  source = log.write(tmp_path / 'log')
  table = pyarrow.csv.read_csv(source / 'log.csv')
  pq.write_table(table, source / 'log.parquet')
  (source / 'log.csv').unlink()
  behavior_fixture.prepare(source, tmp_path / 'out', engine=Engine(threads=1))
  found, expected = files_of(tmp_path / 'out' / 'examples'), files_of(prepared)
  for files in (found, expected):
    del files['behaviors/vocabulary.json']  # It names the source's content.
  assert found == expected


@pytest.mark.slow
def test_drawn_items_are_of_the_domain_and_never_the_users(log, drawn):
  found = behavior_fixture.read_back(drawn)
  shelf = {str(item['id']): item['shelf'] for item in log.items}
  grams = {str(item['id']): item['grams'] for item in log.items}
  listed = {str(row['item']) for row in log.rows}
  has = collections.defaultdict(set)
  for row in log.rows:
    has[row['user']].add(str(row['item']))
  lacking, num_events = 0, 0
  for examples in found.values():
    events: list[list[dict]] = []
    for example in examples:
      if example['label']:
        events.append([example])
      else:
        events[-1].append(example)
    num_events += len(events)
    for event, *negatives in events:
      items = [e['item'] for e in negatives]
      assert len({*items}) == len(items) <= 3
      lacking += 3 - len(items)
      for example in negatives:
        item = example['item']
        assert item in listed - has[event['user']]
        assert shelf[item] == shelf[event['item']]
        assert example['ids'][1] in (shelf[item], '')
        assert example['numeric'] == [event['numeric'][0], grams[item]]
        same = ('user', 'time', 'histories')
        assert [example[n] for n in same] == [event[n] for n in same]
        assert example['ids'][0] == event['ids'][0]
  seen = collections.Counter(e['item'] for e in found['train'])
  for examples in found.values():
    assert all(e['item_count'] == seen[e['item']] for e in examples)
  description = output_folder.load_description(drawn)
  assert description['counts']['negatives_lacking'] == lacking
  assert num_events == len(log.rows)
  assert 'drawn items 0' in description['labels']
  names = [sequence['name'] for sequence in description['sequences']]
  assert names == ['shelf_0', 'shelf_1', 'shelf_2', 'searches']


@pytest.mark.slow
def test_drawn_items_are_spread_evenly_and_by_seed(tmp_path):
  log = behavior_fixture.Log(num_rows=3000, num_items=30)
  for number, row in enumerate(log.rows):
    row['user'] = f'u{number}'  # Who has one item has nearly all to be drawn.
  source = log.write(tmp_path / 'log', behavior_fixture.UNLABELLED)
  drawn = []
  for seed in (0, 1):
    config = ExampleConfig(split='last', seed=seed)
    behavior_fixture.prepare(source, tmp_path / str(seed), config)
    found = behavior_fixture.read_back(tmp_path / str(seed))
    examples = [e for split in found.values() for e in split]
    drawn.append([e['item'] for e in examples if not e['label']])
  assert drawn[0] != drawn[1]
  counts = collections.Counter(drawn[0])
  assert len(counts) == 30
  # 3000 / 30 = 100 of each, give or take sqrt(100).
  assert 60 < min(counts.values()) < max(counts.values()) < 140


def test_a_vocabulary_inside_of_the_folder_to_make_is_refused(log, tmp_path):
  source = log.write(tmp_path / 'log')
  with pytest.raises(ValueError, match='is inside of out=.*beside it'):
    behavior_fixture.prepare(
      source,
      tmp_path / 'out',
      vocabulary=tmp_path / 'out' / 'examples' / 'shared',
    )
  assert not (tmp_path / 'out' / 'examples').exists()


@pytest.mark.parametrize('split', ['time', 'last'])
def test_no_user_with_the_history_that_is_asked_for(log, tmp_path, split):
  source = log.write(tmp_path / 'log')
  config = ExampleConfig(split=split, min_history=10**6)
  with pytest.raises(ValueError, match='no row is left|no example at all'):
    behavior_fixture.prepare(source, tmp_path / 'out', config)


def test_the_last_rows_of_each_user_are_held_out(log, tmp_path):
  source = log.write(tmp_path / 'log')
  config = ExampleConfig(split='last', min_history=1)
  behavior_fixture.prepare(source, tmp_path / 'out', config)
  found = behavior_fixture.read_back(tmp_path / 'out')
  expected = collections.defaultdict(list)
  for example in log.expected():
    if any(example['histories'][:2]):
      expected[example['user']].append(example)
  kept = ('item', 'time', 'histories')

  def by_user(split):
    users = collections.defaultdict(list)
    for example in found[split]:
      users[example['user']].append({n: example[n] for n in kept})
    return users

  held = {2: by_user('test'), 1: by_user('validation')}
  train = by_user('train')
  for user, examples in expected.items():
    examples = [{n: e[n] for n in kept} for e in examples]
    if len(examples) < 3:
      assert train[user] == examples
      continue
    assert train[user] == examples[:-2]
    assert held[1][user] == examples[-2:-1]
    assert held[2][user] == examples[-1:]


def test_splits_end_at_the_moments_that_are_told(log, tmp_path):
  source = log.write(tmp_path / 'log')
  config = ExampleConfig(
    train_until='1970-01-01 00:00:20', validation_until='30'
  )
  behavior_fixture.prepare(source, tmp_path / 'out', config)
  found = behavior_fixture.read_back(tmp_path / 'out')
  times = {split: [e['time'] for e in found[split]] for split in found}
  assert max(times['train']) == 20 and min(times['validation']) == 21
  assert max(times['validation']) == 30 and min(times['test']) == 31
  assert sum(map(len, times.values())) == len(log.rows)


@pytest.mark.slow
def test_rows_are_split_at_random_by_the_seed(tmp_path):
  log = behavior_fixture.Log(num_rows=2000)
  source = log.write(tmp_path / 'log')
  drawn = []
  for seed in (0, 1):
    config = ExampleConfig(split='random', seed=seed)
    behavior_fixture.prepare(source, tmp_path / str(seed), config)
    found = behavior_fixture.read_back(tmp_path / str(seed))
    sizes = [len(examples) for examples in found.values()]
    assert sum(sizes) == 2000
    # Shares .8, .1, .1, give or take 4 standard deviations of a count.
    np.testing.assert_allclose(sizes, [1600, 200, 200], atol=72)
    assert max(e['time'] for e in found['train']) == 40
    drawn.append(found['test'])
  assert drawn[0] != drawn[1]


@pytest.mark.slow
def test_a_share_of_the_users_is_kept_whole(log, tmp_path):
  source = log.write(tmp_path / 'log')
  kept = []
  for seed in (0, 1):
    config = ExampleConfig(user_share=0.5, seed=seed)
    behavior_fixture.prepare(source, tmp_path / str(seed), config)
    found = behavior_fixture.read_back(tmp_path / str(seed))
    told = [e for examples in found.values() for e in examples]
    users = {e['user'] for e in told}
    expected = [e for e in log.expected() if e['user'] in users]
    every = {e['user'] for e in log.expected()}
    assert len(users) == len(every) // 2 and len(told) == len(expected)
    for examples in (told, expected):
      examples.sort(key=lambda e: (e['user'], e['time'], e['item']))
    names = ('user', 'time', 'item', 'histories')
    assert [[e[n] for n in names] for e in told] == [
      [e[n] for n in names] for e in expected
    ]
    kept.append(users)
  assert kept[0] != kept[1]


def test_a_vocabulary_grows_from_day_to_day(tmp_path):
  vocabulary = tmp_path / 'behaviors'
  texts: list[str] = []
  for day in range(2):
    log = behavior_fixture.Log(num_items=30 + 10 * day, seed=day)
    source = log.write(tmp_path / f'log-{day}')
    for attempt in range(2):  # The same data twice are counted once.
      out = tmp_path / f'day-{day}-{attempt}'
      behavior_fixture.prepare(source, out, vocabulary=vocabulary)
      state = BehaviorVocabulary.open(out / 'examples' / 'behaviors')
      assert state.texts(0, len(texts)) == texts
      assert len(state.appends) == day + 1
    found = behavior_fixture.read_back(out)
    expected = log.splits(log.expected())
    for split, examples in expected.items():
      got = [(e['title'], e['histories']) for e in found[split]]
      assert got == [(e['title'], e['histories']) for e in examples]
    texts = state.texts(0, len(state))
  with pytest.raises(ValueError, match='belongs to the data.*cp -r'):
    behavior_fixture.prepare(
      source,
      tmp_path / 'x',
      vocabulary=tmp_path / 'day-0-0' / 'examples' / 'behaviors',
    )


def ids_of(folder):
  return {
    path.name: {
      row['value']: row['id'] for row in pq.read_table(path).to_pylist()
    }
    for path in sorted((folder / 'examples').glob('ids_*.parquet'))
  }


@pytest.mark.parametrize(
  'engine',
  [
    'duckdb',
    pytest.param(
      'spark',
      marks=views.ON_SPARK,
    ),
  ],
)
def test_ids_stay_from_day_to_day(tmp_path, engine):
  engine = Engine(name=engine, threads=2)
  old = behavior_fixture.Log(num_rows=60, num_users=9, num_items=20)
  new = behavior_fixture.Log(num_users=30, num_items=40, seed=1)
  first, second = tmp_path / 'day-0', tmp_path / 'day-1'
  behavior_fixture.prepare(old.write(tmp_path / '0'), first, engine=engine)
  source = new.write(tmp_path / '1')
  told, _ = behavior_fixture.prepare(
    source, second, engine=engine, ids_from=first
  )
  before, after = ids_of(first), ids_of(second)
  assert before.keys() == after.keys()
  for name, ids in before.items():
    assert ids.items() <= after[name].items(), name
    assert sorted(after[name].values()) == list(range(1, 1 + len(after[name])))
  known = {name: len(ids) for name, ids in before.items()}
  assert len(after['ids_user.parquet']) > known['ids_user.parquet']
  assert told['num_users'] == 1 + len(after['ids_user.parquet'])
  # New ones in the order of their values.
  fresh = [
    v
    for v, i in after['ids_item.parquet'].items()
    if i > known['ids_item.parquet']
  ]
  assert fresh == sorted(fresh)
  # But for the numbers, the data are what they would be without.
  behavior_fixture.prepare(source, tmp_path / 'own')
  assert behavior_fixture.read_back(second) == (
    behavior_fixture.read_back(tmp_path / 'own')
  )
  with pytest.raises(ValueError, match='ids_from'):
    behavior_fixture.prepare(source, second)


def test_ids_of_no_folder_of_behaviors_are_refused(log, tmp_path):
  source = log.write(tmp_path / 'log')
  with pytest.raises(FileNotFoundError, match='no prepared data'):
    behavior_fixture.prepare(source, tmp_path / 'x', ids_from=source)
  with pytest.raises(ValueError, match='the folder to make'):
    behavior_fixture.prepare(source, tmp_path / 'x', ids_from=tmp_path / 'x')
  behavior_fixture.prepare(source, tmp_path / 'day')
  (tmp_path / 'day' / 'examples' / 'ids_user.parquet').write_bytes(b'')
  with pytest.raises(ValueError, match='is damaged: ids_user.parquet'):
    behavior_fixture.prepare(source, tmp_path / 'x', ids_from=tmp_path / 'day')


def test_a_list_of_items_a_row_is_a_history_in_its_order(tmp_path):
  folder = tmp_path / 'log'
  folder.mkdir()
  (folder / 'log.tsv').write_text('ann\tb, a,,c,d\nbob\tc\n')
  (folder / 'log.yaml').write_text(
    "columns: {who: string, what: {type: string, separator: ','}}\n"
    'delimiter: "\\t"\nheader: false\n'
    "quote: ''\nuser: who\nitem: what\n"
  )
  config = ExampleConfig(split='last', negatives=0)
  behavior_fixture.prepare(folder, tmp_path / 'out', config)
  found = behavior_fixture.read_back(tmp_path / 'out')
  told = {
    split: [(e['user'], e['title'], *e['histories']) for e in examples]
    for split, examples in found.items()
  }
  assert told == {
    'train': [('ann', 'b', []), ('ann', 'a', ['b']), ('bob', 'c', [])],
    'validation': [('ann', 'c', ['b', 'a'])],
    'test': [('ann', 'd', ['b', 'a', 'c'])],
  }


def test_rows_that_do_not_fit_are_set_aside_and_listed(log, tmp_path):
  folder = log.write(tmp_path / 'log')
  num_lines = (folder / 'log.csv').read_text(encoding='utf-8').count('\n')
  with open(folder / 'log.csv', 'a', encoding='utf-8') as file:
    file.write('u1,1001,noon,4,Oslo,,1\n')  # No time.
    file.write(' ,1001,3,4,Oslo,,1\n')  # No user.
    file.write('u1,77,3,4,Oslo,,1\n')  # No such item.
  out = tmp_path / 'out'
  with pytest.raises(ValueError, match=r'2 of 303 lines .*rejected\.csv'):
    behavior_fixture.prepare(folder, out)
  behavior_fixture.prepare(folder, out, max_rejected_share=0.01)
  counts = output_folder.load_description(out / 'examples')['counts']
  assert counts['rejected_lines'] == 2
  assert counts['events_of_unknown_items'] == 1
  assert counts['rows'] == 303
  assert counts['examples'] == 300
  listed = rejected(out)
  assert sorted((int(row['line']), row['column']) for row in listed) == [
    (303, 'item'),
    (num_lines + 1, 'when'),  # Of the text file, where a row can have more.
    (num_lines + 2, 'user'),
  ]


def test_numbers_beyond_float32_are_set_aside(tmp_path):
  folder = tmp_path / 'log'
  folder.mkdir()
  rows = [f'ann,item {i},{i / 7!r},{i % 2}' for i in range(10)]
  rows[4] = 'ann,item 4,1e300,0'
  (folder / 'log.csv').write_text('\n'.join(['who,what,worth,liked', *rows]))
  (folder / 'log.yaml').write_text(
    'columns: {who: string, what: string, worth: float64, liked: int32}\n'
    'user: who\nitem: what\nlabel: liked\nnumeric: [worth]\n'
  )
  config = ExampleConfig(split='last')
  behavior_fixture.prepare(
    folder, tmp_path / 'out', config, max_rejected_share=0.1
  )
  out = tmp_path / 'out'
  description = output_folder.load_description(out / 'examples')
  assert description['counts']['rejected_lines'] == 1
  assert description['counts']['examples'] == 9
  listed = [(row['line'], row['column']) for row in rejected(out)]
  assert listed == [('6', 'worth')]


def test_a_sequence_without_events_can_be_mapped(tmp_path):
  log = behavior_fixture.Log(num_rows=30)
  for row in log.rows:
    row['stars'] = 5.0
  out = tmp_path / 'out'
  description, _ = behavior_fixture.prepare(log.write(tmp_path / 'log'), out)
  told = {s['name']: s['events'] for s in description['sequences']}
  assert told['negative'] == 0 and told['positive'] == 30
  for examples in behavior_fixture.read_back(out).values():
    assert all(not e['histories'][1] for e in examples)


@pytest.mark.parametrize('form', ['arrow', 'parquet'])
def test_many_examples_are_in_several_files(
  log, drawn, tmp_path, monkeypatch, form
):
  monkeypatch.setattr(example_records, '_FILE_ROWS', 25)
  monkeypatch.setattr(prepare, '_PART_ROWS', 50)
  source = log.write(tmp_path, behavior_fixture.UNLABELLED)
  behavior_fixture.prepare(
    *(source, tmp_path / 'out', ExampleConfig(negatives=3)),
    engine=Engine(threads=3),
    file_format=form,
  )
  out = tmp_path / 'out' / 'examples'
  for split in ('train', 'validation', 'test'):
    one, many = (output_folder.open_split(x, split) for x in (drawn, out))
    size = len(one)
    assert len(many) == size and len(one.read(5, 5)) == len(many.read(5, 5))
    # A drawn item that is not in the file of its event has its texts, too.
    for got, want in zip(many.read(0, size), one.read(0, size), strict=True):
      assert got.keys() == want.keys()
      assert all(np.array_equal(got[n], x) for n, x in want.items())
    assert [r['user'] for r in many.read(20, 53)] == [
      r['user'] for r in one.read(20, 53)
    ]
    if form == 'arrow':
      numbers = [size - 1, 3, 30, 3]
      taken = many.take(numbers)
      assert [r['time'] for r in taken] == [
        one.read(i, i + 1)[0]['time'] for i in numbers
      ]
    files = sorted(out.glob(f'{split}-*-of-*.{form}'))
    assert len(files) == -(-size // 25) > 1
  for path in (drawn / 'events').iterdir():
    assert (out / 'events' / path.name).read_bytes() == path.read_bytes()


def test_items_that_come_twice_are_refused(log, tmp_path):
  log = behavior_fixture.Log(num_rows=20)
  log.items.append(log.items[0])
  with pytest.raises(ValueError, match='41 rows, but 40 different values'):
    behavior_fixture.prepare(log.write(tmp_path / 'log'), tmp_path / 'out')


@views.on_spark
@pytest.mark.parametrize('is_labelled', [True, False])
def test_spark_gives_the_same_files(log, tmp_path, is_labelled):
  schema = (
    behavior_fixture.SCHEMA if is_labelled else behavior_fixture.UNLABELLED
  )
  source = log.write(tmp_path / 'log', schema)
  found, told = {}, {}
  for name in ('duckdb', 'spark'):
    behavior_fixture.prepare(
      source, tmp_path / name, engine=Engine(name=name, threads=2)
    )
    out = tmp_path / name / 'examples'
    found[name] = files_of(out)
    told[name] = json.loads((out / 'dataset.json').read_text())
  assert found['spark'].keys() == found['duckdb'].keys()
  for file, content in found['duckdb'].items():
    assert found['spark'][file] == content, file
  assert told['spark'] == told['duckdb']


@pytest.mark.parametrize(
  'options, message',
  [
    ({'test_from': 0.5}, 'validation_from <= test_from <= 1; got 0.8, 0.5'),
    ({'validation_from': 0}, 'needed 0 < validation_from'),
    ({'negatives': -1}, 'must not be negative'),
    ({'min_history': -1}, 'min_history=-1 must not be negative'),
    ({'train_until': '9'}, 'give both, or neither'),
    (
      {'train_until': '9', 'validation_until': '8'},
      'train must not end after validation',
    ),
    (
      {'train_until': '8', 'validation_until': '9', 'split': 'last'},
      'for split=time, not last',
    ),
    # Read as its first second, the day itself would be left out.
    (
      {'train_until': '2023-08-05', 'validation_until': '2023-08-05 23:59:59'},
      "'2023-08-05' is no moment.*For a whole day",
    ),
  ],
)
def test_wrong_settings_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    ExampleConfig(**options)
