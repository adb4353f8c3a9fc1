# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A store is built once, is resumed, and is shared by processes."""

import dataclasses
import os
import pathlib
import re
import shutil
import signal

import ibis
import numpy as np
import pyarrow as pa
import pytest

from antjax.ctr.bahe import store
from antjax.ctr.bahe.encode import Encoder
from antjax.ctr.bahe.store import BehaviorStore
from antjax.data import behavior_vocabulary
from antjax.jobs import script
from antjax.jobs.bahe import build_store as build_behavior_store
from antjax.jobs.bahe.build_store import build, Config
from antjax.lm import pretrained_tokenizer
from antjax.lm.token_cache import RowTokenizer
from antjax.lm.transformer import Transformer
from tests.ctr.bahe import small_vocabulary
from tests.jobs.processes import Program

MAX_TOKENS = 12


def add_texts(folder, texts, source):
  con = ibis.duckdb.connect(threads=1)
  ones = np.ones(len(texts), np.int64)
  table = ibis.memtable(pa.table({'text': texts, 'count': ones}))
  vocabulary = behavior_vocabulary.append(
    con, folder, table, normalizer='nfkc-1', source=source
  )
  con.disconnect()
  return vocabulary


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model')
  return folder, *small_vocabulary.write_model(folder)


@pytest.fixture
def config(tmp_path, model):
  add_texts(tmp_path / 'data' / 'behaviors', small_vocabulary.texts(40), 'd1')
  return Config(
    vocabulary=str(tmp_path / 'data'),
    model=str(model[0]),
    out=str(tmp_path / 'store'),
    num_low=1,
    max_tokens=MAX_TOKENS,
    shard_rows=1024,
  )


def expected_rows(model, texts, num_low=1):
  folder, lm_config, params = model
  tokenizer = RowTokenizer(
    pretrained_tokenizer.load_tokenizer(folder), MAX_TOKENS
  )
  lm = Transformer.of(lm_config, params)
  encoder = Encoder(lm, num_low=num_low, max_tokens=MAX_TOKENS)
  return encoder(*tokenizer(texts))


@pytest.fixture
def encoded(monkeypatch):
  """Numbers of texts that were encoded, in order."""
  numbers = []
  encode = Encoder.__call__

  def counted(self, tokens, offsets, *args):
    numbers.append(len(offsets) - 1)
    return encode(self, tokens, offsets, *args)

  monkeypatch.setattr(Encoder, '__call__', counted)
  return numbers


def test_a_new_day_encodes_what_is_new(config, model, encoded, capsys):
  folder = pathlib.Path(config.vocabulary) / 'behaviors'
  assert build(config) == 42
  assert 'all 42 rows' not in capsys.readouterr().out
  first = BehaviorStore.open(config.out).load()
  assert build(config) == 0
  assert 'has all 42 rows already' in capsys.readouterr().out
  vocabulary = add_texts(folder, small_vocabulary.texts(9, first=40), 'd2')
  assert build(config) == 9
  assert encoded == [42, 9]
  found = BehaviorStore.open(config.out)
  np.testing.assert_array_equal(found.load()[:42], first)
  expected = expected_rows(model, vocabulary.texts(0, 51))
  np.testing.assert_allclose(found.load(), expected, rtol=1e-3, atol=1e-3)
  assert not found.load()[0].any()  # Padding.
  assert found.load()[1].any()  # Unknown: what '[UNK]' says to the model.


def test_equal_texts_of_another_store_are_not_encoded_again(
  config, model, encoded, tmp_path
):
  assert build(config) == 42
  texts = small_vocabulary.texts(30, first=20)
  vocabulary = add_texts(tmp_path / 'other' / 'behaviors', texts, 'd1')
  other = dataclasses.replace(
    config,
    vocabulary=str(tmp_path / 'other'),
    out=str(tmp_path / 'merged'),
    known_store=config.out,
    known_vocabulary=config.vocabulary,
  )
  assert build(other) == 32
  assert encoded == [42, 10]  # 20 texts and both special rows are known.
  expected = expected_rows(model, vocabulary.texts(0, 32))
  found = BehaviorStore.open(other.out).load()
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
  with pytest.raises(ValueError, match='float16 rows, needed are int8'):
    build(dataclasses.replace(other, out=str(tmp_path / 'b'), dtype='int8'))
  with pytest.raises(ValueError, match='give both, or neither'):
    dataclasses.replace(other, known_vocabulary='')


