# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows that are partly on the devices train as if all of them were there."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.home import HomeConfig
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam, RowWiseAdagrad
from antjax.embedding.row_cache import RowCache
from antjax.embedding.row_file import NOTHING, RowFile
from antjax.embedding.table import EmbeddingTables
from antjax.embedding.vocabulary import Vocabulary, VocabularyConfig
from antjax.mesh.mesh import make_mesh
from antjax.serving import functions
from antjax.train import checkpoint, fit_options, warm_start
from antjax.train.trainer import Trainer
from tests.cases import first_fast
from tests.train.positioned import Positioned

_ROWS, _STEPS = 200, 12
_RTOL = 2e-6  # Sums over devices in another order.


def batch_of(step):
  rng = np.random.default_rng(step)
  item = np.minimum(rng.zipf(1.2, (16, 2)) - 1, _ROWS - 1)
  item[rng.random((16, 2)) < 0.1] = -1
  both = np.stack([rng.integers(0, 30, 16), rng.integers(0, 90, 16)], axis=1)
  y = rng.normal(size=16).astype(np.float32)
  return {'ids': {'item': item, 'both': both}, 'y': y}


def make(home=None, num_devices=1, optimizer=None, dtype='float32', **options):
  optimizer = optimizer or Adam(0.1)
  mesh = make_mesh(
    devices=jax.devices()[:num_devices], intra=4 if num_devices > 1 else 1
  )
  tables = EmbeddingTables(
    [
      TableSpec('item', _ROWS, 4, 'global', optimizer, 1.0, dtype=dtype),
      TableSpec('small', 30, 4, 'global', optimizer, 1.0),
      TableSpec('other', 90, 4, 'global', optimizer, 1.0),
    ],
    {'item': 'item', 'both': ('small', 'other')},
    mesh=mesh,
    home=home,
  )

  def predict(params, rows, batch, rng):
    del rng
    vectors = tables.lookup(rows, batch['ids'])
    x = vectors['item'].sum(axis=(1, 2)) + vectors['both'].prod(axis=1).sum(-1)
    return {'prediction': x * params, 'label': batch['y']}

  def loss(params, rows, batch, rng):
    found = predict(params, rows, batch, rng)
    return jnp.square(found['prediction'] - found['label'])

  trainer = Trainer(loss, optax.sgd(0.01), mesh=mesh, tables=tables, **options)
  return trainer, predict


def train(trainer, num_steps=_STEPS, state=None, **options):
  losses = []
  state = trainer.init(np.float32(0.5)) if state is None else state
  state = trainer.fit(
    state,
    Positioned(batch_of, _STEPS),
    num_steps,
    on_step=lambda step, values: losses.append(values.get('loss')),
    **options,
  )
  return state, losses


def predictions(trainer, predict, state):
  batches = [batch_of(step) for step in range(100, 104)]
  return trainer.predict(state, batches, predict)['prediction']


