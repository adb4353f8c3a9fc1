# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run that lost its folder publishes nothing there, and spoils nothing."""

import asyncio
import errno
import os
import pathlib

from etils import epath
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.train import lease
from antjax.train.checkpoint import Checkpointer
from antjax.train.checkpoint_folder import Claim
from antjax.train.trainer import Trainer


def begun(folder, claim, step):
  """The unfinished checkpoint of a step."""
  path = claim.path_class().from_final(epath.Path(folder / str(step)))
  asyncio.run(path.create())
  (path.get() / 'data').write_text(claim.token)
  return path


def claimed(folder, known_steps=()):
  claim = Claim(str(folder))
  claim.take(known_steps)
  return claim


def test_an_unfinished_checkpoint_has_its_runs_own_name(tmp_path):
  first, second = claimed(tmp_path), Claim(str(tmp_path))
  path = begun(tmp_path, first, 5)
  second.token = 'another'
  other = second.path_class().from_final(epath.Path(tmp_path / '5'))
  assert other.get() != path.get()
  asyncio.run(path.finalize())
  assert (tmp_path / '5' / 'data').read_text() == first.token
  # It is a checkpoint as any other.
  assert asyncio.run(path.validate_final(path.get_final())) is None


def test_what_was_unfinished_can_be_finished_no_more(tmp_path):
  """A zombie that wakes up between its last look and the rename, say."""
  zombie = claimed(tmp_path)
  path = begun(tmp_path, zombie, 5)
  successor = claimed(tmp_path)
  zombie.token = successor.token  # As if it had looked before.
  with pytest.raises(FileNotFoundError):
    asyncio.run(path.finalize())
  own = begun(tmp_path, successor, 5)
  asyncio.run(own.finalize())
  assert (tmp_path / '5' / 'data').read_text() == successor.token
  assert sorted(p.name for p in tmp_path.iterdir()) == ['.owner', '5']


def test_who_lost_the_folder_publishes_nothing(tmp_path):
  zombie = claimed(tmp_path)
  claimed(tmp_path)
  path = begun(tmp_path, zombie, 6)
  with pytest.raises(RuntimeError, match='another run saves to'):
    asyncio.run(path.finalize())
  assert not (tmp_path / '6').exists()


def test_a_checkpoint_that_came_late_is_set_aside(tmp_path):
  for step in ('5', '10'):
    (tmp_path / step).mkdir()
  claim = claimed(tmp_path, known_steps=[5])
  names = sorted(p.name for p in tmp_path.iterdir())
  assert names == ['.owner', f'10.orphan-{claim.token}', '5']
  claim.take([])  # Only the first save takes it over.
  assert (tmp_path / '5').exists()


def full_until_removed(monkeypatch, torn):
  """The disk has room once the unfinished checkpoint is gone."""

  def write_text(path, text):
    path.touch()
    if torn.exists():
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    path.write_bytes(text.encode())

  monkeypatch.setattr(pathlib.Path, 'write_text', write_text)


def test_a_torn_checkpoint_that_fills_the_disk_is_removed_first(
  tmp_path, monkeypatch
):
  torn = epath.Path(begun(tmp_path, claimed(tmp_path), 5).get())
  # As of a run that died between the two.
  (tmp_path / '.owner-1').touch()
  (tmp_path / f'{torn.name}-2-old').mkdir()
  full_until_removed(monkeypatch, torn)
  claim = claimed(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['.owner']
  claim.check()


def test_a_full_disk_is_named_and_nothing_is_left_behind(tmp_path, monkeypatch):
  full_until_removed(monkeypatch, tmp_path)
  with pytest.raises(RuntimeError, match='No space left.*MB are free on the'):
    claimed(tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_run_starts_where_a_torn_checkpoint_has_filled_the_disk(
  tmp_path, monkeypatch
):
  folder = tmp_path / 'checkpoints'
  folder.mkdir()
  torn = epath.Path(begun(folder, claimed(folder), 5).get())
  write = lease.Lease._write

  def write_if_room(self, stamp):
    if torn.exists():
      raise ValueError("RESOURCE_EXHAUSTED: [os_error_code='28']")
    return write(self, stamp)

  monkeypatch.setattr(lease.Lease, '_write', write_if_room)
  with lease.held(tmp_path):
    assert not torn.exists()
  torn.mkdir()
  monkeypatch.setattr(
    lease.checkpoint_folder, 'remove_unfinished', lambda place: None
  )
  with pytest.raises(ValueError, match='disk is full.*make room'):
    with lease.held(tmp_path):
      pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
  def refuse(self, stamp):
    raise ValueError("PERMISSION_DENIED: .lease [os_error_code='30']")

  monkeypatch.setattr(lease.Lease, '_write', refuse)
  with pytest.raises(ValueError, match=f'{tmp_path}: a run keeps.*Make it wr'):
    with lease.held(tmp_path):
      pass


def make_saver(folder):
  trainer = Trainer(
    lambda params, batch, rng: jnp.square(batch['x'] @ params['w'])[:, 0],
    optax.sgd(0.1),
    mesh=make_mesh(intra=4),
    paro='NNG',
    min_shard_size=1,
  )
  state = trainer.init({'w': jnp.ones((3, 1))})
  saver = Checkpointer(str(folder), trainer.layout)
  return saver, state


def test_two_runs_in_one_folder(tmp_path):
  older, state = make_saver(tmp_path)
  older.save(5, state)
  older.wait()
  newer, _ = make_saver(tmp_path)  # Reads, and claims nothing.
  assert newer.newest() == 5
  older.save(10, state)
  older.wait()
  restored, _ = newer.restore(5)
  np.testing.assert_array_equal(restored.params['w'], 1)
  newer.save(10, state)  # The other's was not there when it began.
  newer.wait()
  assert newer.latest_step() == 10
  with pytest.raises(RuntimeError, match='another run saves to'):
    older.save(15, state)
    older.wait()
  newer.save(15, state)
  newer.wait()
  steps = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdecimal())
  assert steps == [5, 10, 15]
  newer.__exit__()
