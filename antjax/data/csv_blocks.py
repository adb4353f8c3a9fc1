# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cuts a text file into blocks of whole records, in bounded memory.

RFC 4180: fields separated by a delimiter, quotes around a field that holds
delimiters, quotes (doubled) or line ends; line ends are LF or CRLF. A line end
outside of quotes ends a record. A quote that opens where no field begins, or
closes where none ends, is a fault of its record alone: reading resumes at the
next line, so that a stray quote costs a row and not the rest of the file.

All quotes and line ends of a block are found at once, by NumPy; Python looks at
faults only.
"""

import bz2
from collections.abc import Iterator
import dataclasses
import gzip
import lzma
import os
import pathlib
from typing import Any, IO, Literal
import zlib

import numpy as np
import pyarrow as pa

PACKED = ('.gz', '.bz2', '.xz', '.zst')
_LF, _CR = b'\n\r'
_BOM = b'\xef\xbb\xbf'
# OSError of bz2 and pyarrow, too.
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)
OPENS = 'a quote opens inside of a field'
CLOSES = 'text follows a closing quote'
UNCLOSED = 'a quote is never closed'
LONE_CR = 'a line end CR without LF'


@dataclasses.dataclass(frozen=True)
class Dialect:
  """How records are written."""

  delimiter: str = ','  # Text between two fields, one or more ASCII characters.
  quote: str = '"'  # Quote character, or '' where quotes are ordinary text.
  # Encoding of the file; blocks are UTF-8.
  encoding: Literal['utf-8', 'latin-1'] = 'utf-8'

  def __post_init__(self) -> None:
    for text, least in ((self.delimiter, 1), (self.quote, 0)):
      if len(text) < least or not text.isascii() or {*text} & {*'\r\n\0'}:
        raise ValueError(
          f'delimiter={self.delimiter!r}, quote={self.quote!r}: needed: ASCII'
          ' characters that end no line.'
        )
    if len(self.quote) > 1 or self.quote == self.delimiter:
      raise ValueError(
        f'quote={self.quote!r}: needed: one character that is not the'
        " delimiter, or ''."
      )


@dataclasses.dataclass(frozen=True)
class Fault:
  """A span of bytes that is no record: start, stop, and what is wrong."""

  start: int
  stop: int
  message: str


@dataclasses.dataclass(frozen=True, eq=False)
class TextBlock:
  """Records that follow each other in a file."""

  data: np.ndarray  # Bytes uint8 [size], each record with its line end.
  # First byte of each good record, int64 [records]; blank lines are none.
  starts: np.ndarray
  stops: np.ndarray  # One behind the last byte of each, int64 [records].
  faults: list[Fault]  # Text that is not a record, in order.
  first_record: int  # Number of records and faults earlier in the file.
  first_line: int  # Line of the file in which the block begins, from 1.

  @property
  def num_records(self) -> int:
    """How many records there are, faults included."""
    return len(self.starts) + len(self.faults)

  def records(self) -> np.ndarray:
    """The bytes of the good records alone, one after another."""
    if int(np.sum(self.stops - self.starts)) == len(self.data):
      return self.data
    # Records that follow each other are copied as one piece.
    is_cut = self.starts[1:] != self.stops[:-1]
    first = self.starts[np.append(True, is_cut)[: len(self.starts)]]
    last = self.stops[np.append(is_cut, True)[: len(self.stops)]]
    pieces = [self.data[a:b] for a, b in zip(first, last)]
    return np.concatenate([self.data[:0], *pieces])

  def numbers(self) -> np.ndarray:
    """Number of each good record in the file, from 0, int64 [records]."""
    before = np.searchsorted([f.start for f in self.faults], self.starts)
    return self.first_record + np.arange(len(self.starts)) + before

  def line(self, start: int) -> int:
    """Line of the file that holds a byte of the block."""
    return self.first_line + int(np.count_nonzero(self.data[:start] == _LF))

  def text(self, start: int, stop: int) -> str:
    """The bytes of a span as text, without its line end."""
    found = self.data[start:stop].tobytes()
    return found.decode('utf-8', 'replace').rstrip('\r\n')


class _Marks:
  """Where quotes, LFs and CRs without LF are in some bytes, int64."""

  def __init__(self, held: bytes, dialect: Dialect):
    """Looks at each byte twice."""
    data = np.frombuffer(held, np.uint8)
    mask = data == _LF
    for quote in dialect.quote.encode():
      mask |= data == quote
    marks = np.flatnonzero(mask)
    is_quote = data[marks] != _LF
    self.quotes, self.line_ends = marks[is_quote], marks[~is_quote]
    last = len(data) - 1  # What follows it is not known yet: never a fault.
    crs = np.zeros(0, np.int64)
    if held.find(b'\r') >= 0:
      crs = np.flatnonzero(data == _CR)
    self._crs = crs[(data[np.minimum(crs + 1, last)] != _LF) & (crs < last)]
    # How many quotes come before each line end.
    self._before = np.cumsum(is_quote)[~is_quote]
    self._data, self._dialect = data, dialect
    self._found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

  def of(self, first_quote: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is so if `first_quote` opens a field, up to the first fault.

    Returns:
      Line ends and lone CRs that no quotes enclose, indices of quotes at fault.
    """
    parity = first_quote % 2
    if parity not in self._found:  # Quotes of an odd index open seldom.
      before = np.searchsorted(self.quotes, self._crs)
      self._found[parity] = (
        self.line_ends[(self._before - parity) & 1 == 0],
        self._crs[(before - parity) & 1 == 0],
        self._faults(parity),
      )
    return self._found[parity]

  def _faults(self, parity: int) -> np.ndarray:
    data, quotes = self._data, self.quotes
    opening, closing = quotes[parity::2], quotes[1 - parity :: 2]
    is_open = self._is_border(opening, -1) | (opening == 0)
    is_closed = self._is_border(closing, 1) | (closing == len(data) - 1)
    if len(self._crs):
      is_closed &= ~np.isin(closing + 1, self._crs)
    return np.sort(
      np.concatenate(
        [
          2 * np.flatnonzero(~is_open) + parity,
          2 * np.flatnonzero(~is_closed) + 1 - parity,
        ]
      )
    )

  def _is_border(self, quotes: np.ndarray, step: int) -> np.ndarray:
    """Whether a field can begin at quotes (step -1), or end there (step 1)."""
    places = np.clip(quotes + step, 0, len(self._data) - 1)
    beside = self._data[places]
    found = beside == _LF
    # A quote beside another one is half of a doubled quote.
    for byte in self._dialect.quote.encode() + b'\r' * (step > 0):
      found |= beside == byte
    delimiter = self._dialect.delimiter.encode()[::step]
    is_delimiter = beside == delimiter[0]
    for byte in delimiter[1:]:
      places = np.clip(places + step, 0, len(self._data) - 1)
      is_delimiter &= self._data[places] == byte
    return found | is_delimiter

  def field_start(self, quote: int, first_quote: int) -> int:
    """Index of the quote that opened the field in which `quote` is."""
    while (
      quote - 2 >= first_quote
      and self.quotes[quote - 1] == self.quotes[quote] - 1
    ):
      quote -= 2
    return quote


