# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of the Hugging Face Hub, without a network."""

import huggingface_hub
from huggingface_hub import constants
import pytest

from antjax import lm
from antjax.jobs import fetch_model
from antjax.jobs.bahe.config import Config
from antjax.lm import fingerprint, hub, pretrained, pretrained_tokenizer
from antjax.serving import sentence


@pytest.fixture(autouse=True)
def _forget():
  hub._fetched.cache_clear()
  yield
  hub._fetched.cache_clear()


def test_a_name_is_fetched_once_and_read_as_a_folder(tmp_path, monkeypatch):
  asked = []

  def download(name, *, revision, local_dir, allow_patterns):
    asked.append((name, revision))
    assert 'tokenizer.json' in allow_patterns
    return str(local_dir or tmp_path)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  (tmp_path / 'tokenizer.json').write_text('{}')
  assert hub.local('hf://org/name') == tmp_path
  found = fingerprint.of_tokenizer('hf://org/name')
  assert found == fingerprint.of_tokenizer(tmp_path)
  with pytest.raises(ValueError, match='tokenizer.json is no tokenizer'):
    pretrained_tokenizer.load_tokenizer('hf://org/name')
  with pytest.raises(FileNotFoundError, match='holds no config.json'):
    pretrained.check_there('hf://org/name')
  assert asked == [('org/name', None)]
  hub.local('hf://org/name@v1.0')
  assert asked[1:] == [('org/name', 'v1.0')]
  # What is to be carried elsewhere.
  fetch_model.main(fetch_model.Config(pretrained='org/name', out='a/folder'))
  assert asked.pop() == ('org/name', None)
  # A path stays a path, though it looks like a name.
  assert str(hub.local('data/minilm')) == 'data/minilm'
  with pytest.raises(ValueError, match='needed: hf://org/name'):
    hub.local('hf://name')
  assert len(asked) == 2


def test_the_library_takes_a_name_where_there_is_no_such_folder(
  tmp_path, monkeypatch
):
  asked = []

  def download(name, *, revision, local_dir, allow_patterns):
    asked.append((name, revision))
    return str(tmp_path / 'cache')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'cache').mkdir()
  for name, want in (
    ('org/name', ('org/name', None)),
    ('org/name-1.5@main', ('org/name-1.5', 'main')),
  ):
    for load in lm.load, pretrained_tokenizer.load_tokenizer, sentence.read:
      with pytest.raises((FileNotFoundError, ValueError), match=r'no .*\.json'):
        load(name)
    assert asked == [want]
    asked.clear()
  (tmp_path / 'org/name').mkdir(parents=True)
  for path in ('org/name', 'org/model.gguf', './org', '../a/b', 'name', '../x'):
    with pytest.raises(FileNotFoundError):
      lm.load(path)
  assert not asked


def test_without_a_network_it_says_which_folder_it_wants(monkeypatch):
  def download(*args, **kwargs):
    raise huggingface_hub.errors.LocalEntryNotFoundError('no connection')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  with pytest.raises(
    RuntimeError,
    match=r'hf://org/name cannot be fetched.*no connection.*copy its'
    r' config.json, tokenizer.json and model.safetensors.*give its path',
  ):
    pretrained.load_pretrained('hf://org/name')
  with pytest.raises(RuntimeError, match='a/b is a path: there is no such fol'):
    lm.load('a/b')


def test_jobs_take_its_name():
  config = Config(pretrained='org/name', model='data/minilm')
  assert (config.model, config.pretrained) == ('hf://org/name', '')
  assert Config().model == 'data/minilm'


@pytest.mark.slow
def test_the_real_package_without_a_network(monkeypatch):
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  with pytest.raises(RuntimeError, match='cannot be fetched from the Hugging'):
    hub.local('hf://org/no-such-name-of-anyone')
