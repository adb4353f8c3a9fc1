# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images of items in a tar archive become vectors, in the items' order.

The archive is read once, from its start to its end, packed or not; a member's
name without folder and suffix is the item, as in AntM2C_image/666203.png.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import csv
import dataclasses
import io
import itertools
import os
import pathlib
import tarfile
import threading
from typing import Any
import zlib

import numpy as np
from PIL import Image

from antjax.data import thread_map

# uint8 [B, H, W, 3] -> float [B, X].
Encoder = Callable[[np.ndarray], np.ndarray]
VECTORS, MASK, DAMAGED = 'vectors.npy', 'has_image.npy', 'damaged.csv'
_GRID = 8
_TELL_EVERY = 10_000
# Bounds of what an archive may make of little: a packed file of 4.5 MiB may
# hold an image of gigabytes, and so can an image of that size.
_MAX_BYTES = 32 << 20  # Of an image.
_MAX_PIXELS = 40_000_000  # Of an image; each takes up to 7 bytes for a while.
_MAX_HEADER_BYTES = 1 << 20  # Of a member's name and attributes, and all's.
_MAX_WAITING_BYTES = 128 << 20  # Of all images that wait for their decoding.
_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')


@dataclasses.dataclass
class ImageCounts:
  """What the archive holds."""

  images: int = 0  # Images that became vectors.
  unknown: int = 0  # Images of items that the data lack; they are not decoded.
  # Images of items that had one already; the first one counts.
  repeated: int = 0
  damaged: int = 0  # Images that cannot be decoded.
  other: int = 0  # Members that are no image, by their name.


