# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ensures at most one live run per run folder, on a disk or in a bucket.

A run writes a small file there every few seconds. TensorStore writes it only if
no other process has written it since, on disks and in buckets, so that exactly
one of two runs owns the folder. A run that finds the file checks whether its
writer is alive, if that can be known, and otherwise watches the file. Clocks
are never compared.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any

from absl import logging
import jax
import tensorstore as ts

from antjax import paths
from antjax.mesh.gather import gather_json
from antjax.train import checkpoint_folder, object_store

FILE = '.lease'
BEAT_S = 5.0
STALE_S = 30.0  # A file unchanged for this long is from a dead run.

_leases: 'list[Lease]' = []  # Leases of this process.


class Lease:
  """A run's hold on a folder, on the process that writes there."""

  def __init__(self, folder: str, job: str, generation: int):
    """Takes nothing yet. See `held`."""
    self.folder = folder
    self._stamp = b''  # The file's generation after this run's last write.
    self._ended, self._lock = threading.Event(), threading.Lock()
    self._lost = ''
    self._me: dict[str, Any] = {
      'num_written': 0,
      'host': socket.gethostname(),
      'pid': os.getpid(),
      'process': _process(os.getpid()),
      'machine': _machine(),
      'job': job,
      'generation': generation,
      'since': time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime()),
    }

  def take(self) -> None:
    """Takes the folder once it is known that no other run has it.

    Raises:
      ValueError: A live run has it, or the file cannot be written.
    """
    spec = object_store.kvstore(f'{self.folder}/')
    self._files = ts.KvStore.open(spec).result()
    first = found = self._files.read(FILE).result()
    end = time.monotonic() + STALE_S
    while found.state == 'value':
      other = json.loads(found.value)
      is_over = self._is_over(other)
      if is_over is False or found.stamp.generation != first.stamp.generation:
        raise ValueError(self._refusal(found))
      if is_over or time.monotonic() > end:
        break
      if found is first:
        logging.info(
          '%s was in use by process %s on %s; waiting %g s to see whether it'
          ' lives.',
          *(self.folder, other['pid'], other['host'], STALE_S),
        )
      time.sleep(min(1.0, BEAT_S))
      found = self._files.read(FILE).result()
    if not self._first_write(found.stamp.generation):
      raise ValueError(self._refusal(self._files.read(FILE).result()))
    threading.Thread(target=self._beat, name='lease', daemon=True).start()

  def _is_over(self, other: dict[str, Any]) -> bool | None:
    """Whether the other run has ended; None if unknown."""
    me = self._me
    if me['job'] and me['job'] == other['job']:
      if me['generation'] > other['generation']:
        return True  # The coordinator has replaced it by this run.
    if me['machine'] and me['machine'] == other['machine']:
      return _process(other['pid']) != other['process']
    return None

  def _refusal(self, found: Any) -> str:
    if found.state == 'missing':
      return f'{self.folder}: another run has just been there; start again.'
    other = json.loads(found.value)
    job = f' (job {other["job"]})' if other['job'] else ''
    return (
      f'{self.folder} is in use: process {other["pid"]} on'
      f' {other["host"]}{job} trains there since {other["since"]}. Use another'
      ' run folder, or stop that process; the same command then resumes its'
      ' run.'
    )

  def _first_write(self, stamp: bytes) -> bool:
    """Like `_write`; on a full disk, first removes files of dead runs.

    Raises:
      ValueError: The disk is still full.
    """
    try:
      return self._write(stamp)
    except ValueError as error:
      if not paths.is_full(error):
        raise ValueError(
          f'{self.folder}: a run keeps its checkpoints there, and cannot write:'
          f' {error}. Make it writable, or use another run folder.'
        ) from error
      if paths.is_url(self.folder):
        raise
      if self._files.read(FILE).result().stamp.generation != stamp:
        return False
    folder = pathlib.Path(self.folder)
    for place in [folder, *filter(pathlib.Path.is_dir, folder.iterdir())]:
      checkpoint_folder.remove_unfinished(place)
    try:
      return self._write(stamp)
    except ValueError as error:
      if not paths.is_full(error):
        raise
      raise ValueError(
        f'{self.folder}: the disk is full. {checkpoint_folder.room(folder)}'
      ) from error

  def _write(self, stamp: bytes) -> bool:
    """Writes the file if its generation is still `stamp`."""
    # On s3:// the same text would have the same generation.
    self._me['num_written'] += 1
    text = json.dumps(self._me).encode()
    written = self._files.write(FILE, text, if_equal=stamp).result()
    self._stamp = written.generation or self._stamp
    return bool(written.generation)

  def _beat(self) -> None:
    while not self._ended.wait(BEAT_S) and not self._lost:
      self.renew()

  def renew(self) -> None:
    """Writes the file again; records whether another run has the folder."""
    with self._lock:
      if self._ended.is_set() or self._lost:
        return
      try:
        if not self._write(self._stamp):
          self._lost = self._refusal(self._files.read(FILE).result())
          logging.error('This run has lost its folder. %s', self._lost)
      except (OSError, ValueError) as error:
        logging.warning('%s/%s: %s', self.folder, FILE, error)

  def check(self) -> None:
    """Raises RuntimeError if another run has taken the folder."""
    self.renew()
    if self._lost:
      raise RuntimeError(f'This run has lost its folder. {self._lost}')

  def release(self) -> None:
    """Deletes the file if it is still this run's."""
    with self._lock:
      self._ended.set()
      with contextlib.suppress(OSError, ValueError):
        self._files.write(FILE, None, if_equal=self._stamp).result()


@contextlib.contextmanager
def held(
  folder: str | os.PathLike[str], job: str = '', generation: int = 0
) -> Iterator[None]:
  """Holds a folder and its subfolders for this run; call on all processes.

  The folder may be a gs:// or s3:// URL. `job` is one that a coordinator
  restarts, if any; a later generation of it takes over at once.

  Raises:
    ValueError: A live run has the folder; the message names it.
  """
  folder = paths.origin(folder).rstrip('/')
  if any(f'{folder}/'.startswith(f'{one.folder}/') for one in _leases):
    yield
    return
  lease = Lease(folder, job, generation)
  error = None
  if jax.process_index() == 0:
    try:
      lease.take()
    except (RuntimeError, ValueError) as refused:
      error = refused
  if told := gather_json(error and str(error))[0]:
    raise (type(error) if error else ValueError)(told) from error
  _leases.append(lease)
  try:
    yield
  finally:
    _leases.remove(lease)
    if jax.process_index() == 0:
      lease.release()


def check(folder: str) -> None:
  """Raises RuntimeError if this process has lost a folder that it held."""
  for lease in _leases:
    if f'{folder}/'.startswith(f'{lease.folder}/') and not jax.process_index():
      lease.check()


def _machine() -> str:
  """Identity of boot and PID namespace; '' if unknown."""
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return ''


def _process(pid: int) -> str:
  """Start time, which distinguishes reuses of a PID; '' if dead."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return ''
  state, *rest = stat.rpartition(')')[2].split()
  return '' if state in 'ZX' else rest[18]
