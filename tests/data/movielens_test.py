# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The split rule, both layouts, and all that can be wrong with a source."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from antjax.data import (
  event_movielens,
  output_folder,
  records,
  view_melu,
)
from antjax.data.engine import Engine
from tests.data import movielens_fixture, views
from tests.data.views import files_of

CONFIG = view_melu.SplitConfig(query_size=4, min_ratings=7, max_ratings=20)
SPLITS = view_melu.SPLITS


@pytest.fixture(name='fixture', scope='module')
def _fixture():
  return movielens_fixture.Fixture()


@pytest.fixture(name='original')
def _original(fixture, tmp_path):
  return fixture.write_original(tmp_path / 'original')


def make(out, source, config=CONFIG, *, allow_other_counts=True, **options):
  events = event_movielens.source(source, allow_other_counts=allow_other_counts)
  options = {'file_format': 'parquet', **options}
  return views.write(out, events, 'melu', config, **options)


@pytest.fixture(name='prepared', scope='module')
def _prepared(fixture, tmp_path_factory):
  """(folder, its description), for tests that change nothing."""
  folder = tmp_path_factory.mktemp('prepared')
  source = fixture.write_original(folder / 'original')
  description, made = make(folder / 'out', source)
  assert made and make(folder / 'out', source) == (description, False)
  return folder / 'out', description


def read(out, split, file_format='parquet'):
  path = out / 'tasks' / f'{split}.{file_format}'
  source = records.open_source(path, view_melu.SCHEMA)
  return source.read(0, len(source))


def vocabulary(out, feature):
  table = pq.read_table(out / 'tasks' / f'ids_{feature}.parquet')
  return dict(zip(table['id'].to_pylist(), table[feature].to_pylist()))


def test_split_rule(fixture, prepared):
  """Everything in the files follows from the raw ratings and the rule."""
  out, description = prepared
  year = {i: int(t[-5:-1]) for i, t, _ in fixture.items}
  title = {i: t for i, t, _ in fixture.items}
  by_user = {}
  for u, i, r, t in fixture.ratings:
    by_user.setdefault(u, {})[title[i], r, t] = year[i] <= 1997
  item_of = vocabulary(out, 'item')
  loaded = {split: read(out, split) for split in SPLITS}
  warm = {int(r['task']) + 1 for r in loaded['train']}
  assert len(warm) == 16  # 80% of 20; all have old films.

  held_out = set()
  for split in SPLITS[1:]:
    old = split in ('warm', 'user_cold')
    expected = {
      u
      for u, ratings in by_user.items()
      if (u in warm) == (split in ('warm', 'item_cold'))
      and 7 <= sum(v == old for v in ratings.values()) <= 20
    }
    assert {int(r['task']) + 1 for r in loaded[split]} == expected
    assert expected
    for record in loaded[split]:
      user = int(record['task']) + 1
      pairs = sorted(zip(record['rating'], record['timestamp']))
      assert pairs == sorted(
        (r, t) for (_, r, t), o in by_user[user].items() if o == old
      )
      assert record['num_query'] == 4
      if split == 'warm':
        times = record['timestamp'][-4:].tolist()
        held_out |= {(user, t) for t in times}
  for record in loaded['train']:
    user = int(record['task']) + 1
    expected = {
      (name, float(r), t)
      for (name, r, t), o in by_user[user].items()
      if o and (user, t) not in held_out
    }
    found = set(
      zip(
        (item_of[i] for i in record['item'].tolist()),
        record['rating'].tolist(),
        record['timestamp'].tolist(),
      )
    )
    assert found == expected
    assert record['num_query'] == 0
  assert description['splits']['train']['ratings'] == sum(
    len(r['item']) for r in loaded['train']
  )


