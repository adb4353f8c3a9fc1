# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of models, tokenizers and vocabularies: SHA-256 as hex."""

from collections.abc import Sequence
import hashlib
import os
import pathlib
from typing import Protocol

from antjax.lm import gguf_model, hub, pretrained, pretrained_tokenizer

_BLOCK = 1 << 22
# Number of first texts that distinguish a vocabulary from most others.
HEAD_ROWS = 1024
_BLOCK_ROWS = 65_536


class TextRows(Protocol):
  """Texts by row, such as antjax.data.behavior_vocabulary."""

  @property
  def normalizer(self) -> str:
    """Name and version of the normalizer of the texts."""

  def __len__(self) -> int:
    """Number of rows; row 0 is padding, without text."""

  def texts(self, start: int, stop: int) -> list[str]:
    """The texts of the rows start <= id < stop."""


def of_model(path: str | os.PathLike[str]) -> str:
  """Fingerprint of the weights and the config; `path` as for `load_pretrained`.

  Raises:
    FileNotFoundError: There is no model.
  """
  path = hub.local(path)
  file = gguf_model.find(path, pretrained.CONFIG_NAME)
  is_folder = file == pathlib.Path(path, pretrained.CONFIG_NAME)
  weights = [*file.parent.glob('*.safetensors')] if is_folder else []
  if is_folder and not weights:
    weights = [*file.parent.glob('pytorch_model*.bin')]
  return _of_files(sorted({file, *weights}))


def of_tokenizer(path: str | os.PathLike[str]) -> str:
  """Fingerprint of the tokenizer; `path` as for `load_tokenizer`."""
  file = gguf_model.find(hub.local(path), pretrained_tokenizer.FILE_NAME)
  return _of_files([file])


def of_rows(vocabulary: TextRows, start: int, stop: int) -> str:
  """Fingerprint of all texts of the rows start <= id < stop.

  Vocabularies may have equal beginnings: copies that were extended separately,
  or one rebuilt from data with few changes.
  """
  digest = hashlib.sha256()
  for first in range(start, stop, _BLOCK_ROWS):
    for text in vocabulary.texts(first, min(first + _BLOCK_ROWS, stop)):
      raw = text.encode('utf-8', 'surrogatepass')
      digest.update(len(raw).to_bytes(8, 'little'))
      digest.update(raw)
  return digest.hexdigest()


def _of_files(files: Sequence[pathlib.Path]) -> str:
  digest = hashlib.sha256()
  for path in files:
    if not path.is_file():
      raise FileNotFoundError(f'{path} is not there.')
    # A GGUF file may have any name; files of a folder may not.
    digest.update(path.name.encode() if len(files) > 1 else b'')
    digest.update(path.stat().st_size.to_bytes(8, 'little'))
    with open(path, 'rb') as file:
      while block := file.read(_BLOCK):
        digest.update(block)
  return digest.hexdigest()
