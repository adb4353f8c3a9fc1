# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A prepared folder is whole or not there, and never someone else's."""

import json
import os

import pytest

from antjax import paths
from antjax.data import output_folder

CONFIG = {'seed': 0, 'format': 'parquet'}


def fill(folder, config=CONFIG):
  """Writes a prepared folder with one file of data."""
  with paths.staged(folder) as stage:
    (stage / 'train.parquet').write_bytes(b'data')
    entry = {'path': 'train.parquet', 'bytes': 4}
    text = json.dumps({'config': config, 'files': {'train': entry}})
    (stage / output_folder.DESCRIPTION).write_text(text)


@pytest.fixture(name='folder')
def _folder(tmp_path):
  folder = tmp_path / 'out'
  fill(folder)
  return folder


def is_current(folder, config=CONFIG, overwrite=False):
  return output_folder.is_current(folder, config, overwrite=overwrite)


def test_new_empty_and_current(folder, tmp_path):
  assert not is_current(tmp_path / 'new')
  (tmp_path / 'empty').mkdir()
  assert not is_current(tmp_path / 'empty')
  (tmp_path / 'empty' / 'rejected.csv').write_text('x')
  assert not is_current(tmp_path / 'empty')
  assert is_current(folder)
  assert not is_current(folder, overwrite=True)


def test_other_settings(folder):
  with pytest.raises(ValueError, match=r'seed=0 \(now 1\); add --overwrite'):
    is_current(folder, {**CONFIG, 'seed': 1})
  assert not is_current(folder, {**CONFIG, 'seed': 1}, overwrite=True)


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_folder(tmp_path, overwrite):
  (tmp_path / 'notes.txt').write_text('mine')
  with pytest.raises(ValueError, match='holds no prepared data'):
    is_current(tmp_path, overwrite=overwrite)
  with pytest.raises(ValueError, match='is a file; needed: a folder'):
    is_current(tmp_path / 'notes.txt', overwrite=overwrite)


def test_foreign_file_in_our_folder(folder):
  (folder / 'notes').mkdir()
  (folder / 'notes' / 'a.txt').write_text('mine')
  assert is_current(folder)
  with pytest.raises(ValueError, match='also holds notes/a.txt'):
    is_current(folder, overwrite=True)


def test_files_of_another_size_are_refused(tmp_path):
  (tmp_path / 'events').mkdir()
  (tmp_path / 'events' / 'liked.npy').write_bytes(b'abc')
  files = {
    'events/liked.npy': {'path': 'events/liked.npy', 'bytes': 3},
    'train': {'path': 'train.parquet', 'bytes': 4},  # Not looked at.
  }
  output_folder.check_files(tmp_path, {'files': files}, 'events/')
  (tmp_path / 'events' / 'liked.npy').write_bytes(b'ab')
  with pytest.raises(ValueError, match='liked.npy has 2 bytes of 3.*overwrite'):
    output_folder.check_files(tmp_path, {'files': files}, 'events/')
  (tmp_path / 'events' / 'liked.npy').unlink()
  with pytest.raises(ValueError, match='liked.npy is gone'):
    output_folder.check_files(tmp_path, {'files': files}, 'events/')


@pytest.mark.parametrize('how', ['cut', 'gone'])
def test_damaged(folder, how):
  if how == 'cut':
    (folder / 'train.parquet').write_bytes(b'dat')
  else:
    (folder / 'train.parquet').unlink()
  with pytest.raises(
    ValueError, match=r'damaged \(train.parquet (has 3|is gone).*; add --over'
  ):
    is_current(folder)
  assert not is_current(folder, overwrite=True)


def test_load_description(folder, tmp_path):
  assert output_folder.load_description(folder)['config'] == CONFIG
  with pytest.raises(FileNotFoundError, match='holds no prepared data'):
    output_folder.load_description(tmp_path)
  for text in ('{', '[]', '{"config": {}}', '\xff'):
    path = folder / output_folder.DESCRIPTION
    path.write_bytes(text.encode('latin-1'))
    with pytest.raises(ValueError, match='was not written by launch/prepare'):
      output_folder.load_description(folder)


def test_replaces_at_the_end(folder, tmp_path):
  fill(folder, {'seed': 9})
  assert is_current(folder, {'seed': 9})
  assert os.listdir(tmp_path) == ['out']


def test_a_failure_leaves_the_old(folder, tmp_path):
  with pytest.raises(OSError, match='disk'):
    with paths.staged(folder) as stage:
      (stage / 'train.parquet').write_bytes(b'half')
      raise OSError('disk')
  assert os.listdir(tmp_path) == ['out']
  assert is_current(folder)


def test_what_a_killed_run_left_is_named(folder, tmp_path, caplog):
  (tmp_path / '.out.partial-x').mkdir()
  (tmp_path / '.other.partial-x').mkdir()  # Perhaps still at work.
  output_folder.make(
    folder, {}, lambda stage, work: {'files': {}}, overwrite=True
  )
  assert '.out.partial-x was left by a run that was killed' in caplog.text
  assert '.other' not in caplog.text
