# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Programs that end with this process, together with their children.

Each program leads a process group of its own. A guard process kills the groups
when the one that started them vanishes, `kill -9` included.
"""

from collections import deque
from collections.abc import Mapping, Sequence
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading

from antjax.elastic import guard

_DRAIN_S = 5.0
_MAX_TAIL_LINES = 40
_MAX_TAIL_LINE_BYTES = 500

# Gloo announces each connection of each group of devices, on stdout.
_NOISE = re.compile(rb'\[Gloo\] Rank \d+ is connected to \d+ peer ranks')


def describe_exit(code: int) -> str:
  """Says how a process ended; a code below 0 is a signal's."""
  if code < 0:
    return f'died of {describe_signal(-code)}'
  return f'exited with code {code}'


def describe_signal(number: int) -> str:
  """Names a signal, such as 'signal 9 (SIGKILL)'."""
  try:
    return f'signal {number} ({signal.Signals(number).name})'
  except ValueError:  # Realtime signals have no names.
    return f'signal {number}'


def kill_group(group: int) -> None:
  """Kills a process group; one that is gone already is fine."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(group, signal.SIGKILL)


class Guard:
  """Kills the groups it knows when this process ends, for whatever reason.

  Until then it keeps descriptors open, such as a lock that says that something
  still runs; then it also removes folders.
  """

  def __init__(
    self, keep: Sequence[int] = (), folders: Sequence[str] = ()
  ) -> None:
    self._process = subprocess.Popen(
      # Isolated and without site-packages: starts in some 10 ms.
      [sys.executable, '-I', '-S', guard.__file__, *folders],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      start_new_session=True,  # What kills our group must not kill the guard.
      pass_fds=keep,
    )

  def add(self, group: int) -> None:
    self._write(b'+%d\n' % group)

  def remove(self, group: int) -> None:
    self._write(b'-%d\n' % group)

  def _write(self, line: bytes) -> None:
    assert self._process.stdin is not None
    os.write(self._process.stdin.fileno(), line)

  def close(self) -> None:
    """Kills what is left, removes the folders, and ends the guard."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()


class Output:
  """Prints lines of several programs, each with its program's prefix."""

  def __init__(self, is_terminal: bool = False) -> None:
    self._lock = threading.Lock()
    # Wipes a progress bar off the line; the bar draws itself again.
    self._before = b'\r\x1b[K' if is_terminal else b''
    self.closed = False  # Whether nobody reads our output any more.

  def pump(
    self, pipe: int, prefix: bytes, tail: deque[bytes] | None = None
  ) -> None:
    """Copies a program's pipe until its end; runs in a thread."""
    rest = b''
    while chunk := os.read(pipe, 1 << 16):
      # A carriage return ends a line too: what is no terminal cannot go back.
      *lines, rest = re.split(rb'\r\n|\n|\r(?!$)', rest + chunk)
      self._write(prefix, lines, tail)
    self._write(prefix, [rest], tail)
    os.close(pipe)

  def _write(
    self,
    prefix: bytes,
    lines: Sequence[bytes],
    tail: deque[bytes] | None,
  ) -> None:
    lines = [line for line in lines if line.strip() and not _NOISE.match(line)]
    if tail is not None:
      tail.extend(line[:_MAX_TAIL_LINE_BYTES] for line in lines)
    text = b''.join(self._before + prefix + line + b'\n' for line in lines)
    with self._lock:
      if self.closed:
        return
      try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
      except (BrokenPipeError, ValueError):
        self.closed = True


class ProcessGroup:
  """A program, leader of its own process group; its lines go to an output.

  Each begins with `prefix`. With `direct` its stderr is ours, so that a
  progress bar works.
  """

  def __init__(
    self,
    command: Sequence[str],
    env: Mapping[str, str],
    guard: Guard,
    output: Output,
    *,
    prefix: bytes = b'',
    direct: bool = False,
  ) -> None:
    self._guard = guard
    # An own session: a terminal's Ctrl-C reaches only us, and we pass it on.
    self._process = subprocess.Popen(
      command,
      env=env,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=None if direct else subprocess.STDOUT,
      start_new_session=True,
    )
    self.pid = self._process.pid
    try:
      guard.add(self.pid)
    except BrokenPipeError as error:
      self.kill()
      self._process.wait()
      raise RuntimeError(
        'the guard process was killed; without it nothing is started.'
      ) from error
    assert self._process.stdout is not None
    pipe = os.dup(self._process.stdout.fileno())
    self._process.stdout.close()
    self._tail: deque[bytes] = deque(maxlen=_MAX_TAIL_LINES)
    self._thread = threading.Thread(
      target=output.pump, args=(pipe, prefix, self._tail), daemon=True
    )
    self._thread.start()

  @property
  def tail(self) -> str:
    return b'\n'.join(self._tail.copy()).decode(errors='replace')

  def has_exited(self) -> bool:
    # Without reaping, so that the group's number stays ours.
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, self.pid, options) is not None

  def wait(self) -> None:
    """Returns once it has exited; may be called in a thread of its own."""
    with contextlib.suppress(ChildProcessError):  # `reap` was faster.
      os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

  def send(self, number: int) -> None:
    """Signals the program alone: its helpers are its own business."""
    os.kill(self.pid, number)

  def kill(self) -> None:
    kill_group(self.pid)

  def reap(self) -> int:
    """Ends what the program left behind; returns its code, < 0: a signal."""
    self.kill()
    code = self._process.wait()
    with contextlib.suppress(BrokenPipeError):
      self._guard.remove(self.pid)
    self._thread.join(timeout=_DRAIN_S)
    return code
