# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows come back, only whole ones, and only for what they were made with."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from antjax.ctr.bahe import store, store_rows
from antjax.ctr.bahe.manifest import Manifest
from antjax.ctr.bahe.store import BehaviorStore, StoreWriter
from antjax.lm import fingerprint
from tests.ctr.bahe import small_vocabulary
from tests.ctr.bahe.small_vocabulary import Vocabulary

_ROOT = pathlib.Path(__file__).parents[3]
DIM = 8
CHUNK_ROWS = 1024
NEW = Manifest(
  model='a' * 64,
  tokenizer='b' * 64,
  num_low=3,
  normalizer='nfkc-1',
  max_tokens=16,
  vocabulary='c' * 64,
  vocabulary_rows=2,
  dtype='float16',
  dim=DIM,
  store='',
)


def rows_of(num_rows, seed=0):
  rows = np.random.RandomState(seed).standard_normal((num_rows, DIM))
  rows[0] = 0
  return rows.astype(np.float32)


def put(path, rows, new=NEW):
  """A build of all rows in one go."""
  writer = StoreWriter(path, new)
  for start, stop in writer.missing(0, len(rows)):
    writer.write(start, rows[start:stop])
  writer.commit(len(rows))
  return BehaviorStore.open(path)


@pytest.mark.parametrize(
  'dtype, stored', [('float16', np.float16), ('bfloat16', jnp.bfloat16)]
)
def test_16_bits_come_back_as_rounded(tmp_path, dtype, stored):
  rows = rows_of(CHUNK_ROWS + 500)
  found = put(tmp_path, rows, dataclasses.replace(NEW, dtype=dtype))
  assert (found.rows, found.dim) == rows.shape
  assert found.stored_bytes == 2 * rows.size
  rounded = rows.astype(stored)
  np.testing.assert_array_equal(found.load(), rounded.astype(np.float32))
  part = found.read(1000, 1100, stored)  # Of two chunks.
  assert part.dtype == stored
  np.testing.assert_array_equal(part, rounded[1000:1100])


def test_8_bits_have_a_scale_a_row(tmp_path):
  rows = rows_of(CHUNK_ROWS + 500)
  rows *= np.geomspace(1e-6, 1e6, len(rows), dtype=np.float32)[:, None]
  found = put(tmp_path, rows, dataclasses.replace(NEW, dtype='int8'))
  largest = np.abs(rows).max(axis=1, keepdims=True)
  assert (np.abs(found.load() - rows) <= 0.501 / 127 * largest).all()
  assert not found.read(0, 1).any()
  assert found.stored_bytes == rows.size + 4 * len(rows)


def test_a_large_store_is_read_in_blocks(tmp_path, monkeypatch):
  rows = rows_of(3 * CHUNK_ROWS)
  found = put(tmp_path, rows)
  monkeypatch.setattr(store_rows, '_READ_ROWS', 1000)
  np.testing.assert_array_equal(found.load(np.float16), rows.astype('f2'))


def test_numbers_that_do_not_fit_are_refused(tmp_path):
  writer = StoreWriter(tmp_path, NEW)
  for number, why in (
    (7e4, 'behavior 12: .*float16 cannot represent it. Use --dtype=bfloat16'),
    (np.nan, 'behavior 12: its largest number is nan'),
    (-np.inf, 'behavior 12: its largest number is inf'),
  ):
    rows = rows_of(5)
    rows[2, 3] = number
    with pytest.raises(ValueError, match=why):
      writer.write(10, rows)
  with pytest.raises(ValueError, match=r'needed is \[n, 8\]'):
    writer.write(0, np.zeros((3, 9), np.float32))
  with pytest.raises(ValueError, match='beyond int32'):
    writer.write(store_rows.MAX_ROWS, np.zeros((1, DIM), np.float32))
  assert writer.missing(0, 20) == [(0, 20)]


