# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest

from antjax.shards.journal import Journal
from tests import source_tree

COMMANDS = [(0, b'one', 1.5), (3, b'', 2.5), (255, bytes(range(256)), 1e9)]


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'folder' / 'journal.db'


def read(path):
  with Journal(path) as journal:
    snapshot, commands = journal.load()
    return snapshot, list(commands)


def test_commands_are_there_again_in_order(path):
  with Journal(path) as journal:
    assert journal.load()[0] is None
    journal.append(COMMANDS[:2])
    journal.append(COMMANDS[2:])
    assert journal.num_commands == 3
  assert read(path) == (None, COMMANDS)


def test_a_snapshot_takes_the_place_of_what_was_before(path):
  with Journal(path) as journal:
    journal.append(COMMANDS)
    journal.snapshot(b'all of it')
    assert (journal.num_commands, journal.num_bytes) == (0, 0)
    journal.append(COMMANDS[:1])
    journal.snapshot(b'more of it')
    journal.append(COMMANDS[1:])
  assert read(path) == (b'more of it', COMMANDS[1:])
  with Journal(path) as journal:
    list(journal.load()[1])
    assert journal.num_commands == 2
    journal.append(COMMANDS[:1])
  assert read(path) == (b'more of it', [*COMMANDS[1:], COMMANDS[0]])


def test_many_commands_do_not_make_the_file_grow(path):
  with Journal(path) as journal:
    sizes = []
    for _ in range(15):
      for _ in range(10):
        journal.append([(1, bytes(1000), 0.0)] * 100)
      journal.snapshot(bytes(10_000))
      sizes.append(path.stat().st_size + os.stat(f'{path}-wal').st_size)
  assert max(sizes) <= 8 << 20  # The log alone has 4 MiB.


def test_only_its_owner_may_read_it(path):
  with Journal(path):
    assert path.stat().st_mode & 0o077 == 0


def test_two_coordinators_cannot_share_a_journal(path):
  with Journal(path):
    with pytest.raises(RuntimeError, match=f'process {os.getpid()}'):
      Journal(path)
    code = f'from antjax.shards.journal import Journal; Journal({str(path)!r})'
    other = subprocess.run(
      [sys.executable, '-c', code],
      cwd=source_tree.ROOT,
      capture_output=True,
      text=True,
    )
    assert 'another coordinator' in other.stderr
  assert read(path) == (None, [])


def test_what_was_appended_survives_a_kill(path):
  """The process is killed in the middle of writing; a group is whole or not."""
  code = (
    'import sys\n'
    'from antjax.shards.journal import Journal\n'
    f'journal = Journal({str(path)!r})\n'
    'journal.load()\n'
    'for n in range(10**9):\n'
    '  journal.append([(1, b"%d" % n, 0.0), (2, b"%d" % n, 0.0)])\n'
    '  print(n, flush=True)\n'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', code], cwd=source_tree.ROOT, stdout=subprocess.PIPE
  )
  for _ in range(30):
    process.stdout.readline()
  process.send_signal(signal.SIGKILL)
  rest, _ = process.communicate()
  acknowledged = 30 + rest.count(b'\n')
  _, commands = read(path)
  numbers = [int(body) for _, body, _ in commands]
  assert numbers == [n for n in range(len(numbers) // 2) for _ in range(2)]
  assert len(numbers) >= 2 * acknowledged


def test_a_torn_last_group_is_as_if_it_was_not_written(path):
  """A crash of the machine cuts the log anywhere; what is before stays."""
  with Journal(path) as journal:
    journal.append(COMMANDS[:1])
    journal.append(COMMANDS[1:])
    copy = path.parent / 'copy.db'
    shutil.copy(path, copy)
    log = pathlib.Path(f'{path}-wal').read_bytes()
  seen = set()
  for size in range(0, len(log) + 1, len(log) // 40):
    with open(f'{copy}-wal', 'wb') as file:
      file.write(log[:size])
    torn = path.parent / f'torn{size}.db'
    shutil.copy(copy, torn)
    shutil.move(f'{copy}-wal', f'{torn}-wal')
    try:
      commands = read(torn)[1]
    except RuntimeError:
      assert size < len(log) / 2  # The tables themselves were not written.
      continue
    assert commands in ([], COMMANDS[:1], COMMANDS)
    seen.add(len(commands))
  assert {1, 3} & seen


def damage(path, statement):
  database = sqlite3.connect(path)
  database.executescript(statement)
  database.close()


@pytest.mark.parametrize(
  'statement, message',
  [
    ("UPDATE commands SET body = x'00' WHERE id = 2", 'group 2 does not have'),
    ('DELETE FROM commands WHERE id = 2', 'group 2 of commands is missing'),
    ("UPDATE snapshot SET body = x'00'", 'the snapshot does not have'),
    ('PRAGMA user_version = 99', 'version 99, needed: 1'),
    ('PRAGMA application_id = 7', 'of another program'),
    ('DROP TABLE snapshot', 'no such table'),
  ],
)
def test_a_damaged_journal_is_refused(path, statement, message):
  with Journal(path) as journal:
    journal.snapshot(b'before')
    for command in COMMANDS:
      journal.append([command])
  damage(path, statement)
  with pytest.raises(RuntimeError, match=message):
    read(path)


def test_a_file_of_another_kind_is_refused_and_left_alone(path):
  path.parent.mkdir()
  path.write_bytes(b'{"json": 1}' * 100)
  before = path.read_bytes()
  with pytest.raises(RuntimeError, match='no SQLite file'):
    Journal(path)
  assert path.read_bytes() == before
  path.unlink()
  damage(path, 'CREATE TABLE t (x)')
  with pytest.raises(RuntimeError, match='another program'):
    Journal(path)


def test_a_cut_file_is_refused(path):
  with Journal(path) as journal:
    journal.snapshot(bytes(100_000))
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(RuntimeError, match='no whole journal'):
    read(path)


def test_a_folder_is_no_journal_and_left_alone(tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  with pytest.raises(RuntimeError, match='is a folder; name a file in it'):
    Journal(folder)
  assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(RuntimeError, match='choose a folder'):
    Journal(tmp_path / 'file' / 'journal.db')


def test_a_disk_that_is_full_is_named_while_running(tmp_path):
  with Journal(tmp_path / 'j') as journal:
    journal.load()
    [(pages,)] = journal._db.execute('PRAGMA page_count')
    journal._db.execute(f'PRAGMA max_page_count = {pages}')
    for write in (
      lambda: journal.append([(1, bytes(9999), 0.0)]),
      lambda: journal.snapshot(bytes(9999)),
    ):
      with pytest.raises(RuntimeError, match=r'/j\).* is full; .*make room'):
        write()
