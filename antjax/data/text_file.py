# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bytes of text files, packed or not, and how their records are written."""

from collections.abc import Iterator
import dataclasses
import gzip
import lzma
import os
import pathlib
from typing import IO, Literal
import zlib

_BOM = b'\xef\xbb\xbf'


@dataclasses.dataclass(frozen=True)
class Dialect:
  """How records are written.

  Attributes:
    delimiter: Text between two fields, one or more ASCII characters.
    quote: Quote character, or '' where quotes are ordinary text.
    encoding: Encoding of the file; blocks are UTF-8.
  """

  delimiter: str = ','
  quote: str = '"'
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


CSV = Dialect()


def is_packed(path: pathlib.Path) -> bool:
  """Whether a file is unpacked while it is read, by its suffix."""
  return path.suffix.lower() in ('.gz', '.xz')


def chunks(
  path: str | os.PathLike[str], encoding: str, chunk_bytes: int
) -> Iterator[bytes]:
  """Yields the bytes of a file as UTF-8, without a byte order mark.

  Args:
    path: File, packed as .gz or .xz or not at all.
    encoding: 'utf-8', which is not checked, or 'latin-1'.
    chunk_bytes: Bytes to read at a time.

  Raises:
    FileNotFoundError: No such file.
    ValueError: A packed file is damaged.
    RuntimeError: The file changed meanwhile.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'no such file: {path}')
  before = path.stat()
  with _opened(path) as file:
    chunk = _read(path, file, max(chunk_bytes, len(_BOM)), encoding)
    chunk = chunk.removeprefix(_BOM) or _read(path, file, chunk_bytes, encoding)
    while chunk:
      yield chunk
      chunk = _read(path, file, chunk_bytes, encoding)
  after = path.stat()
  if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
    raise RuntimeError(f'{path} changed while it was read; try again.')


def _opened(path: pathlib.Path) -> IO[bytes]:
  if path.suffix.lower() == '.gz':
    return gzip.open(path)  # type: ignore[return-value]
  if path.suffix.lower() == '.xz':
    return lzma.open(path)
  return open(path, 'rb', buffering=0)


def _read(
  path: pathlib.Path, file: IO[bytes], size: int, encoding: str
) -> bytes:
  try:
    chunk = file.read(size)
  except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as e:
    raise ValueError(f'{path} is damaged ({e}); get the file again.') from e
  return chunk.decode('latin-1').encode() if encoding == 'latin-1' else chunk
