# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Token ids of many short texts, computed once and memory-mapped.

Training steps never run a tokenizer: tokens of behaviors or titles are gathered
from here. Special tokens are those of the tokenizer's template: [CLS] .. [SEP]
for BERT, </s> at the end for T5, none for SmolLM2. They can be left out for
texts to be concatenated. An empty row, such as the padding, has no tokens at
all.

A folder has `tokens.bin` (int32, all rows concatenated), `offsets.bin` (int64
[rows + 1]) and `token_cache.json`, which is replaced last: anything beyond its
counts is from a killed run and is overwritten.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np
import tokenizers

from antjax import paths
from antjax.lm import fingerprint, pretrained_tokenizer
from antjax.lm.fingerprint import TextRows

MANIFEST = 'token_cache.json'
_TOKENS, _OFFSETS = 'tokens.bin', 'offsets.bin'
_VERSION = 1
_BLOCK = 65_536  # Number of texts tokenized and written at once.


class RowTokenizer:
  """Maps texts to token ids with special tokens, truncated to a length.

  Attributes:
    max_tokens: Maximum length of a row, including special tokens.
    num_cut: Number of texts truncated so far.
  """

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    max_tokens: int,
    special_tokens: bool = True,
  ):
    """Wraps a tokenizer of `pretrained_tokenizer`.

    Raises:
      ValueError: max_tokens leaves no room for text beside the special tokens.
    """
    special = 0
    if special_tokens:
      special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if max_tokens <= special:
      raise ValueError(
        f'max_tokens={max_tokens}: the tokenizer adds {special} special tokens'
        ' to each text; give more.'
      )
    self.max_tokens, self.num_cut = max_tokens, 0
    self._tokenizer, self._special_tokens = tokenizer, special_tokens
    tokenizer.enable_truncation(max_length=max_tokens)

  def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Tokenizes texts; an empty text gets no tokens.

    Returns:
      (tokens int32 [all], offsets int64 [n + 1]): row i is
      tokens[offsets[i]:offsets[i + 1]].
    """
    rows = self._tokenizer.encode_batch_fast(
      list(texts), add_special_tokens=self._special_tokens
    )
    self.num_cut += sum(bool(row.overflowing) for row in rows)
    ids = [row.ids if text else [] for row, text in zip(rows, texts)]
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(one) for one in ids], out=offsets[1:])
    tokens = np.fromiter(
      (token for one in ids for token in one), np.int32, count=offsets[-1]
    )
    return tokens, offsets


@dataclasses.dataclass(frozen=True)
class _Manifest:
  tokenizer: str
  normalizer: str
  max_tokens: int
  vocabulary: str
  vocabulary_rows: int
  rows: int
  num_tokens: int
  texts: str = ''  # Digest of all rows; '' in caches of older versions.


class TokenCache:
  """Tokens of the rows of a vocabulary, as of opening the cache.

  Attributes:
    tokens: int32 [all], memory-mapped.
    offsets: int64 [rows + 1], memory-mapped.
    max_tokens: Maximum length of a row.
    tokenizer: Fingerprint of the tokenizer.
  """

  def __init__(self, folder: pathlib.Path, manifest: _Manifest):
    """Use `open` or `build` instead."""
    self._manifest = manifest
    self.max_tokens = manifest.max_tokens
    self.tokenizer = manifest.tokenizer
    self.tokens = _mapped(folder / _TOKENS, np.int32, manifest.num_tokens)
    self.offsets = _mapped(folder / _OFFSETS, np.int64, manifest.rows + 1)

  @classmethod
  def open(cls, folder: str | os.PathLike[str]) -> 'TokenCache':
    """Opens a cache written by `build`.

    Raises:
      FileNotFoundError: There is no cache.
      ValueError: It is damaged.
    """
    folder = pathlib.Path(folder)
    manifest = _read(folder)
    if manifest is None:
      raise FileNotFoundError(
        f'{folder / MANIFEST} is missing: {folder} holds no token ids;'
        ' TokenCache.build makes them.'
      )
    return cls(folder, manifest)

  @classmethod
  def build(
    cls,
    folder: str | os.PathLike[str],
    vocabulary: TextRows,
    model: str | os.PathLike[str],
    *,
    max_tokens: int = 128,
    special_tokens: bool = True,
  ) -> 'TokenCache':
    """Tokenizes the rows that the cache lacks, and opens it.

    One of several processes does this while the others wait. Longer texts are
    truncated; their number is logged.

    Args:
      folder: Parent folder of the caches, with one for each tokenizer, length
        and kind, created if missing.
      vocabulary: Texts by row.
      model: Folder or GGUF file with the tokenizer.
      max_tokens: Maximum number of tokens of a row, including special ones.
      special_tokens: Whether to add those of the tokenizer's template.

    Raises:
      FileNotFoundError: There is no tokenizer.
      ValueError: The cache is damaged, or of another vocabulary or normalizer.
      OSError: The cache cannot be written.
    """
    digest = fingerprint.of_tokenizer(model)
    name = f'{digest[:16]}-{max_tokens}' + '-bare' * (not special_tokens)
    folder = paths.local(folder, 'TokenCache: folder') / name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
      old = _read(folder)
      if old is None:
        head = min(len(vocabulary), fingerprint.HEAD_ROWS)
        old = _Manifest(
          digest,
          vocabulary.normalizer,
          max_tokens,
          fingerprint.of_rows(vocabulary, 0, head),
          head,
          0,
          0,
        )
      _check(folder, old, vocabulary)
      if old.rows < len(vocabulary):
        tokenizer = RowTokenizer(
          pretrained_tokenizer.load_tokenizer(model), max_tokens, special_tokens
        )
        old = _append(folder, old, vocabulary, tokenizer)
    return cls(folder, old)

  def __len__(self) -> int:
    """Rows."""
    return self._manifest.rows

  @property
  def lengths(self) -> np.ndarray:
    """int32 [rows]: tokens of each row."""
    return np.diff(self.offsets).astype(np.int32)

  def padded(
    self, ids: np.ndarray, num_tokens: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of rows `ids` [n], truncated or zero-padded to `num_tokens`.

    Returns:
      (tokens int32 [n, num_tokens], lengths int32 [n]).
    """
    return padded(self.tokens, self.offsets, ids, num_tokens)


