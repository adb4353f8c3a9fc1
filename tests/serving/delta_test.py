# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An export and the deltas after it score as the new model, bit for bit."""

import dataclasses
import io
import logging

import numpy as np
import pytest

from antjax.serving import delta, exporter, feed, loader


def model(rng, titles, rows=None, dim=4, step=0):
  """Made-up arrays; `rows` is title -> row, where it is to be that one."""
  titles = sorted(titles)
  table = rng.normal(size=(len(titles) + 1, dim)).astype(np.float32)
  for i, title in enumerate(titles, 1):
    if rows and title in rows:
      table[i] = rows[title]
  return exporter.Exported(
    functions={},
    params={'a/b': rng.normal(size=3).astype(np.float32)},
    tables={'item': table, 'city': np.ones((5, 2), np.float32)},
    features={
      'item': {
        'table': 'item',
        'num_ids': len(table),
        'max_values': 1,
        'embedding_dim': dim,
      }
    },
    vocabularies={'item': (np.array(titles), np.arange(1, len(titles) + 1))},
    support_sizes=(4,),
    query_size=4,
    info={'step': step},
  )


def rows_of(exported):
  titles, ids = exported.vocabularies['item']
  return dict(zip(titles.tolist(), exported.tables['item'][ids], strict=True))


@pytest.fixture(params=['none', 'int8'])
def days(request, tmp_path, monkeypatch):
  """Folder with day 1's export, and models of day 2 and 3 with other ids.

  On day 2 one title is gone, two are new, and two rows are trained.
  """
  for module in (delta, exporter):
    monkeypatch.setattr(module, '_BLOCK', 7)  # Several blocks.
  rng = np.random.default_rng(0)
  first = model(rng, [f't{i:02}' for i in range(30)])
  rows = rows_of(first)
  rows['t03'] = rows['t03'] * np.float32(-2)
  rows['t20'] = rows['t20'] + np.float32(1)
  titles = (set(rows) | {'a new one', 't115'}) - {'t07'}
  second = model(rng, titles, rows, step=9)
  second.tables['item'][0] = first.tables['item'][0]
  third = model(rng, [f't{i:02}' for i in range(9)] + ['new'], step=12)
  exporter.write(tmp_path / 'base', first, quantize=request.param)
  return tmp_path, request.param, second, third


def write(folder, new):
  base, deltas = folder / 'base', folder / 'deltas'
  return delta.write(delta.opened(base, deltas), new, deltas)


def scores(opened):
  """What a request gets: vectors of titles, and parameters."""
  titles = [f't{i:02}' for i in range(32)] + ['a new one', 't115', 'new']
  vectors = opened.tables['item'].read(opened.ids('item', titles))
  city = opened.tables['city'].read(np.arange(5))
  return [vectors, city, *map(np.asarray, opened.params.values())]


def assert_scores_are_of(found, new, folder, quantize):
  name = f'of step {new.info["step"]}'
  if not (folder / name).exists():
    exporter.write(folder / name, new, quantize=quantize)
  want = scores(loader.Model(folder / name))
  for one, other in zip(scores(found), want, strict=True):
    np.testing.assert_array_equal(one, other)


def test_deltas_follow_one_another_and_fold_into_an_export(days):
  folder, quantize, second, third = days
  base, deltas = folder / 'base', folder / 'deltas'
  files = {p: p.read_bytes() for p in base.rglob('*') if p.is_file()}
  # Two trained, two new; one of these in the row of the title that is gone.
  assert write(folder, second) == {'item': (4, 32), 'city': (0, 5)}
  now = delta.opened(base, deltas)
  assert_scores_are_of(now.model, second, folder, quantize)
  delta.apply(now, folder / 'folded')
  folded = loader.read_manifest(folder / 'folded')
  assert (folded['step'], folded['sequence']) == (9, 1)
  assert folded['features']['item']['num_ids'] == 32
  assert_scores_are_of(
    loader.Model(folder / 'folded'), second, folder, quantize
  )
  # The next one follows the base with its deltas, and what was made of them.
  write(folder, third)
  for of in ('base', 'folded'):
    now = delta.opened(folder / of, deltas)
    assert now.live.version['sequence'] == 2
    assert_scores_are_of(now.model, third, folder, quantize)
  assert files == {p: p.read_bytes() for p in base.rglob('*') if p.is_file()}


