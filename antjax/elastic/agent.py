# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The supervisor of one host: runs its worker for the coordinator.

It reports the state of its worker twice a second and obeys the coordinator's
answer: run this generation, kill, ask to save, or leave. Without an answer it
continues unchanged: an absent coordinator stops no worker.

  supervisor = Supervisor(client, ['train.py'], worker_env=..., address=...)
  signal.signal(signal.SIGTERM, lambda number, _: supervisor.signal(number))
  sys.exit(supervisor.run())
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import math
import pathlib
import queue
import signal
import sys
import threading
import time
from typing import Any

import psutil

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import host_sockets
from antjax.elastic.client import CoordinatorClient, CoordinatorGoneError
from antjax.elastic.host_check import HostCheck
from antjax.elastic.process_group import (
  describe_exit,
  describe_signal,
  Guard,
  Output,
  ProcessGroup,
)
from antjax.elastic.pulse import EXIT_STALE
from antjax.elastic.rendezvous import EXIT_PREEMPTED, EXIT_REPLACED
from antjax.elastic.rendezvous_room import EXIT_WRONG_USAGE

_POLL_S = 0.1
# One beat is tried for so long; then a newer one says what is true by then.
_TRY_S = 2.0
_QUIET_S, _SAY_S = 5.0, 600.0  # Of silence, until it is said; and again.
_ALIVE_S = 5.0
_STACKS_S = 3.0  # That a hung worker has to show its stacks.
_FLUSH_S = 1.0
_RESOURCES_S = 2.0
_MAX_TAIL = 4000
# Codes of a worker that say nothing about its host.
_NO_FAULT = {0, EXIT_STALE, EXIT_WRONG_USAGE, 130, 143}
_Beat = pb.AgentBeatRequest


