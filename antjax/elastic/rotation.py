# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Secret files that may change while they are in use."""

from collections.abc import Callable, Sequence
import os
import ssl
import threading
import time
from typing import Generic, TypeVar

from absl import logging

from antjax.elastic import security

_T = TypeVar('_T')
_LOOK_S = 1.0


class Rotating(Generic[_T]):
  """What is in files now; looked at once a second. For any thread.

  Files that cannot be read, as in the midst of a change, change nothing.
  """

  def __init__(
    self,
    read: Callable[[], _T],
    paths: Sequence[str | os.PathLike[str]],
    clock: Callable[[], float] = time.monotonic,
  ):
    """Reads the files; raises what `read` raises."""
    self._read, self._paths, self._clock = read, paths, clock
    self._lock = threading.Lock()
    self._seen, self._looked_s = self._stamps(), clock()
    self._value = read()

  def __call__(self) -> _T:
    """Returns what the files say."""
    with self._lock:
      now = self._clock()
      if now - self._looked_s >= _LOOK_S:
        self._looked_s = now
        self._look()
      return self._value

  def look(self) -> _T:
    """Returns what the files say, however often it is asked."""
    with self._lock:
      self._look()
      return self._value

  def _look(self) -> None:
    stamps = self._stamps()
    if stamps == self._seen:
      return
    self._seen = stamps
    try:
      self._value = self._read()
      logging.info('Read again: %s.', ', '.join(map(str, self._paths)))
    except (OSError, ValueError) as error:
      logging.error('%s The one before stays in force.', error)

  def _stamps(self) -> list[tuple[int, int, int]]:
    stamps = []
    for path in self._paths:
      try:
        stat = os.stat(path)
        stamps.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
      except OSError:
        stamps.append((0, 0, 0))
    return stamps


def rotating_tls(folder: str) -> Rotating[security.Tls]:
  """Returns the certificates of a folder, see `security.read_tls`."""
  return Rotating(
    lambda: security.read_tls(folder),
    [os.path.join(folder, name) for name in security.TLS_FILES],
  )


def rotating_page_tls(folder: str) -> ssl.SSLContext:
  """Returns `security.page_tls`; each new connection gets what is there then.

  Raises:
    ValueError: cert.pem or key.pem is wrong at the start.
  """
  context = security.page_tls(folder)
  newest = Rotating(
    lambda: security.page_tls(folder),
    [os.path.join(folder, name) for name in ('cert.pem', 'key.pem')],
  )

  def choose(
    connection: ssl.SSLSocket | ssl.SSLObject, name: str, of: ssl.SSLContext
  ) -> None:
    del name, of
    connection.context = newest()

  context.sni_callback = choose  # Called whether or not a name is given.
  return context


def rotating_token(path: str, role: str, job: str) -> Rotating[str]:
  """Returns the token of a role and job, see `security.read_token`."""
  return Rotating(lambda: security.read_token(path, role, job), [path])
