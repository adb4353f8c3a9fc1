# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ids of behaviors are exact, stable over days, and survive a kill."""

import collections
import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys

import ibis
import numpy as np
import pyarrow as pa
import pytest

from antjax.data import behavior_vocabulary
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from tests import source_tree
from tests.cases import first_fast


@pytest.fixture(scope='module')
def con():
  con = ibis.duckdb.connect(threads=2)
  yield con
  con.disconnect()


def append(con, folder, counts, source, normalizer='nfkc-1'):
  schema = pa.schema([('text', pa.string()), ('count', pa.int64())])
  columns = {'text': list(counts), 'count': list(counts.values())}
  table = ibis.memtable(pa.table(columns, schema))
  return behavior_vocabulary.append(
    con, folder, table, normalizer=normalizer, source=source
  )


def test_frequent_texts_come_first_and_then_the_order_of_bytes(con, tmp_path):
  counts = {'b': 2, '\xe9': 2, 'B': 2, 'rare': 1, 'often': 9, '\U0001f600': 2}
  found = append(con, tmp_path / 'v', counts, 'day 1')
  assert found.texts(0, len(found)) == [
    *('', '[UNK]', 'often', 'B', 'b', '\xe9', '\U0001f600', 'rare')
  ]
  assert found.frequencies().tolist() == [0, 0, 9, 2, 2, 2, 2, 1]
  assert found.frequencies().dtype == np.int64
  assert found.normalizer == 'nfkc-1'


def test_any_row_range_is_read(con, tmp_path, monkeypatch):
  monkeypatch.setattr(behavior_vocabulary, '_ROW_GROUP', 7)
  folder = tmp_path / 'v'
  for day in range(3):
    counts = {f'{day}-{i:03d}': 1 for i in range(20)}
    found = append(con, folder, counts, f'day {day}')
  texts = found.texts(0, len(found))
  assert texts[2:] == [f'{d}-{i:03d}' for d in range(3) for i in range(20)]
  for start in range(len(found)):
    for stop in (start, start + 1, min(start + 9, len(found)), len(found)):
      assert found.texts(start, stop) == texts[start:stop]
  with pytest.raises(ValueError, match=r'needed 0 <= start <= stop <= 62'):
    found.texts(0, 63)


def test_ids_are_stable_and_frequencies_add_up_over_days(con, tmp_path):
  rng = random.Random(0)
  total: collections.Counter[str] = collections.Counter()
  before: list[str] = []
  for day in range(4):
    texts = [f'{rng.paretovariate(0.7):.0f} \U0001f600' for _ in range(200)]
    counts = collections.Counter(texts)
    total += counts
    found = append(con, tmp_path / 'v', counts, f'day {day}')
    now = found.texts(0, len(found))
    assert now[: len(before)] == before or not before
    assert len(set(now)) == len(now)
    named = dict(zip(now[2:], found.frequencies()[2:].tolist()))
    assert named == total
    assert len(found.appends) == day + 1
    before = now
  again = append(con, tmp_path / 'v', {'new': 1}, 'day 2')
  assert again.texts(0, len(again)) == before  # These data were added before.


def test_texts_are_found_normalised(con, tmp_path, monkeypatch):
  monkeypatch.setattr(behavior_vocabulary, '_ROW_GROUP', 3)
  for day in range(2):
    counts = {f'caf\xe9 {day}-{i}': 1 for i in range(10)}
    found = append(con, tmp_path / 'v', counts, f'day {day}')
  asked = ['cafe\u0301  1-7 ', 'tea', '', ' \0', 'caf\xe9 0-0', '[UNK]', 'tea']
  ids = found.find(asked)
  assert ids.dtype == np.int32
  assert ids.tolist() == [2 + 17, 1, 0, 0, 2, 1, 1]
  assert found.find([]).tolist() == []