def test_features(fixture, prepared):
  out, description = prepared
  genres = vocabulary(out, 'genres')
  assert genres == dict(
    enumerate(sorted({g for i in fixture.items for g in i[2]}))
  )
  genres_of = {t: g for _, t, g in fixture.items}
  items = vocabulary(out, 'item')
  assert min(items) == 1
  assert 0 not in vocabulary(out, 'zip')
  user_of = {u: rest for u, *rest in fixture.users}
  trained = {i for r in read(out, 'train') for i in r['item'].tolist()}
  assert trained == set(items)
  warm_zips = {user_of[int(r['task']) + 1][3] for r in read(out, 'train')}
  assert set(vocabulary(out, 'zip').values()) == warm_zips
  for split in SPLITS:
    for record in read(out, split):
      assert record['genres'].shape == (len(record['item']), 3)
      for item, row in zip(record['item'].tolist(), record['genres']):
        if item:
          expected = [g for g in genres if genres[g] in genres_of[items[item]]]
          assert row[row >= 0].tolist() == expected
      values = user_of[int(record['task']) + 1]
      for name, value in zip(('gender', 'age', 'occupation', 'zip'), values):
        known = vocabulary(out, name)
        assert known.get(int(record[name])) == (
          value if value in known.values() else None
        )
  for split in ('item_cold', 'both_cold'):
    assert not any(r['item'].any() for r in read(out, split))
  features = description['features']
  assert features['genres'] == {'num_ids': len(genres), 'max_values': 3}
  assert features['item'] == {'num_ids': len(items) + 1, 'max_values': 1}
  assert set(features) == {'item', 'genres', *view_melu.USER_FEATURES}


def test_neither_layouts_packings_nor_threads_matter(
  fixture, original, prepared, tmp_path
):
  recbole = fixture.write_recbole(tmp_path / 'recbole')
  sources = {
    'a': recbole,
    'b': movielens_fixture.zip_folder(original, tmp_path / 'original.zip'),
    'c': movielens_fixture.zip_folder(recbole, tmp_path / 'recbole.whl'),
  }
  expected = files_of(prepared[0])
  for threads, (name, source) in zip((1, 4, 2), sources.items()):
    make(tmp_path / name, source, engine=Engine(threads=threads))
    assert files_of(tmp_path / name) == expected


def test_in_time_the_query_comes_after_the_support(
  original, prepared, tmp_path
):
  config = dataclasses.replace(CONFIG, order='time')
  make(out := tmp_path / 'time', original, config)
  is_in_time = []
  for split in SPLITS:
    for record, other in zip(read(out, split), read(prepared[0], split)):
      assert (np.diff(record['timestamp']) >= 0).all()
      is_in_time.append((np.diff(other['timestamp']) >= 0).all())
      if split not in ('train', 'warm'):  # The same ratings.
        for name in ('timestamp', 'rating'):
          np.testing.assert_array_equal(
            *map(np.sort, (record[name], other[name]))
          )
  assert not any(is_in_time)


def test_a_folder_says_how_its_files_are_opened(original, prepared, tmp_path):
  by_format = {}
  for file_format in ('arrow', 'array_record'):
    description, _ = make(
      tmp_path / file_format, original, file_format=file_format
    )
    assert description['format'] == file_format
    assert description['scenarios'] == list(SPLITS[1:])
  for out in (tmp_path / 'arrow', tmp_path / 'array_record', prepared[0]):
    source = output_folder.open_split(out / 'tasks', 'item_cold')
    by_format[out] = source.read(0, len(source))
  for a, b, c in zip(*by_format.values(), strict=True):
    for name in view_melu.SCHEMA:
      np.testing.assert_array_equal(a[name], b[name])
      np.testing.assert_array_equal(a[name], c[name])
  block = output_folder.open_split(
    tmp_path / 'arrow' / 'tasks', 'train', as_blocks=True
  ).read(0, 8)
  assert block.rows['genres'].shape[1] == 3
  with pytest.raises(ValueError, match="no split 'dev'; it has train, warm"):
    output_folder.open_split(tmp_path / 'arrow' / 'tasks', 'dev')
  path = tmp_path / 'arrow' / 'tasks' / output_folder.DESCRIPTION
  old = json.loads(path.read_text())
  del old['schema']
  path.write_text(json.dumps(old))
  with pytest.raises(
    ValueError, match='has no schema: it was made by an older'
  ):
    output_folder.open_split(tmp_path / 'arrow' / 'tasks', 'train')