@pytest.mark.parametrize(
  'field, value, why',
  [
    ('model', 'x' * 64, 'the model .SHA-256.*has aaaaaaaaaaaa..., needed is x'),
    ('tokenizer', 'x' * 64, 'the tokenizer'),
    ('num_low', 4, 'num_low.*the store has 3, needed is 4'),
    ('pooling', 'last', "pooling of tokens: the store has 'mean'"),
    ('normalizer', 'nfkc-2', "the texts' normaliser"),
    ('max_tokens', 99, 'max_tokens'),
    ('compute_dtype', 'bfloat16', "compute_dtype.*the store has 'float32'"),
  ],
)
def test_a_store_made_otherwise_is_refused(tmp_path, field, value, why):
  found = put(tmp_path, rows_of(10))
  other = dataclasses.replace(NEW, **{field: value})
  with pytest.raises(ValueError, match=why):
    StoreWriter(tmp_path, other)
  with pytest.raises(ValueError, match=f'different is .*{why}'):
    found.manifest.check(**{field: value})
  found.manifest.check(**{field: getattr(NEW, field)})
  assert BehaviorStore.open(tmp_path).rows == 10


def test_all_that_differs_is_named():
  with pytest.raises(ValueError, match='different are .*model.*; num_low') as e:
    NEW.check(model='x' * 64, num_low=9, pooling='mean')
  assert 'pooling' not in str(e.value)
  with pytest.raises(TypeError, match='colour'):
    NEW.check(colour=1)


def test_dtype_and_width_cannot_change(tmp_path):
  put(tmp_path, rows_of(10))
  for fields in ({'dtype': 'int8'}, {'dim': 9}):
    with pytest.raises(ValueError, match='has rows of 8 float16; got'):
      StoreWriter(tmp_path, dataclasses.replace(NEW, **fields))


def test_ids_of_another_vocabulary_are_refused():
  vocabulary = Vocabulary(small_vocabulary.texts(30))
  manifest = dataclasses.replace(
    NEW,
    vocabulary=fingerprint.of_rows(vocabulary, 0, 20),
    vocabulary_rows=20,
    rows=25,
  )
  manifest.check_vocabulary(vocabulary)
  grown = Vocabulary(small_vocabulary.texts(40))
  manifest.check_vocabulary(grown)
  with pytest.raises(ValueError, match='first 20 texts differ'):
    other = Vocabulary(small_vocabulary.texts(30, first=1))
    manifest.check_vocabulary(other)
  with pytest.raises(ValueError, match='has 24 rows, the store .* 25'):
    manifest.check_vocabulary(Vocabulary(small_vocabulary.texts(22)))
  grown.normalizer = 'lower-1'
  with pytest.raises(ValueError, match="normaliser: .*'lower-1'"):
    manifest.check_vocabulary(grown)


def test_vocabularies_that_begin_alike_are_told_apart(tmp_path):
  texts = small_vocabulary.texts(1200)
  vocabulary = Vocabulary(texts)
  other = Vocabulary([*texts[:1100], 'another', *texts[1101:]])
  head = dataclasses.replace(
    NEW,
    vocabulary=fingerprint.of_rows(vocabulary, 0, fingerprint.HEAD_ROWS),
    vocabulary_rows=fingerprint.HEAD_ROWS,
  )

  def of(which):
    return functools.partial(fingerprint.of_rows, which)

  rows = rows_of(1202)
  writer = StoreWriter(tmp_path, head, of(vocabulary))
  writer.write(0, rows[:1024])
  writer.write(1024, rows[1024:])
  # What was written and never committed, of other texts, is written again.
  writer = StoreWriter(tmp_path, head, of(other))
  assert writer.missing(0, 1202) == [(1024, 1202)]
  writer = StoreWriter(tmp_path, head, of(vocabulary))
  assert writer.missing(0, 1202) == []
  manifest = writer.commit(1202)
  manifest.check_vocabulary(vocabulary)
  manifest.check_vocabulary(Vocabulary([*texts, 'new']))
  with pytest.raises(ValueError, match='first 1202 texts differ'):
    manifest.check_vocabulary(other)
  # A store of an older version does not know.
  dataclasses.replace(manifest, texts='').check_vocabulary(other)
  content = json.loads(manifest.to_json())
  del content['texts']
  assert Manifest.from_json(json.dumps(content).encode()).texts == ''


def test_an_append_writes_what_is_missing(tmp_path):
  rows = rows_of(3000)
  put(tmp_path, rows[:1500])
  writer = StoreWriter(tmp_path, NEW)
  assert writer.missing(0, 3000) == [(1500, 3000)]
  assert writer.missing(1024, 2048) == [(1500, 2048)]
  assert writer.missing(0, 1500) == []
  writer.write(2048, rows[2048:2500])
  assert writer.missing(0, 3000) == [(1500, 2048), (2500, 3000)]
  with pytest.raises(RuntimeError, match='1500 to 2047, 2500 to 2999 are not'):
    writer.commit(3000)
  assert BehaviorStore.open(tmp_path).rows == 1500
  writer.write(1500, rows[1500:2048])
  writer.write(2500, rows[2500:])
  assert writer.commit(3000).rows == 3000
  assert StoreWriter(tmp_path, NEW).commit(2000).rows == 3000  # Never fewer.
  np.testing.assert_array_equal(
    BehaviorStore.open(tmp_path).load(np.float16), rows.astype('f2')
  )


