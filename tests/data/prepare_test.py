# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bulk work as ibis expressions."""

import ibis
import pyarrow as pa
import pytest

from antjax.data import prepare


@pytest.fixture(name='con')
def _con():
  con = ibis.duckdb.connect(threads=2)
  yield con
  con.disconnect()


def _memtable(columns):
  return ibis.memtable(pa.table(columns))


def rows(table):
  order = list(table.columns)
  return [
    tuple(r.values()) for r in table.order_by(order).to_pyarrow().to_pylist()
  ]


def test_dense_ids_and_to_ids(con):
  table = con.create_table(
    't', _memtable({'k': ['b', 'a', None, 'c', 'a', 'b']})
  )
  ids = prepare.dense_ids(table.filter(table.k != 'c'), 'k', first=1)
  assert rows(ids) == [('a', 1), ('b', 2)]
  assert ids.schema()['id'].is_int32()
  coded = prepare.to_ids(table, {'k': ids})
  assert sorted(coded.k.to_pyarrow().to_pylist()) == [0, 0, 1, 1, 2, 2]


def test_in_first_share(con):
  table = con.create_table('t', _memtable({'k': list(range(1001))}))

  def chosen(seed, salt='s'):
    mark = prepare.in_first_share(table, 'k', share=0.8, seed=seed, salt=salt)
    return set(table.filter(mark).k.to_pyarrow().to_pylist())

  assert len(chosen(0)) == 801
  assert chosen(0) == chosen(0) != chosen(1)
  assert chosen(0) != chosen(0, 'other')


def test_group_into_lists(con):
  table = con.create_table(
    't',
    _memtable({'k': [2, 1, 2, 1, 2], 'n': [3, 2, 1, 1, 2], 'v': list('abcde')}),
  )
  grouped = prepare.group_into_lists(table, ['k'], ['v'], ['n'])
  assert rows(grouped) == [(1, ['d', 'b']), (2, ['c', 'e', 'a'])]


def test_digest_is_pinned(con):
  """A changed digest would change every split."""
  table = con.create_table('t', _memtable({'u': [7], 'i': ['x']}))
  value = prepare.digest(3, 'salt', table.u, table.i)
  # md5(b'3:salt:7:x')
  assert value.to_pyarrow().to_pylist() == [DIGEST]


DIGEST = '301c77f22b2cbcd6ac36d9f2753bb6a2'


@pytest.mark.parametrize('threads', [1, 2, 4])
def test_threads_do_not_matter(threads):
  con = ibis.duckdb.connect(threads=threads, memory_limit='500MB')
  table = con.create_table(
    't',
    ibis.range(60_000).unnest().name('i').as_table().mutate(k=ibis._.i % 97),
  )
  table = table.mutate(order=prepare.digest(1, 's', table.i))
  grouped = prepare.group_into_lists(table, ['k'], ['i'], ['order'])
  found = dict(rows(grouped))
  assert found[5][:3] == FIRST_OF_5
  assert sorted(sum(found.values(), [])) == list(range(60_000))
  con.disconnect()


FIRST_OF_5 = [29396, 9608, 27747]