def test_a_killed_build_goes_on(config, model, encoded, monkeypatch):
  folder = pathlib.Path(config.vocabulary) / 'behaviors'
  add_texts(folder, small_vocabulary.texts(2500, first=40), 'd2')
  write = store.StoreWriter.write

  def killed(self, start, rows):
    if start >= 1024:
      raise KeyboardInterrupt
    write(self, start, rows)

  with monkeypatch.context() as patch:
    patch.setattr(store.StoreWriter, 'write', killed)
    with pytest.raises(KeyboardInterrupt):
      build(config)
  with pytest.raises(ValueError, match='has no complete rows'):
    BehaviorStore.open(config.out)
  assert build(config) == 2542 - 1024
  assert encoded == [1024, 1024, 1024, 494]
  assert BehaviorStore.open(config.out).rows == 2542


def test_a_build_that_is_asked_to_stop_shows_nothing(config, monkeypatch):
  monkeypatch.setattr(script.stop_request, 'signal', signal.SIGTERM)
  assert build(config) == 42  # The range it was at.
  with pytest.raises(ValueError, match='has no complete rows'):
    BehaviorStore.open(config.out)
  monkeypatch.setattr(script.stop_request, 'signal', None)
  assert build(config) == 0
  assert BehaviorStore.open(config.out).rows == 42


def test_what_does_not_fit_is_refused_before_the_model_is_read(
  config, tmp_path, monkeypatch
):
  build(config)
  monkeypatch.setattr(build_behavior_store, '_encoder', None)

  def change(**fields):
    return Config(**{**vars(config), **fields})

  with pytest.raises(ValueError, match='num_low.*has 1, needed is 2'):
    build(change(num_low=2))
  with pytest.raises(ValueError, match='max_tokens'):
    build(change(max_tokens=9))
  with pytest.raises(ValueError, match='dtype=int8: the store .* has float16'):
    build(change(dtype='int8'))
  other = tmp_path / 'other'
  other.mkdir()
  small_vocabulary.write_model(other, seed=1)
  with pytest.raises(ValueError, match='different is the model'):
    build(change(model=str(other)))
  add_texts(tmp_path / 'v', small_vocabulary.texts(60, first=3), 'd1')
  with pytest.raises(ValueError, match='another vocabulary'):
    build(change(vocabulary=str(tmp_path / 'v')))
  with pytest.raises(FileNotFoundError, match='no vocabulary'):
    build(change(vocabulary=str(tmp_path / 'nothing')))
  shutil.rmtree(pathlib.Path(config.out) / 'parts')
  with pytest.raises(ValueError, match='part .* is gone; delete .* build'):
    build(config)


def test_a_tokenizer_of_more_ids_than_the_model_s_is_refused(config, tmp_path):
  small_vocabulary.write_model(tmp_path / 'model')
  words = [f'w{i}' for i in range(100)]
  small_vocabulary.write_tokenizer(tmp_path / 'model', words)
  with pytest.raises(ValueError, match='ids up to 103.*vocab_size=61'):
    build(dataclasses.replace(config, model=str(tmp_path / 'model')))
  assert not (tmp_path / 'store').exists()


def test_a_wrong_flag_leaves_no_manifest(config):
  with pytest.raises(ValueError, match='max_tokens=2: the tokenizer adds 2'):
    build(dataclasses.replace(config, max_tokens=2))
  assert not pathlib.Path(config.out).exists()


@pytest.mark.parametrize(
  'fields, why',
  [
    ({'shard_rows': 0}, 'shard_rows=0: must be at least 1'),
    ({'out': ''}, 'out is empty'),
    ({'num_low': -1}, 'num_low=-1: must be at least 0'),
    ({'tokens_per_batch': 0}, 'tokens_per_batch=0: must be at least 1'),
  ],
)
def test_wrong_flags(fields, why):
  with pytest.raises(ValueError, match=why):
    Config(**fields)


