# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Text: documents from files, and tokens packed into sequences.

`DocumentReader` reads what there is and names what it cannot read.
`PackedSource` lays documents end to end and cuts them into sequences of one
length, as a `RecordSource`: sequence i is always the same, so a ledger's
position is the position in the text, and no document is held back anywhere.
Neither jax nor grain is imported here.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
import re
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data.record_schema import Field
from antjax.shards.record_source import check_block, Record, RecordSource

# A document as prepared: its tokens, and how many they are.
SCHEMA: Mapping[str, Field] = {
  'tokens': Field('int32', 1),
  'num_tokens': Field('int32'),
}
LENGTHS_SCHEMA: Mapping[str, Field] = {'num_tokens': SCHEMA['num_tokens']}
_SUFFIXES = ('.txt', '.parquet')
_BLANK_LINES = re.compile(r'\n[ \t]*\n\s*')
_READ_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Rejected:
  """Something that was not read."""

  path: str  # File.
  record: int | None  # Row or paragraph in it, from 0; None for the whole file.
  reason: str  # Reason, in a few words.


class DocumentReader:
  """Documents of text and Parquet files, in a fixed order.

  `rejected` is the input that could not be read so far.
  """

  def __init__(
    self,
    source: str | os.PathLike[str],
    *,
    documents: Literal['file', 'paragraph'] = 'file',
    column: str = 'text',
  ):
    """Lists the files: *.txt in UTF-8 and *.parquet, at any depth of a folder.

    A text file is one document or, by `documents`, each of its paragraphs,
    which blank lines part, is one. `column` of a Parquet file has a document a
    row.

    Raises:
      FileNotFoundError: No such source, or no file of these kinds in it.
    """
    source = pathlib.Path(source)
    if source.is_dir():
      paths = [p for p in source.rglob('*') if p.suffix in _SUFFIXES]
      self.paths = sorted(p for p in paths if p.is_file())
    else:
      self.paths = [source] if source.is_file() else []
    if not self.paths or self.paths[0].suffix not in _SUFFIXES:
      raise FileNotFoundError(
        f'source={source}: there is no *.txt and no *.parquet; give a file or a'
        ' folder that holds some.'
      )
    self._documents, self._column = documents, column
    self.rejected: list[Rejected] = []
    self.num_documents = 0

  def __iter__(self) -> Iterator[str]:
    """Reads all files again; texts are stripped of outer white space."""
    self.rejected, self.num_documents = [], 0
    for path in self.paths:
      is_table = path.suffix == '.parquet'
      for number, text in self._rows(path) if is_table else self._texts(path):
        text = text.replace('\r\n', '\n').strip()
        if not text:
          self._reject(path, number, 'empty')
          continue
        self.num_documents += 1
        yield text

  def _reject(self, path: pathlib.Path, record: int | None, why: str) -> None:
    self.rejected.append(Rejected(str(path), record, ' '.join(why.split())))

  def _texts(self, path: pathlib.Path) -> Iterator[tuple[int | None, str]]:
    try:
      data = path.read_bytes()
      text = data.decode('utf-8-sig')
    except OSError as error:
      self._reject(path, None, f'cannot be read: {error.strerror}')
      return
    except UnicodeDecodeError as error:
      self._reject(path, None, f'not UTF-8 at byte {error.start}')
      return
    if '\0' in text:
      self._reject(path, None, 'holds zero bytes: it is no text')
      return
    if self._documents == 'file':
      yield None, text
      return
    parts = _BLANK_LINES.split(text.replace('\r\n', '\n').strip())
    yield from enumerate(parts)

  def _rows(self, path: pathlib.Path) -> Iterator[tuple[int, str]]:
    try:
      file = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
      self._reject(path, None, f'no whole Parquet file: {error}')
      return
    with file:
      names = file.schema_arrow.names
      if self._column not in names:
        self._reject(
          path, None, f'no column {self._column!r}; it has {", ".join(names)}'
        )
        return
      kind = file.schema_arrow.field(self._column).type
      if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        self._reject(path, None, f'column {self._column!r} is {kind}, no text')
        return
      row = 0
      try:
        for batch in file.iter_batches(_READ_ROWS, columns=[self._column]):
          for text in batch.column(0).to_pylist():
            if text is None:
              self._reject(path, row, 'no value')
            else:
              yield row, text
            row += 1
      except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        self._reject(path, row, f'damaged from this row on: {error}')