@dataclasses.dataclass(eq=False)
class Supervisor:
  """Runs workers of one host, one at a time, until the job is over."""

  client: CoordinatorClient  # Under this host's name.
  command: Sequence[str]  # Arguments of `python` on the worker's command line.
  _: dataclasses.KW_ONLY
  # A worker's environment for its assignment.
  worker_env: Callable[[pb.Assignment], Mapping[str, str]]
  address: str  # At which other hosts reach this one.
  output: Output  # For the worker's lines.
  guard: Guard  # Kills the worker if this process dies.
  say: Callable[[str], None]  # Shows a message to users.
  grace_s: float = 30.0  # That a worker has to save after our SIGTERM.
  is_direct: bool = False  # Rank 0 shares our stderr, without a prefix.
  beat_s: float = 0.5  # Between heartbeats.
  min_hosts: int = 0  # 0: the coordinator's.
  max_hosts: int = 0  # 0: no limit.
  give_up_s: float = math.inf  # Without the coordinator; then it exits.
  alive_file: str = ''  # Touched every few seconds, for a probe.
  check: HostCheck | None = None  # Of this host, before its worker starts.

  def __post_init__(self) -> None:
    # What the main thread has to do; a signal handler may put something in.
    self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    self._worker: ProcessGroup | None = None
    self._exit_code: int | None = None
    self._stop_signal: int | None = None
    self._kill_at = float('inf')
    self._is_asked_to_stop = self._is_preempted = False
    # What the next beat says; the lock also guards the two versions.
    self._changed = threading.Condition()
    self._version = 1
    self._reported = 0
    self._is_over = False
    self._said = _Beat(status=_Beat.IDLE)
    self._told = ''  # By the coordinator, last.

  @property
  def worker_pid(self) -> int | None:
    worker = self._worker
    return worker.pid if worker else None

  def signal(self, number: int) -> None:
    """Passes a signal on; may be called in a signal handler.

    After the first one the worker may save, and this process exits. After a
    second SIGINT the worker is killed.
    """
    self._events.put(functools.partial(self._on_signal, number))

  def preempt(self, reason: str) -> None:
    """Has the worker save and this process exit: the host will be gone."""

    def leave() -> None:
      if self._stop_signal is None:
        self.say(f'this host is preempted: {reason}.')
        self._is_preempted = True
        self._on_signal(signal.SIGTERM)

    self._events.put(leave)

  def run(self) -> int:
    """Runs until the job is over or this host leaves; returns an exit code.

    0: the job succeeded; 1: it failed; 75: this host is to be replaced, or the
    coordinator was away for `give_up_s`; 76: it is preempted; 128 + signal: it
    was stopped.
    """
    beats = threading.Thread(target=self._beat, daemon=True)
    beats.start()
    alive_s = -math.inf
    try:
      while self._exit_code is None:
        if self.alive_file and time.monotonic() - alive_s > _ALIVE_S:
          pathlib.Path(self.alive_file).touch()
          alive_s = time.monotonic()
        with contextlib.suppress(queue.Empty):
          self._events.get(timeout=_POLL_S)()
        if self.output.closed and self._stop_signal is None:
          self._on_signal(signal.SIGTERM)
        if time.monotonic() > self._kill_at and self._worker is not None:
          self.say('the worker has had its time to save; killing it.')
          self._worker.kill()
          self._kill_at = float('inf')
    finally:
      self._kill()
      if self.check is not None:
        self.check.close()
      with self._changed:
        self._is_over = True
        self._changed.notify_all()
      beats.join(_POLL_S)  # It may wait for a coordinator that is away.
    return self._exit_code

  # --- What the coordinator says. ---------------------------------------------

  def _on_reply(self, request: Any, reply: Any) -> None:
    command = reply.command
    if command == pb.AgentBeatReply.EXIT:
      self._kill()
      self._leave(reply.exit_code)
      self.say(
        f'leaving: {reply.reason or "the job is over"}'.rstrip('.') + '.'
      )
      return
    if reply.reason != self._told and command == pb.AgentBeatReply.NONE:
      self._told = reply.reason
      if reply.reason:  # Such as why no worker runs here.
        self.say(f'{reply.reason}.')
    said = self._said
    if (request.status, request.generation) != (said.status, said.generation):
      return  # An answer to what is no longer so.
    if command == pb.AgentBeatReply.RUN:
      if self._stop_signal is None:
        self._start(reply.assignment)
    elif command == pb.AgentBeatReply.KILL:
      if reply.is_hung:
        self._show_stacks()
      self._kill()
      self._note(status=_Beat.IDLE)
    elif command == pb.AgentBeatReply.STOP:
      if self._worker is not None and not self._is_asked_to_stop:
        self.say(f'asking the worker to save and end: {reply.reason}.')
        self._is_asked_to_stop = True
        self._worker.send(signal.SIGTERM)

  def _start(self, assignment: pb.Assignment) -> None:
    is_direct = self.is_direct and assignment.rank == 0
    self._is_asked_to_stop = False
    if self.check is not None:
      self.check.cancel()  # It has taken too long.
    self._worker = worker = ProcessGroup(
      [sys.executable, *self.command],
      self.worker_env(assignment),
      self.guard,
      self.output,
      prefix=b'' if is_direct else b'[%d] ' % assignment.rank,
      direct=is_direct,
    )
    self._note(status=_Beat.RUNNING, generation=assignment.generation)
    self.say(
      f'generation {assignment.generation}: rank {assignment.rank} of'
      f' {assignment.num_hosts}.'
    )
    threading.Thread(target=self._watch, args=(worker,), daemon=True).start()

  def _watch(self, worker: ProcessGroup) -> None:
    worker.wait()
    self._events.put(functools.partial(self._on_exit, worker))

  def _on_exit(self, worker: ProcessGroup) -> None:
    if worker is not self._worker:
      return  # We have killed it.
    code = worker.reap()
    self._worker = None
    if code:
      self.say(f'the worker {describe_exit(code)}.')
    if self.check is not None and code not in _NO_FAULT:
      self.check.forget()  # Its host may be why.
    tail = worker.tail[-_MAX_TAIL:]
    self._note(status=_Beat.EXITED, exit_code=code, log_tail=tail)
    if self._stop_signal is not None:
      was_killed = code == -signal.SIGKILL
      self._leave(128 + (signal.SIGKILL if was_killed else self._stop_signal))

  def _show_stacks(self) -> None:
    """Has a worker that hangs print where each of its threads is.

    Python does so at SIGABRT under PYTHONFAULTHANDLER, and ends.
    """
    worker = self._worker
    if worker is None:
      return
    self.say('the worker hangs; its threads are at:')
    with contextlib.suppress(ProcessLookupError):
      worker.send(signal.SIGABRT)
    deadline = time.monotonic() + _STACKS_S
    while time.monotonic() < deadline and not worker.has_exited():
      time.sleep(_POLL_S)

  def _kill(self) -> None:
    """Kills the worker and all that it has started."""
    worker, self._worker = self._worker, None
    if worker is not None:
      worker.kill()
      worker.reap()

  # --- What this host says. ---------------------------------------------------

  def _on_signal(self, number: int) -> None:
    if self._stop_signal is not None:
      if number == signal.SIGINT:
        self.say('asked twice; killing the worker.')
        self._kill()
        self._leave(128 + signal.SIGKILL, flush_s=0.0)
      return
    # A lost terminal is a polite request to end.
    self._stop_signal = (
      signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
    )
    self._note(status=self._said.status)  # From now on without a port.
    if self._worker is None:
      self._leave(128 + self._stop_signal)
      return
    self.say(
      f'passing {describe_signal(self._stop_signal)} on; the worker may save.'
    )
    if number != signal.SIGINT:
      self._kill_at = time.monotonic() + self.grace_s
    self._worker.send(self._stop_signal)

  def _leave(self, code: int, flush_s: float = _FLUSH_S) -> None:
    """Ends `run`, and tries to say good-bye."""
    if self._stop_signal is None:
      self._stop_signal = signal.SIGTERM
    self._flush(flush_s)  # How the worker ended.
    self._note(status=_Beat.IDLE, exit_code=self._said.exit_code)
    self._flush(flush_s)
    self._exit_code = EXIT_PREEMPTED if self._is_preempted else code

  def _note(self, **fields: Any) -> None:
    """Sets what the next beat says, and sends it now."""
    with self._changed:
      # The generation that runs or ran last stays.
      self._said = _Beat(**{'generation': self._said.generation, **fields})
      self._version += 1
      self._changed.notify_all()

  def _flush(self, wait_s: float) -> None:
    """Waits until the coordinator knows how things are."""
    with self._changed:
      self._changed.wait_for(
        lambda: self._is_over or self._reported >= self._version, wait_s
      )

  def _beat(self) -> None:
    """Sends beats until the end; runs in a thread of its own."""
    answered, next_s = time.monotonic(), _QUIET_S
    resources, measured = pb.Resources(), float('-inf')
    port = 0
    while True:
      if time.monotonic() - measured > _RESOURCES_S:
        resources, measured = self._resources(), time.monotonic()
      with self._changed:
        if self._is_over:
          return
        version = self._version
        request = _Beat(
          address=self.address,
          resources=resources,
          min_hosts=self.min_hosts,
          max_hosts=self.max_hosts,
        )
        request.MergeFrom(self._said)
      if self.check is not None:
        request.check.CopyFrom(self.check.message())
      try:
        if request.status == _Beat.IDLE or not port:
          port = host_sockets.free_port(self.address)
        request.free_port = 0 if self._stop_signal is not None else port
        reply = self.client.call('AgentBeat', request, give_up_s=_TRY_S)
      except CoordinatorGoneError as error:
        silent_s = time.monotonic() - answered
        if silent_s > self.give_up_s:
          self._fail(f'{error} --give_up_s is over', EXIT_REPLACED)
          return
        if silent_s > next_s:
          self.say(
            f'the coordinator has not answered for {silent_s:.0f} s; going on'
            ' meanwhile.'
          )
          next_s = max(_SAY_S, 2 * next_s)
        continue
      except Exception as error:
        # Whatever it is: an agent that does not beat must not seem to work.
        self._fail(f'{type(error).__name__}: {error}')
        return
      if next_s > _QUIET_S:
        self.say('the coordinator is there again.')
      answered, next_s = time.monotonic(), _QUIET_S
      if self.check is not None:
        self.check.obey(reply)
      self._events.put(functools.partial(self._on_reply, request, reply))
      with self._changed:
        self._reported = version
        self._changed.notify_all()
        self._changed.wait_for(
          lambda: self._is_over or self._version > version,
          max(self.beat_s, reply.beat_s),
        )

  def _fail(self, message: str, code: int = 1) -> None:
    def end() -> None:
      self.say(f'{message.rstrip(".")}; leaving.')
      self._kill()
      self._exit_code = code

    with self._changed:
      self._is_over = True
      self._changed.notify_all()
    self._events.put(end)

  def _resources(self) -> pb.Resources:
    memory = psutil.virtual_memory()
    rss = 0
    if (pid := self.worker_pid) is not None:
      with contextlib.suppress(psutil.Error):
        rss = psutil.Process(pid).memory_info().rss
    return pb.Resources(
      cpu_share=psutil.cpu_percent() / 100,
      rss_bytes=rss,
      memory_bytes=memory.total,
    )