@pytest.fixture
def programs():
  """Starts programs, and kills those that are left after the test."""
  started = []

  def start(*command):
    started.append(Program(*command))
    return started[-1]

  yield start
  for one in started:
    one.end(signal.SIGKILL)


def wrote(program):
  """Ranges that a builder has written."""
  found = [re.search(r'WROTE (\d+) (\d+)', line) for line in program.lines]
  return [(int(m[1]), int(m[2])) for m in found if m]


def _flags(config, *names):
  return [f'--{name}={getattr(config, name)}' for name in names]


FLAGS = ('vocabulary', 'model', 'out', 'num_low', 'max_tokens', 'shard_rows')


def check_store(config, model, num_texts):
  """All rows are there, and are what one process makes of the texts."""
  vocabulary = behavior_vocabulary.BehaviorVocabulary.open(
    pathlib.Path(config.vocabulary) / 'behaviors'
  )
  assert len(vocabulary) == num_texts + 2
  found = BehaviorStore.open(config.out)
  assert found.rows == len(vocabulary)
  expected = expected_rows(model, vocabulary.texts(0, len(vocabulary)))
  np.testing.assert_allclose(found.load(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_killed_process_costs_its_open_range(
  config, model, tmp_path, programs
):
  folder = pathlib.Path(config.vocabulary) / 'behaviors'
  add_texts(folder, small_vocabulary.texts(12_000, first=40), 'd2')
  coordinator = programs(
    *('-m', 'launch.coordinator', f'--journal={tmp_path / "journal.db"}'),
    '--lease_timeout_s=3',
  )
  address = coordinator.line(r'coordinator: (\S+)')[1]
  builders = [
    programs(
      *('-m', 'tests.jobs.store_builder', 0.5, *_flags(config, *FLAGS)),
      f'--coordinator={address}',
    )
    for _ in range(2)
  ]
  victim, other = builders
  for one in builders:
    one.line('WROTE')
  num_encoding = sum('ENCODING' in line for line in victim.lines)
  victim.line('ENCODING', num_encoding + 1)
  assert victim.end(signal.SIGKILL) == -signal.SIGKILL
  with pytest.raises(ValueError, match='has no complete rows'):
    BehaviorStore.open(config.out)
  assert other.end() == 0, other.lines
  written = sorted(wrote(victim) + wrote(other))
  # Each range once: what the victim had written was not made again.
  assert written == [(i, min(i + 1024, 12_042)) for i in range(0, 12_042, 1024)]
  check_store(config, model, 12_040)
  late = programs(
    *('-m', 'tests.jobs.store_builder', 0, *_flags(config, *FLAGS)),
    f'--coordinator={address}',
  )
  assert late.end() == 0 and not wrote(late)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_under_agents_what_is_written_stays(config, model, tmp_path, programs):
  folder = pathlib.Path(config.vocabulary) / 'behaviors'
  add_texts(folder, small_vocabulary.texts(12_000, first=40), 'd2')
  cluster = programs(
    *('-m', 'launch.local_cluster', '--elastic', '--hosts=2'),
    *('--devices_per_host=2', '--', '-m', 'tests.jobs.store_builder', 0.5),
    *_flags(config, *FLAGS),
  )
  cluster.line('WROTE', 4)
  victims = [
    int(pid)
    for pid in os.listdir('/proc')
    if pid.isdigit() and _is_builder(int(pid), config.out)
  ]
  assert len(victims) == 2
  os.kill(victims[0], signal.SIGKILL)
  assert cluster.end() == 0, cluster.lines
  assert any('generation 2' in line for line in cluster.lines)
  written = wrote(cluster)
  assert sorted(set(written)) == sorted(written)
  assert sum(stop - start for start, stop in written) == 12_042
  check_store(config, model, 12_040)


def _is_builder(pid, out):
  try:
    command = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().decode()
    parent = int(pathlib.Path(f'/proc/{pid}/stat').read_text().split()[3])
    above = pathlib.Path(f'/proc/{parent}/cmdline').read_bytes().decode()
  except (OSError, UnicodeDecodeError):
    return False
  mine = 'tests.jobs.store_builder' in command and f'--out={out}' in command
  return mine and '\0agent\0' in above and '\0agent\0' not in command