def _cut(
  held: bytes, dialect: Dialect, at_end: bool, max_record_bytes: int
) -> tuple[np.ndarray, list[Fault], int, int]:
  """Finds the ends of records, the faults, and how many bytes both take.

  `held` begins with a record; `at_end` says whether the file ends with it.

  Returns:
    Positions of the LFs that end good records, faults, bytes, lines.
  """
  marks = _Marks(held, dialect)
  kept, faults = [], []
  position = first_quote = 0
  while True:
    ends, crs, wrong = marks.of(first_quote)
    found = _first(wrong, first_quote)
    stop = len(held) if found is None else int(marks.quotes[found])
    limit = stop
    line_end: int | None = None
    cr = _first(crs, position)
    if cr is not None:
      line_end = _first(ends, cr)
      # Where the record with a CR has another fault, that one counts.
      if line_end is None or line_end >= stop:
        line_end = None
      else:
        limit = cr
    a, b = np.searchsorted(ends, [position, limit])
    kept.append(ends[a:b])
    start = int(ends[b - 1]) + 1 if a < b else position
    if line_end is not None:
      message = LONE_CR
    elif found is None:
      is_open = (len(marks.quotes) - first_quote) % 2 == 1
      if not (is_open and (at_end or len(held) - start > max_record_bytes)):
        break
      opening, message = len(marks.quotes) - 1, UNCLOSED
    elif (found - first_quote) % 2:
      opening, message = found - 1, CLOSES
    else:
      opening, message = found, OPENS
    if line_end is None:
      # The quote that opened the field may be the one too many: what it took
      # for text is read again.
      opening = marks.field_start(opening, first_quote)
      line_end = _first(marks.line_ends, int(marks.quotes[opening]))
      if line_end is None:
        break  # With the bytes that come next.
    position = line_end + 1
    faults.append(Fault(start, position, message))
    first_quote = int(np.searchsorted(marks.quotes, position))
    start = position
  num_lines = int(np.searchsorted(marks.line_ends, start))
  return np.concatenate(kept), faults, start, num_lines