@pytest.mark.parametrize(
  'num_devices, optimizer, lookahead',
  first_fast((1, Adam(0.1), 3), (8, Adam(0.1), 3), (1, RowWiseAdagrad(0.1), 0)),
)
def test_a_few_places_train_as_whole_tables(
  tmp_path, num_devices, optimizer, lookahead
):
  """The cache evicts in almost every step; predictions leave it alone."""
  plain, predict = make(None, num_devices, optimizer)
  state, want = train(plain)
  want_scores = predictions(plain, predict, state)
  home = HomeConfig(folder=str(tmp_path), device_rows=40, lookahead=lookahead)
  trainer, predict = make(home, num_devices, optimizer)
  state, losses = train(trainer, 7)
  predictions(trainer, predict, state)
  batches = (batch_of(step) for step in range(7, _STEPS))
  state = trainer.fit(
    state,
    batches,
    _STEPS,
    on_step=lambda step, values: losses.append(values['loss']),
  )
  scores = predictions(trainer, predict, state)
  assert set(trainer.tables.home.caches) == {'item', 'other'}
  if num_devices == 1:
    assert losses == want
    assert scores.tobytes() == want_scores.tobytes()
  else:
    np.testing.assert_allclose(losses, want, rtol=_RTOL)
    np.testing.assert_allclose(scores, want_scores, rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_fit_names_what_it_needs(tmp_path):
  home = HomeConfig(folder=str(tmp_path), device_rows=20)
  trainer, _ = make(home)
  state = trainer.init(np.float32(0.5))
  batch = batch_of(0)
  batch['ids']['item'] = np.arange(32).reshape(16, 2)
  with pytest.raises(ValueError, match='needs 32 distinct rows of table.*item'):
    trainer.step(state, batch)
  batch['ids']['item'][0] = _ROWS
  with pytest.raises(ValueError, match=f'has id {_ROWS}; table .item. has'):
    trainer.step(trainer.init(np.float32(0.5)), batch)


def _train_to_the_end(folder):
  """Run by a child, which is killed in a write to the home."""
  folder = pathlib.Path(folder)
  num_writes, die_at = 0, int(os.environ['DIE_AT'])
  write = RowFile._append

  def append(self, ids, records):
    nonlocal num_writes
    num_writes += 1
    write(self, ids, records)
    if num_writes == die_at:
      self._records[ids[::2], 1:] = 7  # Half of the rows are written.
      os.kill(os.getpid(), signal.SIGKILL)

  RowFile._append = append
  home = HomeConfig(folder=str(folder / 'home'), device_rows=40)
  trainer, predict = make(home)
  state, _ = train(
    trainer, checkpoint_dir=str(folder / 'checkpoints'), checkpoint_every=4
  )
  np.save(folder / 'scores.npy', predictions(trainer, predict, state))


@pytest.mark.slow
def test_killed_in_an_eviction_a_run_resumes_from_its_checkpoint(tmp_path):
  trainer, predict = make()
  state, _ = train(trainer)
  want = predictions(trainer, predict, state)
  code = 'import sys; from tests.embedding import home_test as t;'
  code += 't._train_to_the_end(sys.argv[1])'
  killed = []
  for die_at in (2, 5, 10**6):
    env = os.environ | {'DIE_AT': str(die_at), 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
      [sys.executable, '-c', code, str(tmp_path)],
      env=env,
      capture_output=True,
      text=True,
      check=False,
    )
    killed.append(done.returncode == -signal.SIGKILL)
    assert killed[-1] or done.returncode == 0, done.stderr[-2000:]
  assert killed == [True, True, False]
  assert np.load(tmp_path / 'scores.npy').tobytes() == want.tobytes()


def test_an_older_checkpoint_is_read_without_the_loss_of_newer_ones(tmp_path):
  trainer, predict = make(HomeConfig(folder=f'{tmp_path}/h', device_rows=40))
  options = {'checkpoint_dir': f'{tmp_path}/c', 'checkpoint_every': 4}
  seen = {}
  state, _ = train(
    trainer,
    **options,
    evaluate_every=4,
    evaluate_fn=lambda state: (
      seen.update({int(state.step): predictions(trainer, predict, state)}) or {}
    ),
  )
  del state
  for step in (4, 12, 8):
    with checkpoint.Checkpointer(f'{tmp_path}/c', trainer.layout) as saver:
      old = saver.restore(step)[0]
    found = predictions(trainer, predict, old)
    assert found.tobytes() == seen[step].tobytes(), step
  fresh, _ = make(HomeConfig(folder=f'{tmp_path}/h', device_rows=40))
  with pytest.raises(ValueError, match='holds the rows of the run whose'):
    train(fresh)


def test_rows_are_exported_by_id(tmp_path):
  """Those on the devices, those in files and those never trained."""
  plain, _ = make()
  state, _ = train(plain, 3)
  want = functions.table_rows(plain.tables, state.tables)
  folder = str(tmp_path / 'checkpoints')
  trainer, _ = make(HomeConfig(folder=f'{tmp_path}/home', device_rows=40))
  state, _ = train(trainer, 3, checkpoint_dir=folder)
  found = functions.table_rows(trainer.tables, state.tables)
  _, saved = warm_start.read_model(trainer.layout, folder, 3)
  assert {*want} == {*found} == {*saved}
  for name, rows in want.items():
    assert len(found[name]) == len(rows)
    assert np.asarray(rows).tobytes() == np.asarray(found[name]).tobytes()
    assert np.asarray(rows).tobytes() == np.asarray(saved[name]).tobytes()
  ids = {'item': np.arange(_ROWS)}
  fresh = plain.init(np.float32(0.5))
  with pytest.raises(ValueError, match='only its own run reads'):
    warm_start.warm_start(plain, fresh, folder, 3, ids)
  state = trainer.init(np.float32(0.5))
  with pytest.raises(ValueError, match='only training changes them'):
    warm_start.warm_start(trainer, state, folder, 3, ids)


# Refusals.


@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_narrow_rows_have_no_home(tmp_path, dtype):
  home = HomeConfig(folder=str(tmp_path), device_rows=40)
  with pytest.raises(ValueError, match=f"'item' has 200 rows of {dtype}.*Set"):
    make(home, dtype=dtype)


def test_several_processes_have_no_home(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='2 processes.* Train in one process'):
    make(HomeConfig(folder=str(tmp_path), device_rows=40))
  monkeypatch.undo()
  assert (
    make(HomeConfig(folder=str(tmp_path), device_rows=_ROWS))[0].tables.home
    is None
  ), 'All rows are on the devices.'


def test_settings_of_a_home_are_checked():
  with pytest.raises(ValueError, match='device_rows=0.*at least 1 row'):
    HomeConfig(folder='here', device_rows=0)
  with pytest.raises(ValueError, match='gs://b.*give a folder on a local disk'):
    HomeConfig(folder='gs://b', device_rows=1)


def test_what_brings_rows_otherwise_is_refused(tmp_path):
  home = HomeConfig(folder=str(tmp_path), device_rows=40)
  trainer, _ = make(home)
  with pytest.raises(ValueError, match='a home.*steps_per_call=2.*use steps'):
    train(trainer, steps_per_call=2)
  options = fit_options.FitOptions(elastic=object())
  with pytest.raises(ValueError, match='train without agents, or without home'):
    options.check(row_staleness=0, has_vocabularies=False, has_home=True)
  vocabulary = Vocabulary(VocabularyConfig(num_ids=100))
  with pytest.raises(ValueError, match='with a home have none; hash the keys'):
    make(home, vocabularies={'item': vocabulary})
  with pytest.raises(
    ValueError, match='use row_staleness=0, or leave out home'
  ):
    late, _ = make(home, row_staleness=1)
    train(late)


def test_a_folder_belongs_to_one_process(tmp_path):
  home = HomeConfig(folder=str(tmp_path), device_rows=40)
  trainer, _ = make(home)
  trainer.init(np.float32(0.5))
  code = (
    'import pathlib, sys; from antjax.embedding.row_file import RowFile;'
    'RowFile(pathlib.Path(sys.argv[1]) / "item", 9, 9)'
  )
  command = [sys.executable, '-c', code, str(tmp_path)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert f'another process uses {tmp_path}/item. Wait until' in done.stderr


def test_a_folder_of_another_table_is_left_alone(tmp_path):
  RowFile(tmp_path, 50, 3)
  size = (tmp_path / 'rows').stat().st_size
  with pytest.raises(ValueError, match=f'has {size} bytes of another table'):
    RowFile(tmp_path, 50, 4)
  assert (tmp_path / 'rows').stat().st_size == size


def test_a_full_disk_ends_the_run_by_name(tmp_path, monkeypatch):
  trainer, _ = make(HomeConfig(folder=str(tmp_path), device_rows=40))
  monkeypatch.setattr(
    shutil, 'disk_usage', lambda folder: types.SimpleNamespace(free=1 << 20)
  )
  with pytest.raises(RuntimeError, match=f'disk of {tmp_path}.* is full; make'):
    train(trainer)


# The parts.


def test_a_file_returns_to_each_checkpoint(tmp_path):
  rng, ids = np.random.default_rng(0), np.arange(50)
  file, want, states = RowFile(tmp_path, 50, 3), {}, {}
  words = np.zeros((50, 3), np.uint32)
  is_there = np.zeros(50, bool)
  for step in range(5):
    file.step = step
    want[step], states[step] = (words.copy(), is_there.copy()), file.state()
    for _ in range(2):
      some = rng.permutation(50)[:12]
      words[some] = rng.integers(0, 99, (12, 3))
      is_there[some] = True
      file.write(some, words[some])
  assert file.logs() == [1, 2, 3, 4]

  def check(step):
    words, is_there = want[step]
    np.testing.assert_array_equal(file.has(ids), is_there)
    np.testing.assert_array_equal(file.read(ids[is_there]), words[is_there])

  for step in (4, 2, 3):
    file.return_to(step, states[step])
    check(step)
  with (tmp_path / 'before_4').open('ab') as log:
    log.write(b'cut short')  # A block whose rows were never written.
  file = RowFile(tmp_path, 50, 3)
  file.return_to(3, states[3])
  check(3)
  file.settle()
  assert file.logs() == [1, 2]
  check(3)
  file.return_to(0, NOTHING)
  assert not file.has(ids).any()


def test_rows_needed_last_make_room():
  cache = RowCache('rows', 100, 4)
  coming = [[1, 2], [3, 4], [5, 1], [2, 6], [1, 7], [2, 8]]
  for ids in coming[:4]:
    cache.see(np.array(ids))
  evicted = []
  for number, ids in enumerate(coming):
    for later in coming[number + 4 : number + 5]:
      cache.see(np.array(later))
    before = set(cache.ids.tolist()) - {-1}
    places, move = cache.place(np.array(ids), True)
    assert cache.ids[places].tolist() == ids
    evicted.append(sorted(before - set(cache.ids.tolist())))
    assert sorted(move.evicted) == evicted[-1]
  # 3 and 4 are never needed again; then 5; then 6 or 1.
  assert evicted[:3] == [[], [], [3]]
  assert evicted[3] == [4] and evicted[4] == [5] and evicted[5] in ([6], [1])
