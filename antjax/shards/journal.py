# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A durable list of commands since a snapshot, in one SQLite file.

What `append` was given is on disk when it returns: it is there after a crash of
the process or of the machine, wholly or not at all. A group of commands is one
row with a checksum and one fsync, so that many commands cost as much as one.

  table snapshot  last_row (the newest row of `commands` in it), crc, body
  table commands  id (1, 2, ... without gaps after last_row), crc, body
  table secret    key, drawn once: older journals get one when they are opened
"""

from collections.abc import Iterator, Sequence
import fcntl
import os
import secrets
import sqlite3
import struct
from typing import Any
import zlib

from antjax import paths

VERSION = 1
_KEY_BYTES = 32
_APPLICATION_ID = 0x616A6A31  # 'ajj1'
_ENTRY = struct.Struct('<BdI')  # Type, time, length.
_TABLES = """
CREATE TABLE snapshot (
  last_row INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE commands (
  id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL
);
"""

# SQLite's errors that are no damage, and what to do.
_ADVICE = {
  sqlite3.SQLITE_BUSY: 'another program has it open: end that',
  sqlite3.SQLITE_LOCKED: 'another program has it open: end that',
  sqlite3.SQLITE_FULL: 'its disk is full: make room',
  sqlite3.SQLITE_READONLY: 'it may not be written: give it to this user',
  sqlite3.SQLITE_CANTOPEN: 'see whether this user may write its folder',
  sqlite3.SQLITE_IOERR: 'see whether its disk is full or broken',
}
# Type (0 to 255), body, time.
Command = tuple[int, bytes, float]


class Journal:
  """The journal of one coordinator, for one thread at a time.

  `<path>-wal` and `<path>.lock` belong to its file.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Opens the journal, or makes an empty one.

    Raises:
      RuntimeError: It is open elsewhere, is damaged, is a folder, or is no
        journal of this version.
    """
    self.path = paths.local(path, 'Journal: path', paths.LOCKED)
    self.num_commands = 0  # Since the snapshot.
    self.num_bytes = 0  # Their size.
    self._last_row = 0
    if self.path.is_dir():
      raise RuntimeError(
        f'Journal({self.path}): this is a folder; name a file in it, such as'
        f' {self.path / "coordinator.db"}.'
      )
    self._lock = self._locked()
    try:
      self._db = self._opened()
      # For proofs of what came from this journal, whatever it loses later.
      self.key = self._drawn_key()
    except BaseException:
      os.close(self._lock)
      raise

  def __enter__(self) -> 'Journal':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes the file and lets go of it; a second time does nothing."""
    if self._lock >= 0:
      self._db.close()
      os.close(self._lock)
      self._lock = -1

  def load(self) -> tuple[bytes | None, Iterator[Command]]:
    """Returns the snapshot and the commands after it.

    Raises:
      RuntimeError: What is stored is not what was written; also while the
        commands are read.
    """
    rows = self._execute('SELECT last_row, crc, body FROM snapshot')
    self._last_row, snapshot = 0, None
    self.num_commands = self.num_bytes = 0
    for self._last_row, crc, snapshot in rows:
      if zlib.crc32(snapshot) != crc:
        raise self._damaged('the snapshot does not have its checksum')
    return snapshot, self._commands()

  def append(self, commands: Sequence[Command]) -> None:
    """Stores commands; they are on disk when this returns."""
    body = b''.join(
      part
      for kind, data, time in commands
      for part in (_ENTRY.pack(kind, time, len(data)), data)
    )
    self._execute(
      'INSERT INTO commands VALUES (?, ?, ?)',
      (self._last_row + 1, zlib.crc32(body), body),
    )
    self._last_row += 1
    self.num_commands += len(commands)
    self.num_bytes += len(body)

  def snapshot(self, body: bytes) -> None:
    """Stores what all commands so far have led to, in their place."""
    self._execute('BEGIN IMMEDIATE')
    try:
      self._execute('DELETE FROM snapshot')
      self._execute('DELETE FROM commands')
      self._execute(
        'INSERT INTO snapshot VALUES (?, ?, ?)',
        (self._last_row, zlib.crc32(body), body),
      )
      self._execute('COMMIT')
    except BaseException:
      self._db.rollback()  # Where SQLite has not.
      raise
    self.num_commands = self.num_bytes = 0

  def _commands(self) -> Iterator[Command]:
    expected = self._last_row
    rows = self._execute('SELECT id, crc, body FROM commands ORDER BY id')
    for row, crc, body in rows:
      expected += 1
      if row != expected:
        raise self._damaged(f'group {expected} of commands is missing')
      if zlib.crc32(body) != crc:
        raise self._damaged(f'group {row} does not have its checksum')
      at = 0
      while at < len(body):
        kind, time, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size + length
        self.num_commands += 1
        yield kind, body[at - length : at], time
      self.num_bytes += len(body)
      self._last_row = expected

  def _execute(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
    try:
      return self._db.execute(query, values).fetchall()
    except sqlite3.DatabaseError as error:
      raise self._failed(error) from error

  def _locked(self) -> int:
    """Takes the lock; it ends with the process, however that ends."""
    path = f'{self.path}.lock'
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
      raise RuntimeError(
        f'Journal({self.path}): cannot make {path} ({error.strerror}); choose a'
        ' folder that you may write to.'
      ) from error
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      owner = os.pread(lock, 20, 0).decode(errors='replace').strip()
      os.close(lock)
      raise RuntimeError(
        f'Journal({self.path}): another coordinator (process {owner}) has it'
        ' open; end that one first, or give this one another journal.'
      ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock

  def _opened(self) -> sqlite3.Connection:
    if self.path.exists() and self.path.stat().st_size:
      with self.path.open('rb') as file:
        if file.read(16) != b'SQLite format 3\0':
          raise self._damaged('it is no SQLite file')
    db = sqlite3.connect(
      self.path, isolation_level=None, check_same_thread=False
    )
    try:
      self._prepare(db)
    except BaseException as error:
      db.close()
      if isinstance(error, sqlite3.DatabaseError):
        raise self._failed(error) from error
      raise
    os.chmod(self.path, 0o600)
    return db

  def _prepare(self, db: sqlite3.Connection) -> None:
    """Checks the tables of a journal, or makes those of a new one."""
    # Without other readers the index of the log is in memory, not in a file.
    db.execute('PRAGMA locking_mode = EXCLUSIVE')
    db.execute('PRAGMA journal_mode = WAL')
    db.execute('PRAGMA synchronous = FULL')
    db.execute(f'PRAGMA journal_size_limit = {16 << 20}')
    [(application, version, num_tables)] = db.execute(
      'SELECT application_id, user_version, (SELECT count(*) FROM'
      ' sqlite_master) FROM pragma_application_id, pragma_user_version'
    )
    if not application and not num_tables:
      db.executescript(
        f'BEGIN; PRAGMA application_id = {_APPLICATION_ID};'
        f'PRAGMA user_version = {VERSION}; {_TABLES} COMMIT;'
      )
      self._sync_folder()
    elif application != _APPLICATION_ID:
      raise self._damaged('it is the SQLite file of another program')
    elif version != VERSION:
      raise RuntimeError(
        f'Journal({self.path}): it has version {version}, needed: {VERSION};'
        ' use the antjax that made it, or another file.'
      )
    problems = [text for (text,) in db.execute('PRAGMA quick_check(3)')]
    if problems != ['ok']:
      raise self._damaged('; '.join(problems))

  def _drawn_key(self) -> bytes:
    """Returns the key of the journal; it is kept outside the log."""
    query = 'SELECT key FROM secret'
    self._execute('CREATE TABLE IF NOT EXISTS secret (key BLOB NOT NULL)')
    if not self._execute(query):
      key = secrets.token_bytes(_KEY_BYTES)
      self._execute('INSERT INTO secret VALUES (?)', (key,))
      self._execute('PRAGMA wal_checkpoint(TRUNCATE)')
    [(key,)] = self._execute(query)
    return bytes(key)

  def _sync_folder(self) -> None:
    """Makes sure that a new file is found after a crash of the machine."""
    folder = os.open(self.path.parent, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)

  def _failed(self, error: sqlite3.DatabaseError) -> RuntimeError:
    """What to say of an error, which need not be damage."""
    advice = _ADVICE.get(getattr(error, 'sqlite_errorcode', 0) & 0xFF)
    if advice is None:
      return self._damaged(str(error))
    return RuntimeError(f'Journal({self.path}): {error}; {advice}.')

  def _damaged(self, reason: str) -> RuntimeError:
    return RuntimeError(
      f'Journal({self.path}): this is no whole journal: {reason}. Move it away,'
      ' or begin with another file: each job then resumes from its last'
      ' checkpoint. A copy of it is older than what the workers were told, and'
      ' they would have to go back there too.'
    )
