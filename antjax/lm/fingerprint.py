# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of models, tokenizers and vocabularies: SHA-256, as hex."""

from collections.abc import Sequence
import hashlib
import os
import pathlib
from typing import Any, Protocol

from antjax.lm import pretrained, pretrained_tokenizer

_BLOCK = 1 << 22
# Texts of a vocabulary that tell it from most others, as soon as it is there.
HEAD_ROWS = 1024
_BLOCK_ROWS = 65_536


class Vocabulary(Protocol):
  """Texts by row, of antjax.data.behavior_vocabulary say."""

  @property
  def normalizer(self) -> str:
    """Name and version of what the texts went through."""

  def __len__(self) -> int:
    """Rows; row 0 is the padding, without text."""

  def texts(self, start: int, stop: int) -> list[str]:
    """The texts of the rows start <= id < stop."""


def of_model(path: str | os.PathLike[str]) -> str:
  """Fingerprint of the weights and the config.

  Args:
    path: As for `pretrained.load_pretrained`.

  Raises:
    FileNotFoundError: There is no model.
  """
  path = pathlib.Path(path)
  if path.is_dir() and not (path / pretrained.CONFIG_NAME).is_file():
    path = _gguf(path)
  if path.is_dir():
    names = {pretrained.CONFIG_NAME}
    names |= {p.name for p in path.glob('*.safetensors')}
    files = [path / name for name in sorted(names)]
  else:
    files = [path]
  return _of_files(files)


def of_tokenizer(path: str | os.PathLike[str]) -> str:
  """Fingerprint of the tokenizer; `path` as for `load_tokenizer`."""
  path = pathlib.Path(path)
  file = path / pretrained_tokenizer.FILE_NAME
  if not path.is_dir():
    return _of_files([path])
  return _of_files([file if file.is_file() else _gguf(path)])


def of_vocabulary(vocabulary: Vocabulary, num_rows: int) -> str:
  """Fingerprint of the first rows' texts.

  Args:
    vocabulary: The vocabulary.
    num_rows: Rows to look at, HEAD_ROWS at most and no more than there are.
  """
  return _of_texts(vocabulary.texts(0, num_rows))


def of_rows(vocabulary: Vocabulary, start: int, stop: int) -> str:
  """Fingerprint of the texts of the rows start <= id < stop, all of them.

  Vocabularies may begin alike: copies of one that were appended to apart, or
  one that was made again of data of which little had changed.
  """
  digest = hashlib.sha256()
  for first in range(start, stop, _BLOCK_ROWS):
    _add(digest, vocabulary.texts(first, min(first + _BLOCK_ROWS, stop)))
  return digest.hexdigest()


def _of_texts(texts: Sequence[str]) -> str:
  digest = hashlib.sha256()
  _add(digest, texts)
  return digest.hexdigest()


def _add(digest: Any, texts: Sequence[str]) -> None:
  for text in texts:
    raw = text.encode('utf-8', 'surrogatepass')
    digest.update(len(raw).to_bytes(8, 'little'))
    digest.update(raw)


def _gguf(folder: pathlib.Path) -> pathlib.Path:
  found = sorted(folder.glob('*.gguf'))
  if len(found) != 1:
    raise FileNotFoundError(
      f'{folder} holds {len(found)} *.gguf files and no Hugging Face model'
      ' with its tokenizer.json; needed is one of them. python -m'
      ' launch.fetch_model gets small ones.'
    )
  return found[0]


def _of_files(files: Sequence[pathlib.Path]) -> str:
  digest = hashlib.sha256()
  for path in files:
    if not path.is_file():
      raise FileNotFoundError(f'{path} is not there.')
    # A GGUF file may have any name; a folder's parts may not.
    digest.update(path.name.encode() if len(files) > 1 else b'')
    digest.update(path.stat().st_size.to_bytes(8, 'little'))
    with open(path, 'rb') as file:
      while block := file.read(_BLOCK):
        digest.update(block)
  return digest.hexdigest()
