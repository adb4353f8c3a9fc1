# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ordered deltas in a folder: one file each, numbered, chained by digests.

A file `0000000012.delta` is a line of JSON and an .npz without pickles. The
line holds its number, the digest of the state that it follows, and size and
SHA-256 of the rest. The digest of a state is that of the line which made it, or
of the base's manifest: equal digests mean equal deltas on an equal base. What
arrays it has is said in `live.py`.
"""

from collections.abc import Mapping
import hashlib
import io
import json
import math
import os
import pathlib
import secrets
import time
from typing import Any, NamedTuple
import zipfile

from absl import logging
from etils import epath
import numpy as np

from antjax import paths

FORMAT = 'antjax.serving.feed'
FORMAT_VERSION = 1
SUFFIX = '.delta'
_MAX_LINE = 1 << 20
_MAX_BYTES = 4 << 30


class Delta(NamedTuple):
  """A delta that was read whole.

  Attributes:
    sequence: Its number, from 1.
    digest: Digest of the state after it.
    info: What its writer says: JSON.
    arrays: Its arrays by name.
  """

  sequence: int
  digest: str
  info: Mapping[str, Any]
  arrays: Mapping[str, np.ndarray]


class RefusedDelta(Exception):
  """A delta that cannot follow.

  Attributes:
    kind: 'gap', 'torn', 'base' or 'content'.
  """

  def __init__(self, kind: str, text: str):
    super().__init__(text)
    self.kind = kind


def name_of(sequence: int) -> str:
  """Name of a delta's file."""
  return f'{sequence:010d}{SUFFIX}'


def write(
  folder: str | os.PathLike[str],
  sequence: int,
  base: str,
  arrays: Mapping[str, np.ndarray],
  info: Mapping[str, Any] | None = None,
) -> Delta:
  """Writes a delta; the file appears whole. The same arrays give its bytes.

  Args:
    folder: Folder of the deltas.
    sequence: Number of this one.
    base: Digest of the state that it follows.
    arrays: Its arrays.
    info: JSON-able, for whoever reads it.

  Raises:
    ValueError: Another delta has the number.
  """
  payload = io.BytesIO()
  np.savez(payload, **arrays)  # type: ignore[arg-type]
  content = payload.getbuffer()
  head: dict[str, Any] = {
    'format': FORMAT,
    'format_version': FORMAT_VERSION,
    'sequence': sequence,
    'base': base,
    'bytes': len(content),
    'sha256': hashlib.sha256(content).hexdigest(),
    'info': dict(info or {}),
  }
  line = json.dumps(head, sort_keys=True).encode() + b'\n'
  paths.check(folder, 'deltas')
  _write_once(os.fspath(folder), name_of(sequence), line, content)
  digest = hashlib.sha256(line).hexdigest()
  return Delta(sequence, digest, head['info'], dict(arrays))


def _write_once(folder: str, name: str, *parts: bytes | memoryview) -> None:
  """Writes a file whole, or leaves an equal one.

  Raises:
    ValueError: Another file has the name: servers may have taken it.
  """
  place = epath.Path(folder) / name
  is_there = paths.is_url(folder) and place.exists()
  if paths.is_url(folder) and not is_there:  # Objects appear whole.
    place.write_bytes(b''.join(parts))
  elif not is_there:
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(folder, f'.{name}.{secrets.token_hex(4)}')
    try:
      with unfinished.open('wb') as file:
        file.writelines(parts)
      paths.flush(unfinished)
      os.link(unfinished, place)  # One of two writers at once has the name.
      paths.flush(unfinished.parent)
    except FileExistsError:
      is_there = True
    finally:
      unfinished.unlink(missing_ok=True)
  if is_there and place.read_bytes() != b''.join(parts):
    raise ValueError(
      f'deltas={folder}: {name} is there with another content: a second'
      ' trainer writes there, or the deltas are of another base. Stop one, or'
      ' write a full export and deltas after it into another folder.'
    )