def test_lists_are_followed(fixture, original, tmp_path):
  """Lists of another rule, with films that both copies spell differently."""
  old = [i for i, *_ in fixture.items if i % 3]
  files = ('warm', 'user_cold', 'item_cold', 'user_and_item_cold')
  lists = {name: {} for name in files}
  for u, i, *_ in fixture.ratings[:-1]:  # One is in no list.
    place = (u % 2 == 0) + 2 * (i not in old)
    lists[files[place]].setdefault(str(u), []).append(str(i))
  folder = tmp_path / 'lists'
  folder.mkdir()
  films = (original / 'movies.dat').read_bytes()
  (folder / 'movies.dat').write_bytes(films.replace(b'\xe9', b'\xef\xbf\xbd'))
  for name, listed in lists.items():
    (folder / f'{name}_state.json').write_text(json.dumps(listed))
  config = dataclasses.replace(CONFIG, lists=str(folder))
  made, _ = make(tmp_path / 'out', original, config)
  names = dict(zip(SPLITS[1:], files))
  assert {s: made['states'][s]['ratings'] for s in names} == {
    s: sum(map(len, lists[name].values())) for s, name in names.items()
  }
  assert made['states']['user_cold']['users'] == 10
  num_queries = made['states']['warm']['eligible_users'] * CONFIG.query_size
  num_warm = made['states']['warm']['ratings']
  assert made['splits']['train']['ratings'] == num_warm - num_queries
  (folder / 'item_cold_state.json').write_text('{}')
  with pytest.raises(ValueError, match='holds data made with lists='):
    make(tmp_path / 'out', original, config)


def test_other_settings_need_overwrite(original, prepared, tmp_path):
  out = tmp_path / 'out'
  make(out, original)
  before = files_of(out)
  config = dataclasses.replace(CONFIG, seed=5)
  with pytest.raises(ValueError, match=r'seed=0 \(now 5\); add --overwrite'):
    make(out, original, config)
  assert files_of(out) == before
  make(out, original, config, overwrite=True)
  assert files_of(out).keys() == before.keys()
  assert output_folder.load_description(out / 'tasks')['seed'] == 5
  other = [read(out, 'train') for out in (out, prepared[0])]
  assert len({str([r['task'] for r in x]) for x in other}) == 2
  assert sorted(p.name for p in tmp_path.iterdir()) == ['original', 'out']


def test_changed_source_is_noticed(original, tmp_path):
  make(tmp_path / 'out', original)
  with open(original / 'ratings.dat', 'a') as file:
    file.write('1::1::5::1\n')
  with pytest.raises(ValueError, match='data=sha256:.* add --overwrite'):
    make(tmp_path / 'out', original)


def test_other_counts(original, tmp_path):
  with pytest.raises(ValueError) as error:
    make(tmp_path / 'out', original, allow_other_counts=False)
  text = str(error.value)
  assert 'ratings (needed: 1000209) and 20 users (needed: 6040)' in text
  assert 'add --allow_other_counts' in text
  assert '\n' not in text
  assert [p.name for p in tmp_path.iterdir()] == ['original']


@pytest.mark.parametrize(
  ('name', 'change', 'message'),
  [
    ('ratings.dat', lambda s: s + '21::1::5::1\n', 'ratings of unknown users'),
    ('ratings.dat', lambda s: s + '1::999::5::1\n', 'unknown item'),
    ('ratings.dat', lambda s: s + '1::50::6::1\n', 'ratings outside 1 to 5'),
    (
      'ratings.dat',
      lambda s: s + s.splitlines()[0] + '\n',
      'ratings has a key more than once: 1 rows; the first: user=1',
    ),
    ('users.dat', lambda s: s + '1::F::1::1::0\n', 'users has a key more'),
    ('movies.dat', lambda s: s + '99::Untitled::Drama\n', r"end in '\(YEAR\)'"),
    ('movies.dat', lambda s: s + '99::New (1999)::\n', 'items without genre'),
    (
      'movies.dat',
      lambda s: s + '99::Film 7 (1997)::Drama\n',
      'items has a key more than once',
    ),
  ],
)
def test_files_that_do_not_fit_together(
  original, tmp_path, name, change, message
):
  text = (original / name).read_text('latin-1')
  if name == 'ratings.dat':  # Make room for the new rating of film 50.
    lines = text.splitlines(keepends=True)
    text = ''.join(x for x in lines if not x.startswith('1::50::'))
  (original / name).write_text(change(text), 'latin-1')
  with pytest.raises(ValueError, match=message) as error:
    make(tmp_path / 'out', original)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'out').exists()


