# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of the Hugging Face Hub, usable in place of a model's folder."""

import functools
import os
import pathlib
import re

from absl import logging

from antjax import paths

SCHEME = 'hf://'
_NAME = re.compile(r'\w[\w.-]*/\w[\w.-]*')
# Files of a model to download; other weights of a repository are not.
_FILES = (
  # A star also stands for a slash: modules of sentence-transformers may have
  # folders of their own.
  *('config.json', 'tokenizer.json', '*/config.json', '*/tokenizer.json'),
  *('*tokenizer_config.json', '*sentence_bert_config.json'),
  *('*.safetensors', '*.safetensors.index.json', 'modules.json'),
  *('config_sentence_transformers.json', 'adapter_config.json'),
)


def local(model: str | os.PathLike[str], or_name: bool = False) -> pathlib.Path:
  """The folder of a model: its path, or the folder that a URL is fetched to.

  hf://org/name@revision names a commit, branch or tag. The first call of a
  process asks the Hub and downloads what its cache lacks; later calls do not.
  With `or_name`, org/name is such a URL if there is no such folder.

  Raises:
    ValueError: The text after hf:// is not such a name.
    RuntimeError: It cannot be fetched and is not in the cache.
  """
  text = os.fspath(model)
  is_name = or_name and _NAME.fullmatch(text.partition('@')[0])
  if is_name and not text.endswith('.gguf') and not os.path.exists(text):
    logging.info('There is no folder %s; the Hugging Face Hub is asked.', text)
    text = SCHEME + text
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
  import huggingface_hub  # Slow, and rarely needed.

  download = functools.partial(
    huggingface_hub.snapshot_download,
    name,
    revision=revision,
    local_dir=folder,
  )
  try:
    made = pathlib.Path(download(allow_patterns=list(_FILES)))
    parts = [file.parent for file in made.rglob('config.json')]
    old = [x for x in parts if not [*x.glob('*.safetensors')]]
    names = [(x.relative_to(made) / 'pytorch_model').as_posix() for x in old]
    if names:
      end = '*.bin', '*.bin.index.json'
      download(allow_patterns=[name + x for name in names for x in end])
  except Exception as error:  # Its own, its HTTP client's or the system's.
    why = ' '.join(str(error).split())
    raise RuntimeError(
      f'{SCHEME}{name} cannot be fetched from the Hugging Face Hub'
      f' ({type(error).__name__}: {why}), and its cache lacks files of it. If'
      f' {name} is a path: there is no such folder. Without a network, copy its'
      f' {", ".join(_FILES[:2])} and model.safetensors (of several files, with'
      ' their index) to a folder and give its path instead.'
    ) from error
  return made
