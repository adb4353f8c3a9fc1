# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two runs on one folder: the second is refused while the first lives."""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest

from antjax.train import lease
from tests import bucket

HOLD = """
import sys
from antjax.train import lease
with lease.held(sys.argv[1], *sys.argv[2:3], *map(int, sys.argv[3:])):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def short(monkeypatch):
  monkeypatch.setattr(lease, 'BEAT_S', 0.05)
  monkeypatch.setattr(lease, 'STALE_S', 0.3)


@pytest.fixture
def held(tmp_path):
  """Another process that holds a folder, until it is killed or told to end."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path), 'job', '3'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  with process:
    assert process.stdout.readline() == b'held\n'
    yield process
    process.kill()


def test_a_living_run_keeps_its_folder(tmp_path, held):
  with pytest.raises(ValueError) as refused, lease.held(tmp_path / 'inside/..'):
    pass
  told = str(refused.value)
  assert f'process {held.pid} on' in told and 'another run folder' in told
  with lease.held(tmp_path / 'other'):
    pass
  for job in (('job', 3), ('job', 2), ('another', 4)):
    with pytest.raises(ValueError, match='is in use'):
      with lease.held(tmp_path, *job):
        pass
  with lease.held(tmp_path, 'job', 4):  # The job's next generation.
    lease.check(str(tmp_path))
  with lease.held(tmp_path), lease.held(tmp_path / 'checkpoints'):
    assert (tmp_path / lease.FILE).exists()
  assert not (tmp_path / lease.FILE).exists()


def test_a_killed_run_gives_way(tmp_path, held, monkeypatch):
  held.kill()
  held.wait()
  file = tmp_path / lease.FILE
  said = json.loads(file.read_text())
  with monkeypatch.context() as patch:
    patch.setattr(lease, 'STALE_S', 1e9)
    with lease.held(tmp_path):  # At once.
      lease.check(f'{tmp_path}/checkpoints')
  # As if it came from another machine: its silence tells.
  file.write_text(json.dumps(said | {'machine': 'another'}))
  began = time.monotonic()
  with lease.held(tmp_path):
    assert time.monotonic() - began > 0.3


@pytest.mark.parametrize('place', ['disk', *bucket.SCHEMES])
def test_of_two_machines_one_has_the_folder(tmp_path, monkeypatch, place):
  with contextlib.ExitStack() as stack:
    folder = str(tmp_path)
    if place != 'disk':
      folder = stack.enter_context(bucket.used(place)) + '/a run'
    first = lease.Lease(folder, '', 0)
    first.take()
    monkeypatch.setattr(lease, '_machine', lambda: 'another')
    second = lease.Lease(folder, '', 0)
    with pytest.raises(ValueError, match=f'process {os.getpid()} on'):
      second.take()  # Sees the beats.
    first.check()
    first._ended.set()  # As if that machine stood still.
    second.take()
    first._ended.clear()
    with pytest.raises(RuntimeError, match='has lost its folder.*in use'):
      first.check()
    first.release()  # Not the other's.
    second.check()
    second.release()