def test_malformed_lines(original, tmp_path):
  with open(original / 'ratings.dat', 'a') as file:
    file.write('1::x::5::1\n')
  out = tmp_path / 'out'
  description, _ = make(out, original, max_rejected_share=0.01)
  assert description['counts']['rejected_lines'] == 1
  text = (out / 'events' / 'rejected.csv').read_text()
  assert '1::x::5::1' in text
  assert 'ratings.dat' in text
  assert make(out, original, max_rejected_share=0.01)[1] is False


def test_too_many_malformed_lines(original, tmp_path):
  with open(original / 'ratings.dat', 'a') as file:
    file.write('1::x::5::1\n')
  out = tmp_path / 'out'
  with pytest.raises(ValueError, match='1 of .* are malformed') as error:
    make(out, original)
  assert str(out / 'events' / 'rejected.csv') in str(error.value)
  assert [p.name for p in out.rglob('*')] == ['events', 'rejected.csv']
  make(out, original, max_rejected_share=0.01)  # The folder is still ours.
  with pytest.raises(ValueError, match='are malformed') as error:
    make(out, original, overwrite=True)
  assert str(out / 'events.rejected.csv') in str(error.value)
  assert (out / 'tasks' / 'train.parquet').exists()


def test_wrong_column(fixture, tmp_path):
  source = fixture.write_recbole(tmp_path / 'recbole')
  path = source / 'ml-1m.inter'
  path.write_bytes(path.read_bytes().replace(b'rating:float', b'score:float'))
  with pytest.raises(ValueError) as error:
    make(tmp_path / 'out', source)
  text = str(error.value)
  assert f'{path} has the columns user_id:token, item_id:token, score' in text
  assert 'needed: user_id:token, item_id:token, rating:float' in text
  assert not (tmp_path / 'out').exists()


def test_bad_encoding(fixture, tmp_path):
  source = fixture.write_recbole(tmp_path / 'recbole')
  path = source / 'ml-1m.item'
  path.write_bytes(path.read_bytes().decode().encode('latin-1'))
  with pytest.raises(
    ValueError, match='2 of 60 lines .*ml-1m.item .*not utf-8'
  ):
    make(tmp_path / 'out', source)


@pytest.mark.parametrize('missing', ['ratings.dat', 'users.dat', 'movies.dat'])
def test_missing_file(original, tmp_path, missing):
  (original / missing).unlink()
  with pytest.raises(FileNotFoundError) as error:
    make(tmp_path / 'out', original)
  found = {'ratings.dat', 'users.dat', 'movies.dat'} - {missing}
  assert f'found: {", ".join(sorted(found))}.' in str(error.value)


def test_bad_source(tmp_path):
  with pytest.raises(FileNotFoundError, match='no such source: .*none'):
    make(tmp_path / 'out', tmp_path / 'none')
  (tmp_path / 'file').write_text('x')
  with pytest.raises(ValueError, match='neither a folder nor a whole zip'):
    make(tmp_path / 'out', tmp_path / 'file')


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'warm_share': 1.0}, 'warm_share must lie between 0 and 1; got 1.0'),
    ({'query_size': 13}, '0 < query_size < min_ratings <= max_ratings'),
    ({'max_ratings': 5}, 'got 10, 13, 5'),
  ],
)
def test_bad_config(options, message):
  with pytest.raises(ValueError, match=message):
    view_melu.SplitConfig(**options)


def test_counts_table(prepared):
  (table,) = view_melu.MeluView().tables(prepared[1])
  names = [x for state in SPLITS[1:] for x in (state, '  MeLU')]
  assert [row[0] for row in table] == ['split', *names, 'train']
  assert table[2][1:] == ['4,832', '640,448', '2,653', '121,811']
  assert {len(row) for row in table} == {5}