def parse(data: bytes, sequence: int, base: str) -> Delta:
  """Reads a delta's bytes.

  Raises:
    RefusedDelta: It is torn, or does not follow the state.
  """
  name = name_of(sequence)
  line, end, content = data[:_MAX_LINE].partition(b'\n')
  content = data[len(line) + 1 :]
  try:
    head = json.loads(line) if end else None
    if not isinstance(head, dict):
      raise ValueError('its first line is no JSON')
    version = head.get('format'), head.get('format_version')
    if version != (FORMAT, FORMAT_VERSION):
      raise ValueError(f'its format is {version}')
    if len(content) != head['bytes']:
      raise ValueError(f'{len(content)} bytes of {head["bytes"]} are there')
    if hashlib.sha256(content).hexdigest() != head['sha256']:
      raise ValueError('its SHA-256 is another')
    number, on, info = head['sequence'], head['base'], dict(head['info'])
  except KeyError as error:
    text = f'{name} is not whole: its first line lacks {error}.'
    raise RefusedDelta('torn', text) from error
  except (ValueError, TypeError, RecursionError) as error:
    raise RefusedDelta('torn', f'{name} is not whole: {error}.') from error
  if (number, on) != (sequence, base):
    raise RefusedDelta(
      'base',
      f'{name} is number {number} on the state {str(on)[:12]}; needed is'
      f' number {sequence} on {base[:12]}: it is of another base or trainer.',
    )
  try:
    _check_sizes(content)
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
      arrays = {n: found[n] for n in found.files}
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise RefusedDelta(
      'content', f'{name} holds no arrays: {error}.'
    ) from error
  digest = hashlib.sha256(line + b'\n').hexdigest()
  return Delta(sequence, digest, info, arrays)


def _check_sizes(content: bytes) -> None:
  """Refuses arrays that do not have the bytes that they announce.

  NumPy takes the memory that a header asks for before it reads any of it.

  Raises:
    ValueError: Names the array.
  """
  with zipfile.ZipFile(io.BytesIO(content)) as file:
    for member in file.infolist():
      if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f'{member.filename} is packed; needed is plain .npz')
      with file.open(member) as array:
        version = np.lib.format.read_magic(array)
        if version != (1, 0):
          raise ValueError(f'{member.filename} is .npy of version {version}')
        shape, _, dtype = np.lib.format.read_array_header_1_0(array)
        announced = array.tell() + math.prod(shape) * dtype.itemsize
      if min(shape, default=0) < 0 or announced != member.file_size:
        raise ValueError(
          f'{member.filename} announces {announced} bytes, an array of {shape}'
          f' of {dtype}, and has {member.file_size}'
        )


class DeltaFeed:
  """The deltas of a folder, in order, each once.

  Attributes:
    sequence: Number of the newest one taken.
    digest: Digest of the state after it.
    trouble: Why the next one cannot be taken; empty: it can, or is not there.
    refused: Kind of trouble -> times that it began.
  """

  def __init__(
    self, folder: str | os.PathLike[str], digest: str, sequence: int = 0
  ):
    """Reads nothing yet; `digest` is that of the base."""
    paths.check(folder, 'deltas')
    self._folder = epath.Path(folder)
    self.sequence, self.digest = sequence, digest
    self.trouble = ''
    self.refused = dict.fromkeys(('gap', 'torn', 'base', 'content'), 0)

  def next(self) -> Delta | None:
    """The next delta, or None: see `trouble`. Take it by `took`."""
    wanted = self.sequence + 1
    place = self._folder / name_of(wanted)
    try:
      if place.stat().length > _MAX_BYTES:
        raise RefusedDelta(
          'torn', f'{place.name} has more than {_MAX_BYTES} bytes.'
        )
      delta = parse(place.read_bytes(), wanted, self.digest)
    except FileNotFoundError:
      if later := self._later(place.name):
        self.refuse('gap', f'{place.name} is missing; {later} is there.')
      else:
        self.trouble = ''
      return None
    except RefusedDelta as error:
      self.refuse(error.kind, str(error))
      return None
    return delta

  def took(self, delta: Delta) -> None:
    """Goes on to the one behind a delta."""
    self.sequence, self.digest, self.trouble = delta.sequence, delta.digest, ''

  def refuse(self, kind: str, text: str) -> None:
    """Notes why there is no next one."""
    if text != self.trouble:
      self.refused[kind] += 1
      self.trouble = text
      logging.warning('deltas=%s: %s', self._folder, text)

  def _later(self, name: str) -> str:
    """Name of a delta behind a missing one, if there is any."""
    try:
      found = [p.name for p in self._folder.iterdir()]
    except FileNotFoundError:
      return ''
    later = [n for n in found if n.endswith(SUFFIX) and n[0] != '.']
    return min((n for n in later if n > name), default='')


def age_s(delta: Delta) -> float:
  """Seconds since the newest event that a delta was trained on; 0: unknown."""
  made = delta.info.get('event_s')
  return max(0.0, time.time() - made) if isinstance(made, int | float) else 0.0