def mean_colors(images: np.ndarray) -> np.ndarray:
  """Mean colors on an 8 x 8 grid: uint8 [B, H, W, 3] -> float32 [B, 192].

  From -1 to 1.

  Raises:
    ValueError: 8 does not divide H or W.
  """
  num, height, width, _ = images.shape
  if height % _GRID or width % _GRID:
    raise ValueError(
      f'mean_colors: images of {height} x {width} pixels; needed: multiples of'
      f' {_GRID} (image_size).'
    )
  cells = images.reshape(num, _GRID, height // _GRID, _GRID, width // _GRID, 3)
  means = cells.mean((2, 4), dtype=np.float32)
  return means.reshape(num, -1) / 127.5 - 1


def encode(
  archive: str | os.PathLike[str],
  items: Mapping[str, int],
  num_items: int,
  folder: pathlib.Path,
  encoder: Encoder,
  *,
  image_size: int = 64,
  batch_size: int = 256,
  threads: int = 0,
  progress: Callable[[str], None] = lambda text: None,
) -> tuple[ImageCounts, int]:
  """Writes `VECTORS`, `MASK` and, if there are any, `DAMAGED`.

  Args:
    archive: The tar file.
    items: Item -> its row.
    num_items: Rows.
    folder: Existing folder for the files: float16 [num_items, X], 0 for items
      without an image; bool [num_items]; member and reason.
    encoder: Function called with `batch_size` images at most, the last time
      with fewer.
    image_size: H and W of the images it gets; others are resized.
    batch_size: Images at once.
    threads: Number of decoding threads; 0 means one per core.
    progress: Function called with a text from time to time.

  Returns:
    Counts, and X.

  Raises:
    FileNotFoundError: No such archive.
    ValueError: It is none or ends early, holds no image of any item, or the
      encoder gives something else.
  """
  counts = ImageCounts()
  vectors: np.memmap | None = None
  has_image = np.zeros(num_items, bool)
  damaged: list[tuple[str, str]] = []

  room = _Room()

  def decode(member: tuple[str, int, bytes | str]) -> tuple[str, int, Any]:
    name, row, data = member
    if isinstance(data, str):
      return name, row, data
    try:
      return name, row, _decoded(data, image_size)
    finally:
      room.give(len(data))

  members = _wanted(archive, items, has_image, counts, room)
  threads = threads or os.cpu_count() or 1
  # A batch is decoded beside the encoder's work on the last one.
  decoded = thread_map.in_order(decode, members, threads, ahead=batch_size)
  while batch := [*itertools.islice(decoded, batch_size)]:
    for name, row, why in batch:
      if isinstance(why, str):
        has_image[row] = False
        damaged.append((name, why))
    good = [x for x in batch if not isinstance(x[2], str)]
    if not good:
      continue
    names, rows, images = zip(*good)
    found = _encoded(encoder, np.stack(images), names)
    if vectors is None:
      shape = (num_items, found.shape[1])
      vectors = np.lib.format.open_memmap(
        folder / VECTORS, 'w+', np.float16, shape
      )
    if found.shape[1] != vectors.shape[1]:
      raise ValueError(
        f'encoder gave vectors of {found.shape[1]} numbers, and of'
        f' {vectors.shape[1]} before.'
      )
    vectors[[*rows]] = found
    before, counts.images = counts.images, counts.images + len(rows)
    if before // _TELL_EVERY < counts.images // _TELL_EVERY:
      progress(f'{counts.images:,} images')
  counts.damaged = len(damaged)
  if vectors is None:
    raise ValueError(
      f'{archive} holds no image of any of {len(items)} items ({counts}); their'
      ' names must be ITEM.png, in any folder.'
    )
  vectors.flush()
  np.save(folder / MASK, has_image)
  if damaged:
    with open(folder / DAMAGED, 'w', newline='', encoding='utf-8') as file:
      writer = csv.writer(file, lineterminator='\n')
      writer.writerows([('member', 'reason'), *damaged])
  return counts, vectors.shape[1]


class _Archive(tarfile.TarFile):
  """An archive that is read once."""

  # Bytes of names and attributes of the next member, and of all members.
  header_bytes = 0


class _Member(tarfile.TarInfo):
  """A member whose name and attributes are short, and which has no holes."""

  def _proc_member(self, archive: _Archive) -> tarfile.TarInfo:
    process = super()._proc_member  # type: ignore[misc]
    if self.type not in (
      tarfile.GNUTYPE_LONGNAME,
      tarfile.GNUTYPE_LONGLINK,
      tarfile.XHDTYPE,
      tarfile.XGLTYPE,
      tarfile.SOLARIS_XHDTYPE,
    ):
      return process(archive)
    archive.header_bytes += self.size
    if archive.header_bytes > _MAX_HEADER_BYTES:
      raise tarfile.ReadError(
        f'names or attributes of {archive.header_bytes:,} bytes; at most'
        f' {_MAX_HEADER_BYTES:,} are read'
      )
    member = process(archive)  # What follows, which may be such a one again.
    if self.type != tarfile.XGLTYPE:
      archive.header_bytes -= self.size
    return member

  def _no_holes(self, *of: object) -> None:
    del of
    raise tarfile.ReadError('a sparse file; pack it again without holes')

  # The places of the holes may take any memory.
  _proc_sparse = _proc_gnusparse_10 = _no_holes


class _Room:
  """Bytes that may wait: whoever has more waits for others to be done."""

  def __init__(self) -> None:
    self._used = 0
    self._changed = threading.Condition()

  def take(self, size: int) -> None:
    with self._changed:
      self._changed.wait_for(lambda: self._used + size <= _MAX_WAITING_BYTES)
      self._used += size

  def give(self, size: int) -> None:
    with self._changed:
      self._used -= size
      self._changed.notify_all()


def _encoded(
  encoder: Encoder, images: np.ndarray, names: Sequence[str]
) -> np.ndarray:
  """Calls the encoder and checks what it gives, float16 [B, X]."""
  found = np.asarray(encoder(images))
  if found.ndim != 2 or len(found) != len(images):
    raise ValueError(
      f'encoder gave {list(found.shape)} for images {list(images.shape)};'
      f' needed: [{len(images)}, X].'
    )
  with np.errstate(over='ignore'):
    half = found.astype(np.float16)
  if not np.isfinite(half).all():
    bad = names[int(np.argmin(np.isfinite(half).all(1)))]
    raise ValueError(
      f'encoder gave a vector for {bad} that is not finite in float16.'
    )
  return half


def _wanted(
  archive: str | os.PathLike[str],
  items: Mapping[str, int],
  has_image: np.ndarray,
  counts: ImageCounts,
  room: '_Room',
) -> Iterator[tuple[str, int, bytes | str]]:
  """Yields (name, row, bytes) of images of the items, the first of each.

  Instead of the bytes of one that is too large: why it is not read.
  """
  path = pathlib.Path(archive)
  if not path.is_file():
    raise FileNotFoundError(f'images={path} is no file.')
  done = ''
  try:
    with _Archive.open(path, 'r|*', tarinfo=_Member) as tar:
      for member in tar:
        # Else all of them are kept.
        tar.members.clear()  # type: ignore[attr-defined]
        name = pathlib.PurePosixPath(member.name)
        if not member.isfile():
          continue
        if name.suffix.lower() not in _SUFFIXES:
          counts.other += 1
          continue
        row = items.get(name.stem)
        if row is None:
          counts.unknown += 1
          continue
        if has_image[row]:
          counts.repeated += 1
          continue
        has_image[row] = True
        if member.size > _MAX_BYTES:
          why = f'{member.size:,} bytes; at most {_MAX_BYTES:,} are read'
          yield member.name, row, why
          continue
        room.take(member.size)
        file = tar.extractfile(member)
        assert file is not None  # It is a file.
        yield member.name, row, file.read()
        done = member.name
  except (tarfile.TarError, EOFError, RecursionError, zlib.error) as e:
    raise ValueError(
      f'images={path} is no whole tar archive ({e or type(e).__name__}), behind'
      f' {done or "its start"}; get it again.'
    ) from e


def _decoded(data: bytes, image_size: int) -> np.ndarray | str:
  """An image, uint8 [image_size, image_size, 3], or why there is none."""
  try:
    with Image.open(io.BytesIO(data)) as image:
      if image.width * image.height > _MAX_PIXELS:
        return (
          f'{image.width} x {image.height} pixels; at most {_MAX_PIXELS:,} are'
          ' decoded'
        )
      rgb = image.convert('RGB')
      if rgb.size != (image_size, image_size):
        rgb = rgb.resize((image_size, image_size), Image.Resampling.BOX)
      return np.asarray(rgb)
  # Pillow's SyntaxError is that of a broken PNG.
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    return f'{type(e).__name__}: {e}'