def _first(values: np.ndarray, least: int) -> int | None:
  """The first of rising values that is not below `least`."""
  place = int(np.searchsorted(values, least))
  return int(values[place]) if place < len(values) else None


def _block(
  data: np.ndarray,
  ends: np.ndarray,
  faults: list[Fault],
  first_record: int,
  first_line: int,
) -> TextBlock:
  stops = ends + 1
  starts = np.concatenate([[0], stops[:-1]])[: len(stops)]
  if faults:  # A record begins behind the last fault before it.
    borders = np.array([0, *(f.stop for f in faults)])
    last = np.searchsorted(borders, stops) - 1
    starts = np.maximum(starts, borders[last])
  size = stops - starts
  is_blank = (size == 1) | ((size == 2) & (data[starts] == _CR))
  if is_blank.any():
    starts, stops = starts[~is_blank], stops[~is_blank]
  return TextBlock(data, starts, stops, faults, first_record, first_line)


def read_blocks(
  path: str | os.PathLike[str],
  dialect: Dialect = Dialect(),
  *,
  block_bytes: int = 1 << 24,
  max_record_bytes: int = 1 << 20,
) -> Iterator[TextBlock]:
  """Yields the blocks of a file, the header among the records of the first.

  The file may begin with a byte order mark, and be packed, see `PACKED`. A
  quote that is open for more than `max_record_bytes` is a fault.

  Raises:
    FileNotFoundError: No such file.
    ValueError: A line is longer than `max_record_bytes` and a block, or a
      packed file is damaged.
    RuntimeError: The file changed meanwhile.
  """
  first_record, first_line = 0, 1
  rest, at_end = b'', False
  chunks = _chunks(pathlib.Path(path), dialect.encoding, block_bytes)
  while not at_end:
    chunk = next(chunks, b'')
    at_end = not chunk
    held = rest + chunk
    if at_end and held and held[-1] != _LF:
      held += b'\n'
    if not held:
      return
    ends, faults, used, num_lines = _cut(
      held, dialect, at_end, max_record_bytes
    )
    rest = held[used:]
    if len(rest) > max_record_bytes + block_bytes:
      raise ValueError(
        f'read_blocks: {path}: the record in line {first_line + num_lines} is'
        f' longer than {max_record_bytes + block_bytes} bytes; needed: line'
        ' ends LF or CRLF.'
      )
    if used:
      data = np.frombuffer(held, np.uint8)[:used]
      block = _block(data, ends, faults, first_record, first_line)
      yield block
      first_record += block.num_records
      first_line += num_lines


def is_packed(path: pathlib.Path) -> bool:
  """Whether a file is unpacked while it is read, by its suffix."""
  return path.suffix.lower() in PACKED


def _chunks(
  path: pathlib.Path, encoding: str, chunk_bytes: int
) -> Iterator[bytes]:
  """Yields the bytes of a file as UTF-8, without a byte order mark."""
  if not path.is_file():
    raise FileNotFoundError(f'no such file: {path}')
  before = path.stat()
  with opened(path) as file:

    def read(size: int) -> bytes:
      try:
        chunk = file.read(size)
      except DAMAGED as e:
        raise ValueError(f'{path} is damaged ({e}); get the file again.') from e
      latin = encoding == 'latin-1'
      return chunk.decode('latin-1').encode() if latin else chunk

    chunk = read(max(chunk_bytes, len(_BOM)))
    chunk = chunk.removeprefix(_BOM) or read(chunk_bytes)
    while chunk:
      yield chunk
      chunk = read(chunk_bytes)
  after = path.stat()
  if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
    raise RuntimeError(f'{path} changed while it was read; try again.')


def opened(path: pathlib.Path) -> IO[bytes]:
  """Opens a file, unpacked by its suffix."""
  suffix = path.suffix.lower()
  if suffix == '.zst':
    return pa.CompressedInputStream(pa.OSFile(str(path)), 'zstd')
  openers: dict[str, Any] = {'.gz': gzip, '.bz2': bz2, '.xz': lzma}
  if suffix in openers:
    return openers[suffix].open(path, 'rb')
  return open(path, 'rb', buffering=0)