def die(*args, **kwargs):
  raise KeyboardInterrupt


def test_a_crash_in_an_append_costs_what_was_not_written(tmp_path, monkeypatch):
  rows = rows_of(3000)
  put(tmp_path, rows[:1500])
  writer = StoreWriter(tmp_path, NEW)
  writer.write(1500, rows[1500:2048])
  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', die)  # The rows are there, their name is not.
    with pytest.raises(KeyboardInterrupt):
      writer.write(2048, rows[2048:])
  (half,) = tmp_path.glob('parts/.*.new')
  found = BehaviorStore.open(tmp_path)
  assert found.rows == 1500
  np.testing.assert_array_equal(
    found.load(np.float16), rows[:1500].astype('f2')
  )
  with pytest.raises(ValueError, match='1500, the complete rows'):
    found.read(1400, 1501)
  again = StoreWriter(tmp_path, NEW)
  assert again.missing(0, 3000) == [(2048, 3000)]
  assert put(tmp_path, rows).rows == 3000
  assert half.exists()  # Its writer might live.
  os.utime(half, (0, 0))
  again.commit(3000)
  assert not half.exists()


def test_a_crash_before_the_manifest_leaves_the_old_rows(tmp_path, monkeypatch):
  rows = rows_of(100)
  put(tmp_path, rows[:50])
  writer = StoreWriter(tmp_path, NEW)
  writer.write(50, rows[50:])

  with monkeypatch.context() as patch:
    patch.setattr(StoreWriter, '_replace', die)
    with pytest.raises(KeyboardInterrupt):
      writer.commit(100)
  assert BehaviorStore.open(tmp_path).rows == 50
  again = StoreWriter(tmp_path, NEW)
  assert again.missing(0, 100) == []  # Nothing is encoded twice.
  again.commit(100)
  np.testing.assert_array_equal(
    BehaviorStore.open(tmp_path).load(np.float16), rows.astype('f2')
  )


def test_a_reader_keeps_its_rows_while_others_write(tmp_path):
  rows = rows_of(2000)
  reader = put(tmp_path, rows[:1500])
  before = reader.load()
  writer = StoreWriter(tmp_path, NEW)
  writer.write(1500, rows[1500:2000])  # The reader's last chunk too.
  np.testing.assert_array_equal(reader.load(), before)
  np.testing.assert_array_equal(BehaviorStore.open(tmp_path).load(), before)
  writer.commit(2000)
  assert reader.rows == 1500
  np.testing.assert_array_equal(reader.load(), before)
  assert BehaviorStore.open(tmp_path).rows == 2000


def test_two_writers_make_one_store(tmp_path):
  rows = rows_of(4 * CHUNK_ROWS)
  writers = [StoreWriter(tmp_path, NEW) for _ in range(2)]
  assert writers[0].manifest == writers[1].manifest
  for i in range(4):
    part = slice(i * CHUNK_ROWS, (i + 1) * CHUNK_ROWS)
    writers[i % 2].write(part.start, rows[part])
    assert writers[0].missing(0, len(rows)) == (
      [(part.stop, len(rows))] if i < 3 else []
    )
  writers[1].write(1500, rows[1500:2500])  # Twice: its lease was over.
  for writer in writers:
    assert writer.commit(len(rows)).rows == len(rows)
  found = BehaviorStore.open(tmp_path)
  assert len(found.manifest.parts) == 1  # Joined.
  np.testing.assert_array_equal(found.load(np.float16), rows.astype('f2'))
  np.testing.assert_array_equal(
    found.read(1000, 3333, np.float16), rows[1000:3333].astype('f2')
  )


def test_ranges_that_overlap_are_read_once():
  complete = [(0, 5, 'a'), (0, 3, 'b'), (2, 8, 'b'), (8, 9, 'd'), (8, 20, 'c')]
  assert store._cover(complete, 12) == (
    *((0, 5, 'a'), (5, 8, 'b'), (8, 9, 'd'), (9, 12, 'c')),
  )
  assert store._cover(complete, 4) == ((0, 4, 'a'),)


