# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A byte-level BPE tokenizer, learned from a corpus, stored in one file."""

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import os
import re

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from antjax import paths

FILE_NAME = 'tokenizer.json'
# Precedes and follows every document; first token of the vocabulary.
DOCUMENT = '<|document|>'
# Its equivalents in tokenizers of pretrained models.
_MARKS = (DOCUMENT, '<|endoftext|>', '<|end_of_text|>', '</s>', '<eos>')
# All bytes and the mark: the smallest vocabulary that can encode any text.
MIN_VOCAB_SIZE = 257
# Learning time grows with the square of the longest word.
_MAX_WORD = 512
_LONG_RUN = re.compile(
  rf'(?<!\S)\S{{{_MAX_WORD + 1},}}|(?<!\s)\s{{{_MAX_WORD + 1},}}'
)


class Tokenizer:
  """Converts texts to token ids and back, losslessly.

  Byte-level BPE (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909;
  Radford et al. 2019): every text can be encoded, and there is no unknown
  token.

  Attributes:
    document: Id of the mark between documents.
  """

  def __init__(self, inner: tokenizers.Tokenizer, name: str = 'tokenizer'):
    """Wraps a tokenizer of the `tokenizers` package that has such a mark."""
    ids = map(inner.token_to_id, _MARKS)
    marks = [mark for mark in ids if mark is not None]
    if not marks:
      raise ValueError(
        f'{name} has no token {" or ".join(map(repr, _MARKS))}; needed: one'
        ' that launch/prepare_text.py made, or of a model that writes texts.'
      )
    inner.no_truncation()
    inner.no_padding()
    self._inner = inner
    self.document: int = marks[0]

  @property
  def vocab_size(self) -> int:
    return int(self._inner.get_vocab_size())

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without marks; uses all cores.

    `DOCUMENT` inside a text is encoded as bytes, never as the mark.
    """
    done = self._inner.encode_batch(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in done]

  def decode(self, tokens: Sequence[int]) -> str:
    """The text of token ids, without marks."""
    return str(self._inner.decode([int(t) for t in tokens]))

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the tokenizer as JSON."""
    text = self._inner.to_str(pretty=True)
    paths.local(path).write_text(text, encoding='utf-8')


def learn(texts: Iterable[str], vocab_size: int) -> Tokenizer:
  """Learns merges from texts; the result does not depend on their order.

  A small corpus may give fewer than `vocab_size` tokens.

  Raises:
    ValueError: vocab_size is below `MIN_VOCAB_SIZE`.
  """
  if vocab_size < MIN_VOCAB_SIZE:
    raise ValueError(
      f'vocab_size={vocab_size}: needed is at least {MIN_VOCAB_SIZE}, one token'
      ' for each byte and the mark between documents.'
    )
  inner = tokenizers.Tokenizer(models.BPE())
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.decoder = decoders.ByteLevel()
  # The mark in a text is plain text.
  inner.encode_special_tokens = True
  inner.train_from_iterator(
    _cut_words(texts),
    trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=[DOCUMENT],
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  return Tokenizer(inner)


def _cut_words(texts: Iterable[str]) -> Iterator[str]:
  """Splits texts at too long runs of letters or spaces."""
  for text in texts:
    start = 0
    for run in _LONG_RUN.finditer(text):
      for end in range(run.start() + _MAX_WORD, run.end(), _MAX_WORD):
        yield text[start:end]
        start = end
    yield text[start:]


def load(path: str | os.PathLike[str]) -> Tokenizer:
  """Reads what `save` wrote.

  Raises:
    FileNotFoundError: No such file.
    ValueError: It is not a tokenizer, or has no mark between documents.
  """
  path = paths.fetched(path, 'tokenizer')
  if not path.is_file():
    raise FileNotFoundError(
      f'no tokenizer at {path}; launch/prepare_text.py makes one.'
    )
  try:
    inner = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # The package raises no specific type.
    raise ValueError(f'{path} is no tokenizer ({error}).') from error
  inner.encode_special_tokens = True  # Not stored in the file.
  return Tokenizer(inner, str(path))


def fingerprint(path: str | os.PathLike[str]) -> str:
  """SHA-256 of the file; ids are meaningless with another tokenizer."""
  with open(paths.fetched(path), 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