@pytest.mark.parametrize('kind', ['U', 'i8', 'i4', 'first id 0'])
def test_a_delta_is_what_a_search_key_by_key_finds(tmp_path, kind):
  rng, is_text = np.random.default_rng(1), kind == 'U'
  first_id = 0 if kind == 'first id 0' else 1

  def of_day(keys):
    made = model(rng, [f'{i:03}' for i in range(99)])
    ids = first_id + rng.permutation(95)[: len(keys)]
    keys = np.array([f'k{i}' for i in keys]) if is_text else np.array(keys)
    keys = keys.astype('i4') if kind == 'i4' else keys
    return with_vocabulary(made, keys, np.append(first_id, ids[1:]))

  before, after = rng.permutation(150)[:80], rng.permutation(150)[:90]
  first, second = of_day(before), of_day(after)
  exporter.write(tmp_path / 'base', first)
  write(tmp_path, second)
  content = (tmp_path / 'deltas' / feed.name_of(1)).read_bytes()
  payload = content.partition(b'\n')[2]
  with np.load(io.BytesIO(payload)) as file:
    found = dict(file)
  old = dict(zip(*(x.tolist() for x in first.vocabularies['item'])))
  new = dict(zip(*(x.tolist() for x in second.vocabularies['item'])))
  places = {} if first_id == 0 else {0: 0}
  places |= {i: old[key] for key, i in new.items() if key in old}
  free = [i for i in range(100) if i not in places.values()]
  free += range(100, 200)
  for i in sorted({*new.values()} - {*places}):
    places[i] = free.pop(0)
  moved = [key for key, i in new.items() if old.get(key) != places[i]]
  gone = sorted({*old} - {*new}, key=lambda x: str(x) if is_text else x)
  rows = {places[i]: second.tables['item'][i] for i in places}
  width = 'S4' if is_text else second.vocabularies['item'][0].dtype
  want = {
    'params/a/b': second.params['a/b'],
    'keys/item': np.array(moved, width),
    'gone/item': np.array(gone, width),
    'ids/item': np.array([places[new[key]] for key in moved], np.int32),
    'rows/item': np.array(sorted(rows), np.int32),
    'values/item': np.stack([rows[i] for i in sorted(rows)]),
  }
  assert {*found} == {*want}
  for name, array in want.items():
    assert found[name].dtype == array.dtype, name
    np.testing.assert_array_equal(found[name], array, err_msg=name)
  again = io.BytesIO()
  np.savez(again, **{name: found[name] for name in found})
  assert payload == again.getvalue()


def test_a_delta_of_nothing(days):
  folder, quantize, second, _ = days
  write(folder, second)
  assert write(folder, second) == {'item': (0, 32), 'city': (0, 5)}
  now = delta.opened(folder / 'base', folder / 'deltas')
  assert now.live.version['sequence'] == 2
  assert_scores_are_of(now.model, second, folder, quantize)


def test_without_a_vocabulary_rows_keep_their_ids(tmp_path):
  rng = np.random.default_rng(0)
  first = dataclasses.replace(model(rng, 'abcdef'), vocabularies={})
  table = np.concatenate([first.tables['item'], np.ones((2, 4), np.float32)])
  table[3, 1] = -0.0
  first.tables['item'][3, 1] = 0.0
  second = dataclasses.replace(first, tables=first.tables | {'item': table})
  exporter.write(tmp_path / 'base', first)
  # The two new ones, and the row whose zero has another sign.
  assert write(tmp_path, second)['item'] == (3, 9)
  now = delta.opened(tmp_path / 'base', tmp_path / 'deltas')
  found = now.model.tables['item'].read(np.arange(9))
  assert found.tobytes() == table.tobytes()


