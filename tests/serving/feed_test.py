# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Deltas in order: none is left out, torn, or taken twice."""

import hashlib
import io
import os
import re
import time
import zipfile

import numpy as np
import pytest

from antjax.serving import exporter, feed, loader
from antjax.serving.follower import Follower
from antjax.serving.live import Live
from tests.serving import delta_test

TITLES = [f't{i:02}' for i in range(30)]


@pytest.fixture(params=['none', 'int8'])
def base(request, tmp_path):
  """Folder of an export without code."""
  made = delta_test.model(np.random.default_rng(0), TITLES)
  exporter.write(tmp_path / 'base', made, quantize=request.param)
  return tmp_path / 'base'


def opened(base):
  model = loader.Model(base, is_live=True)
  model.arrays = {'known': np.arange(31)}
  return model, Live(model, exporter.sha256(base / loader.MANIFEST))


def followed(base, folder):
  """Model, state and feed, as a server has them."""
  model, live = opened(base)
  deltas = feed.DeltaFeed(folder, live.version['digest'])
  return model, Follower(deltas, live, 0.01, lambda: None)


def state(model):
  """All that scores depend on, as a digest."""
  digest = hashlib.sha256()
  for table in model.tables.values():
    digest.update(table.read(np.arange(table.num_rows)).tobytes())
  for array in (*model.params.values(), *model.arrays.values()):
    digest.update(np.asarray(array).tobytes())
  keys = [*TITLES, *(f'new {i}' for i in range(99))]
  digest.update(model.ids('item', keys).tobytes())
  return digest.hexdigest()


def written(base, folder, count, seed=1):
  """Deltas of a trainer that adds and changes rows; the states after each."""
  rng = np.random.default_rng(seed)
  model, live = opened(base)
  states = [state(model)]
  for number in range(1, count + 1):
    size = live.tables['item'].num_rows
    tables = {n: t.read(np.arange(t.num_rows)) for n, t in live.tables.items()}
    tables['item'] = np.concatenate([tables['item'], rng.normal(size=(2, 4))])
    tables['item'] = tables['item'].astype(np.float32)
    touched = rng.integers(0, size, 3)
    tables['item'][touched] += 1
    params = {'a/b': rng.normal(size=3).astype(np.float32)}
    every = {n: [(np.arange(len(x)), x)] for n, x in tables.items()}
    arrays = live.changes(params, every) | {
      'keys/item': np.array([f'new {size}', f'new {size + 1}'], 'S'),
      'ids/item': np.array([size, size + 1], np.int32),
      'gone/item': np.array([TITLES[number]], 'S'),
      'at/known': np.array([size, size + 1]),
      'to/known': np.array([size, 0]),
    }
    assert len(arrays['rows/item']) <= 5
    base_digest = live.version['digest']
    delta = feed.write(folder, number, base_digest, arrays, {'event_s': 1})
    live.apply(delta)
    states.append(state(model))
  return states


def test_replay_is_the_state_bit_for_bit(base, tmp_path):
  files = {p: p.read_bytes() for p in base.rglob('*.np?')}
  states = written(base, tmp_path / 'deltas', 3)
  assert len({*states}) == 4
  model, follower = followed(base, tmp_path / 'deltas')
  assert state(model) == states[0]
  follower.catch_up()
  assert state(model) == states[3] and follower.num_applied == 3
  assert follower.live.version['sequence'] == 3 and follower.age_s > 1e9
  assert model.ids('item', ['t01', 'new 32']).tolist() == [0, 32]
  assert model.manifest['features']['item']['num_ids'] == 37
  # Served files stay as they are, and the same deltas are the same bytes.
  assert files == {p: p.read_bytes() for p in base.rglob('*.np?')}
  assert written(base, tmp_path / 'again', 3) == states
  for path in (tmp_path / 'deltas').iterdir():
    assert path.read_bytes() == (tmp_path / 'again' / path.name).read_bytes()


def broken(kind, tmp_path, base):
  """Breaks the second of three deltas; returns what mends it."""
  path = tmp_path / 'deltas' / feed.name_of(2)
  whole = path.read_bytes()
  if kind == 'gap':
    path.unlink()
  elif kind == 'torn':
    path.write_bytes(whole[:-5])
  elif kind == 'flipped':
    path.write_bytes(whole[:-99] + b'#' + whole[-98:])
  elif kind == 'name':
    path.write_bytes(whole.replace(b'"sequence"', b'"sequenca"', 1))
  elif kind == 'line':
    path.write_bytes(whole.partition(b'\n')[0])
  else:
    written(base, tmp_path / 'other', 2, seed=2)
    path.write_bytes((tmp_path / 'other' / path.name).read_bytes())
  return lambda: path.write_bytes(whole)


