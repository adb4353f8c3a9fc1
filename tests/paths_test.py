# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""URLs that cannot be served are refused; no folder is ever named `gs:`."""

import pathlib

import pytest

from antjax import config as config_lib
from antjax import paths
from antjax.data import output_folder
from antjax.lm import tokenizer
from antjax.report import progress
from antjax.shards import journal
from antjax.train import loop
from antjax.train.checkpoint import Checkpointer


@pytest.fixture(autouse=True)
def _nothing_is_made(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  yield
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('path', ['a', '/a/b', 'a:b', './gs', 'host:80/x'])
def test_a_local_path_is_let_through(path):
  paths.check(path, 'data')
  assert paths.local(path) == pathlib.Path(path)


@pytest.mark.parametrize(
  'path, message',
  [
    ('hdfs://x/y', 'data=hdfs://x/y: .* only gs:// and s3:// are known'),
    ('GS://b/x', 'data=GS://b/x: .* only gs:// and s3:// are known'),
    ('S3://b/x', 'data=S3://b/x: .* only gs:// and s3:// are known'),
    ('~/x', 'data=~/x: no shell has expanded the ~'),
    (pathlib.Path('gs://b/x'), 'data=gs:/b/x: pathlib has cut this URL'),
  ],
)
def test_a_url_that_nobody_serves_is_refused(path, message):
  with pytest.raises(ValueError, match=message):
    paths.check(path, 'data')


@pytest.mark.parametrize('scheme, extra', [('gs', 'gcs'), ('s3', 's3')])
def test_a_missing_package_is_named(monkeypatch, scheme, extra):
  monkeypatch.setattr(paths.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=rf"pip install 'antjax\[{extra}\]'"):
    paths.check(f'{scheme}://bucket/run', 'run_dir')


@pytest.mark.parametrize(
  'call',
  [
    lambda url: config_lib.save(config_lib, url),
    lambda url: journal.Journal(url),
    lambda url: loop.FitOptions(checkpoint_dir=url.replace('gs', 'hdfs')),
    lambda url: Checkpointer(url.replace('gs', 'hdfs'), None),
    lambda url: paths.staged(url).__enter__(),
    lambda url: output_folder.is_current(url, {}, overwrite=False),
    lambda url: progress.RunLog(url),
    lambda url: tokenizer.learn(['a b'], 300).save(url),
  ],
)
def test_who_writes_to_disk_refuses_a_url(call):
  with pytest.raises(ValueError, match='this URL cannot be used here'):
    call('gs://bucket/x')
