# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes changes to jobs durable before any reply reveals them.

Requests are applied one after the other, as they come, on the event loop; a
thread writes what has changed to the journal, with one fsync for all that came
while it wrote the last group. Nobody gets an answer before all that it may rest
on is on disk.
"""

import asyncio
from collections.abc import Callable
from concurrent import futures
import time

from google.protobuf.message import Message

from antjax.elastic.ahead import Ahead
from antjax.elastic.jobs import Jobs, MESSAGES
from antjax.elastic.protocol import Refused
from antjax.shards.journal import Command, Journal

_NUMBER = {kind: number for number, kind in enumerate(MESSAGES)}
# A snapshot is due after so many commands, if they are as large as the last
# one was, twice; or after so many in any case.
_SNAPSHOT_COMMANDS = 20_000
_MOST_COMMANDS = 200_000
_MANY = 4
_GATHER_S = 0.002


def load(journal: Journal) -> Jobs:
  """Returns the jobs that a journal has.

  Raises:
    RuntimeError: The journal is damaged, or of another version.
  """
  snapshot, commands = journal.load()
  try:
    jobs = Jobs(journal.key)
    if snapshot is not None:
      jobs = Jobs.from_bytes(snapshot, journal.key)
    for kind, body, now in commands:
      jobs.apply(MESSAGES[kind].FromString(body), now)
  except (ValueError, LookupError, Refused) as error:
    raise RuntimeError(
      f'Journal({journal.path}): it cannot be replayed: {error}'
    ) from error
  return jobs


class Writer:
  """Applies messages to jobs and stores them; for one event loop."""

  def __init__(
    self,
    jobs: Jobs,
    journal: Journal,
    clock: Callable[[], float] = time.time,
  ):
    """Takes over jobs that `load` made from the journal."""
    self.jobs = jobs  # With what is applied and not on disk yet.
    # Groups, messages and bytes written, and the seconds spent on it.
    self.num_commits = 0
    self.num_changes = 0
    self.num_bytes = 0
    self.commit_s = 0.0
    # Why the journal could not be written; nothing may proceed then.
    self.error: RuntimeError | None = None
    self.has_failed = asyncio.Event()
    self._journal = journal
    self._clock = clock
    self._loop = asyncio.get_running_loop()
    self._thread = futures.ThreadPoolExecutor(1, 'journal')
    self._ahead = Ahead(jobs)
    self._rows: list[Command] = []
    # Who waits for `_rows`, and for those that are being written, if any.
    self._waiting: list[asyncio.Future[None]] = []
    self._writing: list[asyncio.Future[None]] | None = None
    self._last_group = 0
    self._last_snapshot_bytes = 0

  async def answer(self, request: Message, data: bytes) -> bytes:
    """Applies a checked request, of which `data` is the serialized form.

    What takes long and changes nothing is done in a thread before.

    Returns:
      The serialized reply, once it is durable.

    Raises:
      Refused: It changes nothing.
      RuntimeError: The journal could not be written.
    """
    if self.error is not None:
      raise self.error
    parsed = await self._ahead.prepare(request)
    now = self._clock()
    try:
      reply, is_changed = self.jobs.answer(request, now, parsed)
    except Refused:
      await self.settled()
      raise
    if is_changed:
      self._add(request, data, now)
    await self.settled()
    return reply

  def decide(self, message: Message) -> bool:
    """Applies a decision; returns whether it changed anything.

    Nothing waits for it directly; replies that depend on it do.
    """
    if self.error is not None:
      raise self.error
    now = self._clock()
    is_changed = self.jobs.decide(message, now)
    if is_changed:
      self._add(message, message.SerializeToString(), now)
    return is_changed

  async def settled(self) -> None:
    """Returns when all that was applied so far is on disk."""
    waiting = self._waiting if self._rows else self._writing
    if waiting is not None:
      # One each: who hangs up must not cancel the others'.
      done = self._loop.create_future()
      waiting.append(done)
      await done

  async def close(self) -> None:
    """Stores a snapshot and lets go of the journal's thread."""
    try:
      await self.settled()
      body = self.jobs.to_bytes()
      await self._loop.run_in_executor(
        self._thread, self._journal.snapshot, body
      )
    finally:
      self._thread.shutdown()
      self._ahead.close()

  def _add(self, message: Message, data: bytes, now: float) -> None:
    self._rows.append((_NUMBER[type(message)], data, now))
    if len(self._rows) == 1 and self._writing is None:
      self._schedule()

  def _schedule(self) -> None:
    """Writes what has gathered, soon: the more there is to do, the later.

    A group costs about as much as ten requests, so that where many come a short
    wait lets all of them be answered sooner; a single client waits for nobody.
    """
    if self._last_group < _MANY:
      self._loop.call_soon(self._write)
    else:
      self._loop.call_later(_GATHER_S, self._write)

  def _write(self) -> None:
    """Starts to write the group that has gathered."""
    rows, self._rows = self._rows, []
    self._writing, self._waiting = self._waiting, []
    self._last_group = len(rows)
    snapshot = self.jobs.to_bytes() if self._snapshot_is_due() else None
    task = self._loop.run_in_executor(self._thread, self._store, rows, snapshot)
    task.add_done_callback(self._written)

  def _written(self, done: 'asyncio.Future[None]') -> None:
    """Tells all who wait, and starts to write the next group."""
    waiting, self._writing = self._writing or [], None
    error = done.exception()
    if error is not None:
      # What is in memory is ahead of what is on disk: it must not continue.
      self.error = RuntimeError(f'the journal cannot be written: {error}')
      self.has_failed.set()
      waiting += self._waiting
    elif self._rows:
      self._schedule()
    for one in waiting:
      if one.done():
        continue
      if self.error is None:
        one.set_result(None)
      else:
        one.set_exception(self.error)

  def _store(self, rows: list[Command], snapshot: bytes | None) -> None:
    """In the thread: writes a group and, if one is due, a snapshot."""
    began = time.perf_counter()
    self._journal.append(rows)
    if snapshot is not None:
      self._journal.snapshot(snapshot)
      self._last_snapshot_bytes = len(snapshot)
    self.num_commits += 1
    self.num_changes += len(rows)
    self.num_bytes += sum(len(data) for _, data, _ in rows)
    self.commit_s += time.perf_counter() - began

  def _snapshot_is_due(self) -> bool:
    journal = self._journal
    return journal.num_commands >= _MOST_COMMANDS or (
      journal.num_commands >= _SNAPSHOT_COMMANDS
      and journal.num_bytes >= 2 * self._last_snapshot_bytes
    )
