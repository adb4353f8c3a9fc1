# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of the Hugging Face Hub, wherever a model's folder is asked for."""

import functools
import os
import pathlib
import re

from antjax import paths

SCHEME = 'hf://'
_NAME = re.compile(r'[\w.-]+/[\w.-]+')
# What is read of a model; other weights of a repository are left there.
_FILES = (
  *('config.json', 'tokenizer.json', 'tokenizer_config.json'),
  *('*.safetensors', '*.safetensors.index.json'),
  # Of sentence-transformers.
  *('modules.json', '*/config.json', 'sentence_bert_config.json'),
  *('config_sentence_transformers.json', 'adapter_config.json'),
)


def local(model: str | os.PathLike[str]) -> pathlib.Path:
  """The folder of a model: its path, or what a URL is fetched to.

  hf://org/name@revision names a commit, branch or tag. The first call of a
  process asks the Hub and downloads what is not in its cache, later ones do
  not.

  Raises:
    ValueError: What follows hf:// is no such name.
    RuntimeError: It cannot be fetched and is not in the cache.
  """
  text = os.fspath(model)
  if not text.startswith(SCHEME):
    return paths.fetched(text, 'model')
  name, _, revision = text.removeprefix(SCHEME).partition('@')
  if not _NAME.fullmatch(name):
    raise ValueError(
      f'{text}: needed: {SCHEME}org/name, or {SCHEME}org/name@revision.'
    )
  return _fetched(name, revision or None)


@functools.cache
def _fetched(name: str, revision: str | None) -> pathlib.Path:
  return fetch(name, revision)


def fetch(
  name: str,
  revision: str | None = None,
  folder: str | None = None,
) -> pathlib.Path:
  """Downloads org/name to a folder, or to the Hub's cache; returns it.

  Raises:
    RuntimeError: It cannot be fetched.
  """
  import huggingface_hub  # Slow, and few need it.

  download = functools.partial(
    huggingface_hub.snapshot_download,
    name,
    revision=revision,
    local_dir=folder,
  )
  try:
    made = download(allow_patterns=list(_FILES))
    weights = [*pathlib.Path(made).rglob('*.safetensors')]
    if pathlib.Path(made, 'config.json').is_file() and not weights:
      made = download(allow_patterns=['*.bin', '*.bin.index.json'])
  except Exception as error:  # Of its own, its HTTP client's, the system's.
    why = ' '.join(str(error).split())
    raise RuntimeError(
      f'{SCHEME}{name} cannot be fetched from the Hugging Face Hub'
      f' ({type(error).__name__}: {why}). Where there is no network, copy its'
      f' {", ".join(_FILES[:2])} and model.safetensors (of several files, with'
      ' their index) to a folder and give its path instead.'
    ) from error
  return pathlib.Path(made)
