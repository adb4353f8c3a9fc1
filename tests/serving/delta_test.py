# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The old export and a delta are the new export, bit for bit."""

import dataclasses
import logging

import numpy as np
import pytest

from antjax.serving import delta, exporter, loader


def model(rng, titles, rows=None, dim=4, step=0):
  """Made-up arrays; `rows` is title -> row, where it is to be that one."""
  titles = sorted(titles)
  table = rng.normal(size=(len(titles) + 1, dim)).astype(np.float32)
  for i, title in enumerate(titles, 1):
    if rows and title in rows:
      table[i] = rows[title]
  return exporter.Exported(
    functions={'predict': b'same code'},
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


def assert_same_folder(one, other):
  files = [
    sorted(p.relative_to(f) for p in f.rglob('*') if p.is_file())
    for f in (one, other)
  ]
  assert files[0] == files[1]
  for path in files[0]:
    assert (one / path).read_bytes() == (other / path).read_bytes(), path


@pytest.fixture(params=['none', 'int8'])
def days(request, tmp_path, monkeypatch):
  """Day 1, and day 2: one title gone, two new, two rows trained."""
  monkeypatch.setattr(delta, '_BLOCK', 7)  # Several blocks.
  rng = np.random.default_rng(0)
  first = model(rng, [f't{i:02}' for i in range(30)])
  rows = rows_of(first)
  rows['t03'] = rows['t03'] * np.float32(-2)
  rows['t20'] = rows['t20'] + np.float32(1)
  titles = (set(rows) | {'a new one', 't115'}) - {'t07'}
  second = model(rng, titles, rows, step=9)
  second.tables['item'][0] = first.tables['item'][0]
  for name, one in (('day1', first), ('day2', second)):
    exporter.write(tmp_path / name, one, quantize=request.param)
  return tmp_path


def test_old_export_and_delta_are_the_new_one(days):
  told = delta.write(days / 'day1', days / 'day2', days / 'delta')
  assert told['tables']['item'] == {'rows': 32, 'changed': 4, 'moved': True}
  assert told['tables']['city'] == {'rows': 5, 'changed': 0, 'moved': False}
  delta.apply(days / 'day1', days / 'delta', days / 'made')
  assert_same_folder(days / 'made', days / 'day2')
  # What has not changed is not sent.
  sent = {p.name for p in (days / 'delta').rglob('*') if p.is_file()}
  assert 'predict.jax_export' not in sent and 'params.npz' in sent
  assert loader.read_manifest(days / 'made')['step'] == 9


def test_a_delta_of_nothing(days):
  told = delta.write(days / 'day1', days / 'day1', days / 'delta')
  assert all(t['changed'] == 0 for t in told['tables'].values())
  delta.apply(days / 'day1', days / 'delta', days / 'made')
  assert_same_folder(days / 'made', days / 'day1')


def test_without_a_vocabulary_rows_keep_their_ids(tmp_path):
  rng = np.random.default_rng(0)
  first = dataclasses.replace(model(rng, 'abcdef'), vocabularies={})
  table = np.concatenate([first.tables['item'], np.ones((2, 4), np.float32)])
  table[3, 1] = -0.0
  first.tables['item'][3, 1] = 0.0
  second = dataclasses.replace(first, tables=first.tables | {'item': table})
  exporter.write(tmp_path / 'day1', first)
  exporter.write(tmp_path / 'day2', second)
  told = delta.write(tmp_path / 'day1', tmp_path / 'day2', tmp_path / 'delta')
  # The two new ones, and the row whose zero has another sign.
  assert told['tables']['item']['changed'] == 3
  delta.apply(tmp_path / 'day1', tmp_path / 'delta', tmp_path / 'made')
  assert_same_folder(tmp_path / 'made', tmp_path / 'day2')


def with_vocabulary(exported, keys, ids):
  return dataclasses.replace(
    exported, vocabularies={'item': (np.array(keys), np.array(ids))}
  )


def test_rows_of_evicted_and_absent_keys_are_not_sent(tmp_path):
  """A table of a growing vocabulary is mostly room for keys to come."""
  first = model(np.random.default_rng(0), [f't{i:03}' for i in range(99)])
  table = first.tables['item'].copy()
  table[[3, 5]] += 1  # Row 3 is trained; row 5 is reset for another key.
  second = dataclasses.replace(first, tables=first.tables | {'item': table})
  keys = {'day1': [(10, 3), (20, 4), (30, 5)], 'day2': [(10, 3), (40, 5)]}
  for day, one in (('day1', first), ('day2', second)):
    exporter.write(tmp_path / day, with_vocabulary(one, *zip(*keys[day])))
  told = delta.write(tmp_path / 'day1', tmp_path / 'day2', tmp_path / 'delta')
  assert told['tables']['item'] == {'rows': 100, 'changed': 2, 'moved': True}
  delta.apply(tmp_path / 'day1', tmp_path / 'delta', tmp_path / 'made')
  assert_same_folder(tmp_path / 'made', tmp_path / 'day2')


def test_deltas_follow_one_another(days):
  """Two in a row; each only after its own, and only once."""
  third = model(np.random.default_rng(1), [f't{i:02}' for i in range(9)])
  how = 'int8' if (days / 'day1/tables/item.scale.npy').exists() else 'none'
  exporter.write(days / 'day3', third, quantize=how)
  for old, new in (('day1', 'day2'), ('day2', 'day3')):
    delta.write(days / old, days / new, days / f'to_{new}')
  delta.apply(days / 'day1', days / 'to_day2', days / 'made2')
  delta.apply(days / 'made2', days / 'to_day3', days / 'made3')
  assert_same_folder(days / 'made3', days / 'day3')
  for base, then in (('made2', 'to_day2'), ('day1', 'to_day3')):
    with pytest.raises(ValueError, match='Apply deltas in the order'):
      delta.apply(days / base, days / then, days / 'wrong')
  assert not (days / 'wrong').exists()


def test_what_does_not_fit_is_refused(days):
  delta.write(days / 'day1', days / 'day2', days / 'delta')
  with pytest.raises(ValueError, match='made for another full export'):
    delta.apply(days / 'day2', days / 'delta', days / 'made')
  with pytest.raises(FileNotFoundError, match='--since writes one'):
    delta.apply(days / 'day1', days / 'day2', days / 'made')
  with np.load(days / 'delta/tables/item.npz') as parts:
    parts = dict(parts)
  parts['changed'] = parts['changed'][::-1]
  np.savez(days / 'delta/tables/item.npz', **parts)
  with pytest.raises(ValueError, match='is not what was exported'):
    delta.apply(days / 'day1', days / 'delta', days / 'made')
  assert not (days / 'made').exists()


def test_names_may_have_slashes_and_dots(tmp_path):
  rng = np.random.default_rng(0)
  for day in ('day1', 'day2'):
    one = model(rng, 'abc')
    renamed = {'../a/b': one.tables['item'], 'a.scale': one.tables['city']}
    feature = one.features['item'] | {'table': '../a/b'}
    exporter.write(
      tmp_path / day,
      dataclasses.replace(
        one,
        tables=renamed,
        features={'../a/b': feature},
        vocabularies={'../a/b': one.vocabularies['item']},
      ),
      quantize='int8',
    )
  delta.write(tmp_path / 'day1', tmp_path / 'day2', tmp_path / 'delta')
  delta.apply(tmp_path / 'day1', tmp_path / 'delta', tmp_path / 'made')
  assert_same_folder(tmp_path / 'made', tmp_path / 'day2')
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    *('day1', 'day2', 'delta', 'made')
  ]


def test_what_a_killed_export_left_is_named(days, caplog):
  (days / '.delta.partial-x').mkdir()
  with caplog.at_level(logging.WARNING):
    delta.write(days / 'day1', days / 'day2', days / 'delta')
  assert '.delta.partial-x was left by a run that was killed' in caplog.text
  assert [p.name for p in days.glob('.*')] == ['.delta.partial-x']


def test_two_ways_of_storing_do_not_mix(tmp_path):
  one = model(np.random.default_rng(0), 'abc')
  exporter.write(tmp_path / 'f32', one)
  exporter.write(tmp_path / 'int8', one, quantize='int8')
  with pytest.raises(ValueError, match='as float32 in the base'):
    delta.write(tmp_path / 'f32', tmp_path / 'int8', tmp_path / 'delta')