def with_vocabulary(exported, keys, ids):
  return dataclasses.replace(
    exported, vocabularies={'item': (np.array(keys), np.array(ids))}
  )


@pytest.mark.parametrize('first_id', [0, 3])
def test_rows_of_evicted_and_absent_keys_are_not_sent(tmp_path, first_id):
  """A table of a growing vocabulary is mostly room for keys to come."""
  first = model(np.random.default_rng(0), [f't{i:03}' for i in range(99)])
  table = first.tables['item'].copy()
  table[[first_id, 5]] += 1  # One is trained; row 5 is reset for another key.
  second = dataclasses.replace(first, tables=first.tables | {'item': table})
  before, after = [(10, first_id), (20, 4), (30, 5)], [(10, first_id), (40, 5)]
  exporter.write(tmp_path / 'base', with_vocabulary(first, *zip(*before)))
  told = write(tmp_path, with_vocabulary(second, *zip(*after)))
  assert told['item'] == (2, 100)
  delta.apply(
    delta.opened(tmp_path / 'base', tmp_path / 'deltas'), tmp_path / 'made'
  )
  made = loader.Model(tmp_path / 'made')
  ids = made.ids('item', [10, 20, 30, 40])
  assert (ids[[1, 2]] == made.unknown['item']).all()
  assert made.unknown['item'] == (0 if first_id else -1)
  found = made.tables['item'].read(ids[[0, 3]])
  np.testing.assert_array_equal(found, table[[first_id, 5]])


def test_what_does_not_fit_is_refused(days):
  folder, _, second, third = days
  wider = dataclasses.replace(
    second, tables=second.tables | {'item': np.ones((32, 5), np.float32)}
  )
  other = dataclasses.replace(second, functions={'predict': b'code'})
  bad = dataclasses.replace(second, params={'a/b': np.full(3, np.nan, 'f4')})
  for new, message in (
    (wider, 'differ in tables, which no delta changes; write a full export'),
    (other, 'differ in functions, which'),
    (bad, 'params/a/b does not fit this model: NaN'),
  ):
    with pytest.raises(ValueError, match=message):
      write(folder, new)
  assert not (folder / 'deltas').exists()
  write(folder, second)
  write(folder, third)
  (folder / 'deltas' / feed.name_of(1)).unlink()
  with pytest.raises(ValueError, match='0000000001.delta is missing'):
    write(folder, second)


def test_names_may_have_slashes_and_dots(tmp_path):
  rng = np.random.default_rng(0)
  made = []
  for _ in range(2):
    one = model(rng, 'abc')
    feature = one.features['item'] | {'table': '../a/b'}
    one = dataclasses.replace(
      one,
      tables={'../a/b': one.tables['item'], 'a.scale': one.tables['city']},
      features={'../a/b': feature},
      vocabularies={'../a/b': one.vocabularies['item']},
    )
    made.append(one)
  exporter.write(tmp_path / 'base', made[0], quantize='int8')
  write(tmp_path, made[1])
  now = delta.opened(tmp_path / 'base', tmp_path / 'deltas')
  delta.apply(now, tmp_path / 'made')
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    *('base', 'deltas', 'made')
  ]
  exporter.write(tmp_path / 'day2', made[1], quantize='int8')
  table = loader.Model(tmp_path / 'made').tables['../a/b'].read(np.arange(4))
  want = loader.Model(tmp_path / 'day2').tables['../a/b'].read(np.arange(4))
  np.testing.assert_array_equal(table, want)


def test_what_a_killed_export_left_is_named(tmp_path, caplog):
  (tmp_path / '.out.partial-x').mkdir()
  with caplog.at_level(logging.WARNING):
    exporter.write(tmp_path / 'out', model(np.random.default_rng(0), 'abc'))
  assert '.out.partial-x was left by a run that was killed' in caplog.text
  assert [p.name for p in tmp_path.glob('.*')] == ['.out.partial-x']