def padded(
  tokens: np.ndarray, offsets: np.ndarray, ids: np.ndarray, num_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
  """See `TokenCache.padded`."""
  ids = np.asarray(ids)
  starts = np.asarray(offsets[ids])
  lengths = np.minimum(np.asarray(offsets[ids + 1]) - starts, num_tokens)
  result = np.zeros((len(ids), num_tokens), np.int32)
  row = np.repeat(np.arange(len(ids)), lengths)
  firsts = np.cumsum(lengths) - lengths
  place = np.arange(len(row)) - np.repeat(firsts, lengths)
  result[row, place] = tokens[np.repeat(starts, lengths) + place]
  return result, lengths.astype(np.int32)


def _append(
  folder: pathlib.Path,
  old: _Manifest,
  vocabulary: TextRows,
  tokenizer: RowTokenizer,
) -> _Manifest:
  """Adds the missing rows; writes the manifest last."""
  num_rows, num_tokens = len(vocabulary), old.num_tokens
  with (
    _opened(folder / _TOKENS, 4 * old.num_tokens) as token_file,
    _opened(
      folder / _OFFSETS, 8 * (old.rows + 1) if old.rows else 0
    ) as offset_file,
  ):
    if not old.rows:
      offset_file.write(np.zeros(1, '<i8').tobytes())
    for start in range(old.rows, num_rows, _BLOCK):
      texts = vocabulary.texts(start, min(start + _BLOCK, num_rows))
      tokens, offsets = tokenizer(texts)
      token_file.write(tokens.astype('<i4').tobytes())
      offset_file.write((num_tokens + offsets[1:]).astype('<i8').tobytes())
      num_tokens += len(tokens)
    for file in (token_file, offset_file):
      file.flush()
      os.fsync(file.fileno())
  logging.info(
    'Token ids: %d new rows, %d tokens; %d texts were cut to max_tokens=%d.',
    num_rows - old.rows,
    num_tokens - old.num_tokens,
    tokenizer.num_cut,
    tokenizer.max_tokens,
  )
  new = dataclasses.replace(
    old,
    rows=num_rows,
    num_tokens=num_tokens,
    texts=fingerprint.of_rows(vocabulary, 0, num_rows),
  )
  content = {'version': _VERSION, **dataclasses.asdict(new)}
  temporary = folder / f'.{MANIFEST}.new'
  with open(temporary, 'w', encoding='utf-8') as file:
    json.dump(content, file, indent=2)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, folder / MANIFEST)
  return new


@contextlib.contextmanager
def _opened(path: pathlib.Path, size: int) -> Iterator[Any]:
  """Truncates a file to `size` bytes and opens it for appending."""
  with open(path, 'r+b' if path.exists() else 'w+b') as file:
    file.truncate(size)
    file.seek(size)
    yield file


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  with open(folder / '.lock', 'a') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _read(folder: pathlib.Path) -> _Manifest | None:
  path = folder / MANIFEST
  if not path.is_file():
    return None
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    if content.pop('version') != _VERSION:
      raise ValueError('of another version')
    manifest = _Manifest(**content)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      f'{path} is no list of token ids ({error}); delete {folder}, it is made'
      ' anew.'
    ) from error
  for name, size in (
    (_TOKENS, 4 * manifest.num_tokens),
    (_OFFSETS, 8 * (manifest.rows + 1)),
  ):
    file = folder / name
    if not file.is_file() or file.stat().st_size < size:
      raise ValueError(
        f'{file} is shorter than {MANIFEST} says; delete {folder}, it is made'
        ' anew.'
      )
  return manifest


def _check(
  folder: pathlib.Path, manifest: _Manifest, vocabulary: TextRows
) -> None:
  """Raises if a cache does not match a vocabulary."""
  head = min(manifest.vocabulary_rows, len(vocabulary))
  if manifest.normalizer != vocabulary.normalizer:
    problem = (
      f'of texts of the normaliser {manifest.normalizer!r}; these are of'
      f' {vocabulary.normalizer!r}'
    )
  elif fingerprint.of_rows(vocabulary, 0, head) != manifest.vocabulary:
    problem = 'of another vocabulary'
  elif manifest.rows > len(vocabulary):
    problem = (
      f'of {manifest.rows} rows, the vocabulary has {len(vocabulary)}: it is an'
      ' older one'
    )
  elif manifest.texts and manifest.texts != fingerprint.of_rows(
    vocabulary, 0, manifest.rows
  ):
    problem = 'of another vocabulary, which begins alike'
  else:
    return
  raise ValueError(
    f'{folder} holds token ids {problem}; give another folder or vocabulary.'
  )


def _mapped(path: pathlib.Path, dtype: Any, size: int) -> np.ndarray:
  if not size:  # An empty file cannot be mapped.
    return np.zeros(0, dtype)
  return np.memmap(path, np.dtype(dtype).newbyteorder('<'), 'r', shape=size)
