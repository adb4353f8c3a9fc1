# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of pretrained models."""

import os
import pathlib
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from antjax.lm import gguf_model, hub

FILE_NAME = 'tokenizer.json'
_CONTROL = 3  # Type of tokens that never occur in texts.
# llama.cpp's name of a pre-tokenizer -> equivalent steps.
_QWEN2_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def load_tokenizer(
  path: str | os.PathLike[str], vocab_size: int | None = None
) -> tokenizers.Tokenizer:
  """Reads a folder's tokenizer.json, or the tokenizer of a GGUF file.

  Truncation and padding are off, whatever the file says.

  Args:
    path: Folder with a tokenizer.json, .gguf file, or folder with one; or
      the name of a model as for `pretrained.load`.
    vocab_size: Vocabulary size of the model that reads the ids; it may be
      larger than the tokenizer's. None: not checked.

  Raises:
    FileNotFoundError: There is no tokenizer.
    ValueError: It is damaged or of an unsupported kind, or has ids that the
      model lacks.
  """
  tokenizer = _load(path)
  last = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
  if vocab_size is not None and last >= vocab_size:
    # JAX would clamp them to the last row.
    raise ValueError(
      f'the tokenizer of {path} has ids up to {last}, its model of vocab_size='
      f'{vocab_size} needs ids up to {vocab_size - 1} at most; give the'
      ' tokenizer that the model came with.'
    )
  return tokenizer


def _load(path: str | os.PathLike[str]) -> tokenizers.Tokenizer:
  path = hub.local(path, or_name=True)
  file = gguf_model.find(path, FILE_NAME)
  if file != pathlib.Path(path, FILE_NAME):
    return _from_gguf(file)
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
  except Exception as error:  # The package raises no specific type.
    raise ValueError(f'{file} is no tokenizer ({error}).') from error
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer


def _from_gguf(path: pathlib.Path) -> tokenizers.Tokenizer:
  metadata = gguf_model.GgufFile(path).metadata

  def value(key: str) -> Any:
    return metadata.get(f'tokenizer.ggml.{key}')

  steps = _pre_tokenizer(value('pre'))
  if value('model') != 'gpt2' or steps is None:
    raise ValueError(
      f'{path}: its tokenizer is {value("model")!r} with {value("pre")!r};'
      " known are 'gpt2' with 'default', 'gpt-2', 'smollm' or 'qwen2'. Use the"
      " Hugging Face folder's tokenizer.json."
    )
  tokens, merges = value('tokens'), value('merges')
  if not tokens or not merges:
    raise ValueError(f'{path} holds no tokens or no merges.')
  pairs = [tuple(merge.split(' ', 1)) for merge in merges]
  vocabulary = {token: i for i, token in enumerate(tokens)}
  try:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
  except Exception as error:
    raise ValueError(f'{path}: its merges do not fit ({error}).') from error
  tokenizer.pre_tokenizer = steps
  tokenizer.decoder = decoders.ByteLevel()
  kinds = value('token_type')
  kinds = [] if kinds is None else kinds
  tokenizer.add_special_tokens(
    [
      tokenizers.AddedToken(token, special=True, normalized=False)
      for token, kind in zip(tokens, kinds)
      if kind == _CONTROL
    ]
  )
  return tokenizer


def _pre_tokenizer(name: str | None) -> pre_tokenizers.PreTokenizer | None:
  words = pre_tokenizers.ByteLevel(add_prefix_space=False)
  if name in (None, 'default', 'gpt-2'):
    return words
  if name == 'smollm':
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, words])
  if name == 'qwen2':
    pattern = tokenizers.Regex(_QWEN2_WORDS)
    cut = pre_tokenizers.Split(pattern, 'isolated')
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([cut, letters])
  return None