def test_a_store_that_another_one_replaced_is_not_committed(tmp_path):
  writer = StoreWriter(tmp_path / 'a', NEW)
  writer.write(0, rows_of(10))
  put(tmp_path / 'b', rows_of(5))
  os.replace(tmp_path / 'b' / 'manifest.json', tmp_path / 'a' / 'manifest.json')
  with pytest.raises(RuntimeError, match='another store took its place'):
    writer.commit(10)


def _change(**fields):
  """The manifest of 10 rows, with something wrong in it."""

  def change(text):
    content = {**json.loads(text), **fields}
    return json.dumps({k: x for k, x in content.items() if x != 'gone'})

  return change


@pytest.mark.parametrize(
  'change',
  [
    lambda text: '',
    lambda text: '[]',
    lambda text: '{}',
    lambda text: text[:-40],
    lambda text: '\xff\xfe' + text,
    _change(version=3),
    _change(model='gone'),
    _change(colour=1),
    _change(rows='10'),
    _change(rows=True),
    _change(rows=11),
    _change(dtype='float17'),
    _change(parts=None),
    _change(parts=[3]),
    _change(parts=[[0, 10, '../../other']]),
    _change(parts=[[0, 5, 'ab'], [6, 10, 'ab']]),
    _change(parts=[[0, 0, 'ab'], [0, 10, 'ab']]),
  ],
)
def test_a_damaged_manifest_has_a_name(tmp_path, change):
  put(tmp_path, rows_of(10))
  file = tmp_path / 'manifest.json'
  file.write_text(change(file.read_text()), encoding='latin-1')
  for use in (
    lambda: BehaviorStore.open(tmp_path),
    lambda: StoreWriter(tmp_path, NEW),
  ):
    with pytest.raises(ValueError, match='manifest.json is no manifest of a'):
      use()


def test_the_manifest_reads_as_json(tmp_path):
  put(tmp_path, rows_of(10))
  fields = json.loads((tmp_path / 'manifest.json').read_text())
  assert (fields['rows'], fields['num_low'], fields['dim']) == (10, 3, DIM)
  ((start, stop, name),) = fields['parts']
  assert (start, stop) == (0, 10) and (tmp_path / 'parts' / name).is_file()


def test_a_store_without_rows_says_so(tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no store of behaviors'):
    BehaviorStore.open(tmp_path)
  assert not list(tmp_path.iterdir())  # Looking leaves nothing behind.
  StoreWriter(tmp_path, NEW)
  with pytest.raises(ValueError, match='first build has not ended'):
    BehaviorStore.open(tmp_path)


def test_a_part_that_is_gone_or_not_whole_is_refused(tmp_path):
  found = put(tmp_path, rows_of(10))
  name = found.manifest.parts[0][2]
  file = tmp_path / 'parts' / name
  content = file.read_bytes()
  file.write_bytes(content[:-1])
  with pytest.raises(
    ValueError, match=f'part {name} has 159 bytes of 160; delete .* build'
  ):
    BehaviorStore.open(tmp_path)
  file.write_bytes(content)
  BehaviorStore.open(tmp_path)
  os.rename(tmp_path / 'parts', tmp_path / 'elsewhere')
  with pytest.raises(ValueError, match=f'part {name} is gone.*delete .* build'):
    BehaviorStore.open(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='cannot make .*file.*Not a directory'):
    StoreWriter(tmp_path / 'file' / 'store', NEW)
  with pytest.raises(FileNotFoundError, match='holds no store of behaviors'):
    BehaviorStore.open(tmp_path / 'file' / 'store')


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path):
  rows = rows_of(3000)
  put(tmp_path, rows[:1500])
  program = textwrap.dedent(
    """
    import resource, sys
    from tests.ctr.bahe import store_test
    writer = store_test.StoreWriter(sys.argv[1], store_test.NEW)
    # Longer files are refused by the system, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    try:
      writer.write(1500, store_test.rows_of(3000)[1500:])
    except OSError as error:
      print(error)
    """
  )
  done = subprocess.run(
    [sys.executable, '-c', program, str(tmp_path)],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('store of behaviors: cannot write to')
  assert BehaviorStore.open(tmp_path).rows == 1500
  assert put(tmp_path, rows).rows == 3000