class PackedSource:
  """Sequences of one length, cut from documents laid end to end.

  A document that does not end with its sequence continues in the next one,
  where it counts as a document of its own: its first part is not seen there.
  Every token is in exactly one sequence; only the last one is padded.

  A record has, each int32 [seq_len]: 'tokens'; 'segment_ids', 1, 2, ... by
  document, 0 for padding; 'positions' in the (part of the) document.
  """

  def __init__(
    self,
    documents: RecordSource,
    seq_len: int,
    *,
    lengths: RecordSource | None = None,
  ):
    """Reads the documents' lengths.

    `documents` are records of `SCHEMA`. `lengths` are the same by
    `LENGTHS_SCHEMA`, to read their lengths without their tokens.

    Raises:
      ValueError: seq_len is below 2, or there are no tokens.
    """
    if seq_len < 2:
      raise ValueError(f'seq_len={seq_len} must be at least 2.')
    self._documents, self._seq_len = documents, seq_len
    counted = documents if lengths is None else lengths
    sizes = [0]
    for start in range(0, len(counted), _READ_ROWS):
      stop = min(start + _READ_ROWS, len(counted))
      sizes += [int(r['num_tokens']) for r in counted.read(start, stop)]
    self._ends = np.cumsum(sizes, dtype=np.int64)
    if not self.num_tokens:
      raise ValueError('PackedSource: the documents hold no tokens at all.')

  @property
  def num_tokens(self) -> int:
    """Tokens of all documents."""
    return int(self._ends[-1])

  def __len__(self) -> int:
    return -(-self.num_tokens // self._seq_len)

  def read(self, start: int, stop: int) -> list[Record]:
    check_block('PackedSource', start, stop, len(self))
    if start == stop:
      return []
    size = (stop - start) * self._seq_len
    first_token = start * self._seq_len
    last_token = min(first_token + size, self.num_tokens)
    first = int(np.searchsorted(self._ends, first_token, 'right')) - 1
    last = int(np.searchsorted(self._ends, last_token, 'left'))
    tokens = np.zeros(size, np.int32)
    owner = np.full(size, -1, np.int64)  # Document of each place; -1: none.
    documents = self._documents.read(first, last)
    for number, document in enumerate(documents, start=first):
      a = max(int(self._ends[number]), first_token)
      b = min(int(self._ends[number + 1]), last_token)
      begin = a - int(self._ends[number])
      part = document['tokens'][begin : begin + b - a]
      tokens[a - first_token : b - first_token] = part
      owner[a - first_token : b - first_token] = number
    return _sequences(tokens, owner, self._seq_len)


def _sequences(
  tokens: np.ndarray, owner: np.ndarray, seq_len: int
) -> list[Record]:
  """Cuts flat arrays; numbers the documents of each sequence from 1."""
  tokens, owner = tokens.reshape(-1, seq_len), owner.reshape(-1, seq_len)
  is_first = np.ones(owner.shape, bool)
  is_first[:, 1:] = owner[:, 1:] != owner[:, :-1]
  segments = np.where(owner < 0, 0, np.cumsum(is_first, axis=1))
  place = np.arange(seq_len)[None]
  starts = np.maximum.accumulate(np.where(is_first, place, 0), axis=1)
  positions = place - starts
  return [
    {
      'tokens': tokens[i],
      'segment_ids': segments[i].astype(np.int32),
      'positions': positions[i].astype(np.int32),
    }
    for i in range(len(tokens))
  ]


def pad_sequences(sequences: Sequence[Record], size: int) -> list[Record]:
  """Appends empty sequences, which have no targets, up to `size` of them."""
  if not sequences or len(sequences) >= size:
    return list(sequences)
  empty = {name: np.zeros_like(x) for name, x in sequences[0].items()}
  return [*sequences, *[empty] * (size - len(sequences))]