def test_an_old_state_stays_readable_and_a_copy_is_its_own(con, tmp_path):
  first = append(con, tmp_path / 'v', {'a': 3, 'b': 1}, 'day 1')
  copy = first.copy_to(tmp_path / 'copy')
  append(con, tmp_path / 'v', {'c': 5, 'a': 1}, 'day 2')
  for state in (first, copy, BehaviorVocabulary.open(tmp_path / 'copy')):
    assert state.texts(0, len(state)) == ['', '[UNK]', 'a', 'b']
    assert state.frequencies().tolist() == [0, 0, 3, 1]
  found = BehaviorVocabulary.open(tmp_path / 'v')
  assert found.texts(2, 5) == ['a', 'b', 'c']
  assert found.frequencies().tolist() == [0, 0, 4, 1, 5]


def test_no_texts_at_all(con, tmp_path):
  found = append(con, tmp_path / 'v', {}, 'day 1')
  assert found.texts(0, 2) == ['', '[UNK]']
  assert append(con, tmp_path / 'v', {'a': 1}, 'day 2').texts(2, 3) == ['a']


_KILLED = """
import os, signal, sys
import ibis, pyarrow as pa
from antjax.data import behavior_vocabulary as bv
def kill(*arguments):
  os.kill(os.getpid(), signal.SIGKILL)
setattr({where}, {name!r}, kill)
rows = {{'text': ['a', 'z', 'y'], 'count': [1, 5, 2]}}
texts = ibis.memtable(pa.table(rows))
bv.append(ibis.duckdb.connect(threads=1), sys.argv[1], texts,
          normalizer='nfkc-1', source='day 2')
"""


@pytest.mark.parametrize(
  'where, name',
  first_fast(
    ('bv', '_write_manifest'), ('bv.os', 'replace'), ('bv.os', 'fsync')
  ),
)
def test_a_killed_append_changes_nothing(con, tmp_path, where, name):
  folder = tmp_path / 'v'
  append(con, folder, {'a': 3, 'b': 1}, 'day 1')
  killed = subprocess.run(
    [sys.executable, '-c', _KILLED.format(where=where, name=name), str(folder)],
    cwd=source_tree.ROOT,
    check=False,
  )
  assert killed.returncode == -signal.SIGKILL
  found = BehaviorVocabulary.open(folder)
  assert found.texts(0, len(found)) == ['', '[UNK]', 'a', 'b']
  assert found.frequencies().tolist() == [0, 0, 3, 1]
  found = append(con, folder, {'a': 1, 'z': 5, 'y': 2}, 'day 2')
  assert found.texts(2, len(found)) == ['a', 'b', 'z', 'y']
  assert found.frequencies().tolist() == [0, 0, 4, 1, 5, 2]


def test_another_normaliser_is_refused(con, tmp_path):
  append(con, tmp_path / 'v', {'a': 1}, 'day 1')
  with pytest.raises(ValueError, match="'nfkc-1'; these have 'nfkc-lower-1'"):
    append(con, tmp_path / 'v', {'b': 1}, 'day 2', normalizer='nfkc-lower-1')


def test_two_at_once_are_refused(con, tmp_path):
  append(con, tmp_path / 'v', {'a': 1}, 'day 1')
  with open(tmp_path / 'v' / '.lock') as other:
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(RuntimeError, match='another process appends'):
      append(con, tmp_path / 'v', {'b': 1}, 'day 2')
  assert len(append(con, tmp_path / 'v', {'b': 1}, 'day 2')) == 4


def test_what_is_no_vocabulary_is_named(con, tmp_path):
  with pytest.raises(FileNotFoundError, match='prepare_data.py makes one'):
    BehaviorVocabulary.open(tmp_path)
  append(con, tmp_path / 'v', {'a': 1}, 'day 1')
  manifest = tmp_path / 'v' / 'vocabulary.json'
  content = json.loads(manifest.read_text())
  for changed, message in (
    ({**content, 'format_version': 9}, 'has format 9; this version reads 1'),
    ({'appends': []}, 'was not written by'),
    ([], 'was not written by'),
  ):
    manifest.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message):
      BehaviorVocabulary.open(tmp_path / 'v')
  manifest.write_text(json.dumps(content))
  for name in ('texts-00000.parquet', 'counts-00000.parquet'):
    shutil.copytree(tmp_path / 'v', tmp_path / name)
    (tmp_path / name / name).write_bytes(b'')
    with pytest.raises(ValueError, match=f'{name} is damaged or missing'):
      BehaviorVocabulary.open(tmp_path / name)
