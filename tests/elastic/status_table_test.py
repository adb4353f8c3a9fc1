# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The status in a terminal and in a pipe."""

import io
import json

import pytest
import rich.console

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import status_table
from tests.elastic import status_examples


class _Client:
  """Answers with a snapshot."""

  def __init__(self, snapshot):
    self._json = json.dumps(snapshot).encode()
    self.num_calls = 0

  def call(self, name, request):
    assert name == 'Status' and isinstance(request, pb.StatusRequest)
    self.num_calls += 1
    return pb.StatusReply(json=self._json)


def _show(snapshot, *, once=True, is_terminal=False, width=120, sleep=None):
  console = rich.console.Console(
    file=io.StringIO(), force_terminal=is_terminal, width=width
  )
  client = _Client(snapshot)
  status_table.show(client, once, console=console, sleep=sleep or pytest.fail)
  return console.file.getvalue(), client.num_calls


class _Twice:
  """Lets the table be renewed twice, then presses Ctrl-C."""

  def __init__(self):
    self.slept = []

  def __call__(self, seconds):
    self.slept.append(seconds)
    if len(self.slept) == 3:
      raise KeyboardInterrupt


def test_plain():
  text, num_calls = _show(status_examples.lively().snapshot())
  assert num_calls == 1
  assert '\x1b' not in text
  for part in (
    'ctr',
    'running',
    '1,500 samples/s',
    '2:00 min left',
    'transient',
    '1.80x',
    '3.6 ms',
    'ADJUST_BS',
    'w3 is 1.8 times slower',
    '2/3',
    'CRC of block 17 is wrong',
    'spare',
    'killed by SIGKILL',
  ):
    assert part in text, part


def test_narrow_terminal_loses_no_text():
  text, _ = _show(status_examples.lively().snapshot(), width=60)
  assert max(map(len, text.splitlines())) <= 60
  for part in ('w3', 'ADJUST_BS', 'transient'):
    assert part in text


def test_live_in_a_terminal():
  sleep = _Twice()
  text, num_calls = _show(
    status_examples.lively().snapshot(),
    once=False,
    is_terminal=True,
    sleep=sleep,
  )
  assert num_calls == 3 and sleep.slept == [1.0] * 3
  assert '\x1b[?1049h' in text and '\x1b[?1049l' in text  # There and back.


def test_plain_again_and_again():
  sleep = _Twice()
  text, num_calls = _show(
    status_examples.lively().snapshot(), once=False, sleep=sleep
  )
  assert num_calls == 3 and text.count('Workers') == 3


def test_nothing_yet():
  assert 'No job yet' in _show(status_examples.Known().snapshot())[0]


def test_names_of_others_steer_no_terminal():
  known = status_examples.named('[red]a[/red]', '\x1b[2J\x07[bold]w')
  text, _ = _show(known.snapshot())
  assert '[red]a[/red]' in text and '[bold]w' in text
  assert '\x1b' not in text and '\x07' not in text


def test_many():
  text, _ = _show(status_examples.huge(1).snapshot(), width=200)
  assert 'workers left out' in text


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (None, '-'),
    (0.0, '0 s'),
    (2e-7, '0.2 µs'),
    (0.0036, '3.6 ms'),
    (0.9999, '1e+03 ms'),
    (3.44, '3.4 s'),
    (125.0, '2:05 min'),
    (3725.0, '1:02:05 h'),
  ],
)
def test_duration(seconds, text):
  assert status_table.duration(seconds) == text
