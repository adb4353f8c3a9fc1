# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An agent's check of its host, when the coordinator asks for one.

A program (`antjax.jobs.node_check`) measures devices, memory and disk: a broken
device may hang it, and not the agent. What it found goes out with the agent's
heartbeats; `node_check` compares it with the other hosts.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import math
import signal
import subprocess
import threading
from typing import Any

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import host_sockets
from antjax.elastic.process_group import describe_exit, Guard, kill_group

STAGE, RESULT = 'check: ', 'checked: '  # How lines of the program begin.
_FIGURES = ('matmul_flops', 'memory_bytes', 'disk_bytes')
_MAX_TEXT = 300
_MAX_LINE = 10_000
_Check = pb.NodeCheck


class HostCheck:
  """Runs the checks of one host in threads; `message` has the results."""

  def __init__(
    self,
    command: Sequence[str],
    env: Mapping[str, str],
    guard: Guard,
    address: str,
    *,
    say: Callable[[str], None],
    timeout_s: float = 60.0,
  ):
    """Measures nothing yet.

    `command` and `env` are of the program that measures the host, which the
    guard ends if this process dies and which has failed after `timeout_s`.
    Other hosts reach this one at `address`; `say` shows a message to users.
    """
    self._command, self._env, self._guard = command, env, guard
    self._say, self._timeout_s = say, timeout_s
    self._lock = threading.Lock()
    self._is_busy = self._is_closed = False
    self._group: int | None = None
    self._message = _Check()
    try:
      self._server: host_sockets.LinkServer | None = host_sockets.LinkServer(
        address
      )
    except OSError as error:
      self._server = None
      say(f'no other host can measure the link to here: {error}.')

  def message(self) -> pb.NodeCheck:
    with self._lock:
      copy = _Check()
      copy.CopyFrom(self._message)
      return copy

  def forget(self) -> None:
    """Has the host checked again: its worker has died."""
    with self._lock:
      if not self._is_busy:
        self._message = _Check()

  def obey(self, reply: pb.AgentBeatReply) -> None:
    """Begins what the coordinator asks for; returns at once."""
    with self._lock:
      if self._is_busy or self._is_closed:
        return
      if reply.is_to_check and self._message.state == _Check.NONE:
        self._message.state = _Check.RUNNING
        target: Callable[[], None] = self._check
      elif reply.HasField('link') and self._message.state == _Check.DONE:
        link = reply.link
        target = lambda: self._measure(link)  # noqa: E731
      else:
        return
      self._is_busy = True
    threading.Thread(target=target, daemon=True).start()

  def cancel(self) -> None:
    """Ends a check that runs: the devices are a worker's now."""
    with self._lock:
      if self._group is not None:
        kill_group(self._group)

  def close(self) -> None:
    self.cancel()
    with self._lock:
      self._is_closed = True
    if self._server is not None:
      self._server.close()

  def _measure(self, link: pb.LinkTask) -> None:
    num_bytes = host_sockets.measure(link.address, link.port, link.key)
    if not num_bytes:
      self._say(f'the link to {link.peer}, {link.address}, does not work.')
    with self._lock:
      self._message.links.add(peer=link.peer, bytes=num_bytes)
      self._is_busy = False

  def _check(self) -> None:
    try:
      found = self._run()
    except (OSError, RuntimeError) as error:
      found = _Check(state=_Check.FAILED, error=f'{error}'[:_MAX_TEXT])
    if found.error:
      self._say(f'the check of this host: {found.error}.')
    elif found.state == _Check.DONE:
      self._say(
        f'checked {found.num_devices} {found.device_kind or "devices"}:'
        f' {found.matmul_flops / 1e9:.3g} GFLOP/s each at least, memory'
        f' {found.memory_bytes / 1e9:.3g} GB/s, disk'
        f' {found.disk_bytes / 1e6:.3g} MB/s.'
      )
    with self._lock:
      self._message = found
      self._is_busy = False
      if self._server is not None:
        found.link_port, found.link_key = self._server.port, self._server.key

  def _run(self) -> pb.NodeCheck:
    process = subprocess.Popen(
      self._command,
      env=self._env,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    )
    with self._lock:
      self._group = process.pid
    self._guard.add(process.pid)
    timer = threading.Timer(self._timeout_s, kill_group, [process.pid])
    timer.start()
    stage, result = 'its start', ''
    assert process.stdout is not None
    try:
      while line := process.stdout.readline(_MAX_LINE):
        text = line.decode(errors='replace').strip()
        if text.startswith(STAGE):
          stage = text.removeprefix(STAGE)[:_MAX_TEXT]
        elif text.startswith(RESULT):
          result = text.removeprefix(RESULT)
      code = process.wait()
    finally:
      timer.cancel()
      kill_group(process.pid)  # What it has started.
      process.wait()
      process.stdout.close()
      with self._lock:
        self._group = None
      self._guard.remove(process.pid)
    if code == -signal.SIGKILL:
      raise RuntimeError(
        f'it hung, or was killed, in {stage}; it has {self._timeout_s:g} s'
      )
    if code:
      raise RuntimeError(f'it {describe_exit(code)} in {stage}')
    return parsed(result)


def parsed(text: str) -> pb.NodeCheck:
  """Reads what the program has found.

  Raises:
    RuntimeError: It is no such thing.
  """
  try:
    found: dict[str, Any] = json.loads(text)
    figures: dict[str, Any] = {name: float(found[name]) for name in _FIGURES}
    if not all(0 <= x < math.inf for x in figures.values()):
      raise ValueError(f'{figures}')
    return _Check(
      state=_Check.DONE,
      error=str(found.get('error', ''))[:_MAX_TEXT],
      is_wrong=bool(found.get('error')),
      platform=str(found['platform'])[:_MAX_TEXT],
      device_kind=str(found['device_kind'])[:_MAX_TEXT],
      num_devices=int(found['num_devices']),
      **figures,
    )
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise RuntimeError(
      f'its result cannot be read ({type(error).__name__}: {error})'
    ) from error