@pytest.mark.parametrize('base', ['none'], indirect=True)
@pytest.mark.parametrize(
  ('kind', 'counted', 'message'),
  [
    ('gap', 'gap', '0000000002.delta is missing; 0000000003.delta is there'),
    ('torn', 'torn', '0000000002.delta is not whole: .* bytes of'),
    ('flipped', 'torn', 'its SHA-256 is another'),
    ('line', 'torn', 'its first line is no JSON'),
    ('name', 'torn', "its first line lacks 'sequence'"),
    ('other', 'base', 'of another base or trainer'),
  ],
)
def test_what_is_broken_waits_and_heals(base, tmp_path, kind, counted, message):
  states = written(base, tmp_path / 'deltas', 3)
  mend = broken(kind, tmp_path, base)
  model, follower = followed(base, tmp_path / 'deltas')
  for _ in range(2):  # It is counted once.
    follower.catch_up()
  assert state(model) == states[1]
  assert follower.state['refused'][counted] == 1
  assert re.search(message, follower.state['trouble'])
  mend()
  follower.catch_up()
  assert state(model) == states[3] and not follower.state['trouble']


@pytest.mark.parametrize('base', ['none'], indirect=True)
@pytest.mark.parametrize(
  'change',
  [
    {'values/item': np.zeros((1, 5), np.float32)},
    {'values/item': np.zeros((1, 4), np.float64)},
    {'scale/item': np.zeros(1, np.float32)},
    {'rows/item': np.array([33])},
    {'rows/item': np.array([-1])},
    {'rows/nothing': np.array([1])},
    {'params/a/b': np.zeros(4, np.float32)},
    {'params/c': np.zeros(4, np.float32)},
    {'keys/item': np.array([3]), 'ids/item': np.array([3])},
    {'else/item': np.array([3])},
    {'values/item': np.full((1, 4), np.nan, np.float32)},
    {'params/a/b': np.full(3, np.inf, np.float32)},
    {'rows/item': np.float64(31)},
    {'keys/item': np.array([b'a']), 'ids/item': np.array([1.5])},
  ],
)
def test_what_does_not_fit_changes_nothing(base, tmp_path, change):
  model, follower = followed(base, tmp_path / 'deltas')
  before = state(model)
  good = {'rows/item': np.array([31]), 'params/a/b': np.ones(3, np.float32)}
  good['values/item'] = np.ones((1, 4), np.float32)
  digest = follower.live.version['digest']
  feed.write(tmp_path / 'deltas', 1, digest, good | change)
  follower.catch_up()
  assert state(model) == before and follower.state['refused']['content'] == 1
  assert '0000000001.delta: ' in follower.state['trouble']
  (tmp_path / 'deltas' / '0000000001.delta').unlink()
  feed.write(tmp_path / 'deltas', 1, digest, good)
  follower.catch_up()
  assert state(model) != before and follower.num_applied == 1


def test_a_delta_is_never_replaced(tmp_path):
  arrays = {'params/c': np.ones(3, np.float32)}
  made = feed.write(tmp_path, 1, 'base', arrays)
  before = (tmp_path / '0000000001.delta').read_bytes()
  # A trainer that was killed writes it again, a second trainer another one.
  assert feed.write(tmp_path, 1, 'base', arrays).digest == made.digest
  with pytest.raises(ValueError, match='1.delta is there with another'):
    feed.write(tmp_path, 1, 'base', {'params/c': np.zeros(3, np.float32)})
  assert os.listdir(tmp_path) == ['0000000001.delta']
  assert (tmp_path / '0000000001.delta').read_bytes() == before


@pytest.mark.parametrize('base', ['none'], indirect=True)
@pytest.mark.parametrize(
  ('packed', 'shape', 'message'),
  [
    (False, '(9000000000000, 4)', 'rows.npy announces 144000000000128 bytes'),
    (False, '(-1, 4)', 'an array of .-1, 4. of float32'),
    (False, '(0, 4)', 'announces 128 bytes, an array of .0, 4. of float32'),
    (True, '(1, 4)', 'rows.npy is packed; needed is plain .npz'),
  ],
)
def test_arrays_have_the_size_that_they_announce(
  base, tmp_path, monkeypatch, packed, shape, message
):
  model, follower = followed(base, tmp_path / 'deltas')
  before = state(model)

  def savez(file, **arrays):
    del arrays
    content = io.BytesIO()
    np.save(content, np.ones((1, 4), np.float32))
    data = content.getvalue()
    old = b"'shape': (1, 4), }"
    new = f"'shape': {shape}, }}".encode()
    assert old in data
    room = len(new) - len(old)  # It is padded with blanks.
    if room > 0:
      data = data.replace(b' ' * room + b'\n', b'\n')
    else:
      new += b' ' * -room
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, 'w', kind) as made:
      made.writestr('rows.npy', data.replace(old, new))

  with monkeypatch.context() as patch:
    patch.setattr(np, 'savez', savez)
    digest = follower.live.version['digest']
    feed.write(tmp_path / 'deltas', 1, digest, {})
  follower.catch_up()
  assert follower.state['refused']['content'] == 1
  assert re.search(message, follower.state['trouble'])
  assert state(model) == before


@pytest.mark.parametrize('base', ['none'], indirect=True)
def test_deltas_that_come_are_applied_on_the_thread_that_scores(base, tmp_path):
  model, follower = followed(base, tmp_path / 'deltas')
  follower.start()
  states = written(base, tmp_path / 'deltas', 3)
  deadline = time.monotonic() + 30
  while follower.num_applied < 3 and time.monotonic() < deadline:
    before = state(model)
    time.sleep(0.02)
    assert state(model) == before  # Until it is said.
    follower.between()
  follower.stop()
  assert state(model) == states[3]
