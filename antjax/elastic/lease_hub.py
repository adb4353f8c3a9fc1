# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Leases for the prefetch processes of a worker, through the worker itself.

grain's `mp_prefetch` sends the data set to processes that each read a part of
it. There `RemoteLeases` replaces the worker's lease queue: it asks a `Hub` in
the worker's process over a local socket. So the coordinator sees one client a
worker, and a pass is one pass for all its processes.

Messages are a letter and bytes; no pickle. A prefetch process begins passes
('B'), takes leases ('T') and reports ('R'); only 'B' and 'T' are answered.
"""

import contextlib
import dataclasses
import json
from multiprocessing import connection
import secrets
import socket
import threading
from typing import Any

from absl import logging

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import CoordinatorGoneError, StaleError
from antjax.elastic.lease_queue import LeaseQueue
from antjax.elastic.protocol import ended_shards, key_of

_ERRORS: dict[str, type[Exception]] = {
  error.__name__: error
  for error in (
    CoordinatorGoneError,
    LookupError,
    PermissionError,
    StaleError,
    ValueError,
  )
}


@dataclasses.dataclass
class _Group:
  """The prefetch processes of one iterator.

  grain does not say which iterator a process is of. An index that comes again
  is of a later one, and so are all that are made after one was ended early.
  """

  # Index of each process among them, once it has begun.
  members: set[int] = dataclasses.field(default_factory=set)
  end: int | None = None  # Tickets from here on are later; None: not known yet.
  round: int = 0  # How often its processes were set to a position.
  state: str = ''  # The position that the pass began at.
  number: int = 0  # Number of the pass.


@dataclasses.dataclass(eq=False)
class _Process:
  """A prefetch process as the hub knows it."""

  connection: Any
  group: _Group | None = None
  number: int = 0  # Number of the pass it reads; 0: none now.
  is_at_end: bool = False
  held: dict[tuple[int, int], pb.Lease] = dataclasses.field(
    default_factory=dict
  )


class Hub:
  """Serves the prefetch processes of one data set from its lease queue."""

  def __init__(self, leases: LeaseQueue):
    """Listens on a local socket, for whoever has the key."""
    self._leases = leases
    self._key = secrets.token_bytes(32)
    self._listener = connection.Listener(family='AF_UNIX', authkey=self._key)
    self._lock = threading.Lock()
    self._num_tickets = 0
    self._group = _Group(end=0)
    self._processes: list[_Process] = []
    self._is_closed = False
    threading.Thread(target=self._accept, name='hub', daemon=True).start()

  def ticket(self) -> tuple[Any, bytes, int]:
    """What a `RemoteLeases` needs; one for each process, in order."""
    with self._lock:
      self._num_tickets += 1
      return self._listener.address, self._key, self._num_tickets - 1

  def close(self) -> None:
    """Serves no more; again changes nothing."""
    if self._is_closed:
      return
    self._is_closed = True
    # Wakes the thread that accepts. It may have ended already: no handshake.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as waking:
      waking.settimeout(1.0)
      waking.connect(self._listener.address)
    self._listener.close()
    for process in list(self._processes):
      self._leave(process)

  def _accept(self) -> None:
    while not self._is_closed:
      try:
        accepted = self._listener.accept()
      except Exception as error:  # A process that died in the handshake.
        if not self._is_closed:
          logging.warning('A prefetch process did not connect: %s', error)
        continue
      threading.Thread(
        target=self._serve, args=(accepted,), name='hub', daemon=True
      ).start()

  def _serve(self, accepted: Any) -> None:
    process = _Process(accepted)
    with self._lock:
      self._processes.append(process)
    try:
      while not self._is_closed:
        message = accepted.recv_bytes()
        letter, body = message[:1], message[1:]
        if letter != b'R':
          accepted.send_bytes(self._reply(process, letter, body))
        elif process.number:
          self._report(process, pb.ExchangeRequest.FromString(body))
    except (EOFError, OSError):
      pass  # It has ended.
    finally:
      accepted.close()
      self._leave(process)

  def _reply(self, process: _Process, letter: bytes, body: bytes) -> bytes:
    try:
      if letter == b'B':
        self._begin(process, **json.loads(body))
        return b'K'
      return b'K' + self._take(process).SerializeToString()
    except Exception as error:  # Raised again in the prefetch process.
      text = {'error': type(error).__name__, 'text': str(error)}
      return b'E' + json.dumps(text).encode()

  def _begin(
    self,
    process: _Process,
    ticket: int,
    index: int,
    round_number: int,
    state: str,
  ) -> None:
    """Joins the pass of the process's group, or begins it."""
    with self._lock:
      process.held, process.is_at_end, process.number = {}, False, 0
      group = process.group
      if group is None:
        newest = self._group
        is_later = newest.end is not None and ticket >= newest.end
        if is_later or index in newest.members:
          self._group = newest = _Group()
        group = process.group = newest
        group.members.add(index)
      self._check_newest(process)
      if round_number < group.round:
        return  # The next position is on the way to it.
      if round_number > group.round:
        group.number = self._leases.begin(state.encode())
        group.round, group.state = round_number, state
      elif state != group.state:
        raise ValueError(
          'mp_prefetch: its processes were set to different positions; give'
          ' all of them one that merge_states has made.'
        )
      process.number = group.number

  def _take(self, process: _Process) -> pb.ExchangeReply:
    reply = pb.ExchangeReply(outcome=pb.ExchangeReply.FINISHED)
    with self._lock:
      self._check_newest(process)
      others = [one for one in self._processes if one is not process]
      number = process.number
    if not number:
      return reply
    # grain takes from its processes in turn. One that waited for another of
    # them, which waits for its turn, would wait forever: it ends.
    may_wait = not any(one.held for one in others if one.number == number)
    lease, is_waiting, first_open = self._leases.take(number, may_wait=may_wait)
    reply.first_open_epoch = first_open
    if is_waiting:
      reply.outcome = pb.ExchangeReply.WAIT
    process.is_at_end = lease is None
    if lease is not None:
      reply.leases.append(lease)
      process.held[key_of(lease.shard)] = lease
    return reply

  def _check_newest(self, process: _Process) -> None:
    if process.group is not self._group:
      raise RuntimeError(
        'LeasedDataset: a newer iterator of this data set leases its shards'
        ' now; close an iterator before the next one, and set its state before'
        ' its first element.'
      )

  def _report(self, process: _Process, news: pb.ExchangeRequest) -> None:
    for lease in news.progress:
      process.held[key_of(lease.shard)] = lease
    for shard in ended_shards(news):
      process.held.pop(key_of(shard), None)
    self._leases.report(process.number, news)

  def _leave(self, process: _Process) -> None:
    """Gives back what a process held; its iterator has come to its end."""
    with self._lock:
      if process in self._processes:
        self._processes.remove(process)
      group = process.group
      if group is not None and group.end is None and not process.is_at_end:
        group.end = self._num_tickets
      number, process.number = process.number, 0
      held, process.held = process.held, {}
    if held:
      self._leases.report(number, pb.ExchangeRequest(returned=held.values()))


class RemoteLeases:
  """The lease queue of the worker, from one of its prefetch processes."""

  def __init__(self, address: Any, key: bytes, ticket: int):
    """Connects with the first `begin`, to a hub that gave this `ticket`."""
    self._address, self._key, self._ticket = address, key, ticket
    self.index = 0  # Which of the prefetch processes this is.
    self._number = 0
    self._connection: Any = None

  def begin(self, state: bytes, round_number: int) -> int:
    """See `LeaseQueue`."""
    if self._connection is None:
      self._connection = connection.Client(self._address, authkey=self._key)
    fields = {
      'ticket': self._ticket,
      'index': self.index,
      'round_number': round_number,
      'state': state.decode(),
    }
    self._ask(b'B' + json.dumps(fields).encode())
    self._number = round_number
    return round_number

  def take(self, number: int) -> tuple[pb.Lease | None, bool, int]:
    """See `LeaseQueue`."""
    del number  # A process has one pass at a time.
    reply = pb.ExchangeReply.FromString(self._ask(b'T'))
    lease = reply.leases[0] if reply.leases else None
    is_waiting = reply.outcome == pb.ExchangeReply.WAIT
    return lease, is_waiting, reply.first_open_epoch

  def report(self, number: int, news: pb.ExchangeRequest) -> None:
    """See `LeaseQueue`."""
    if number == self._number:
      self._connection.send_bytes(b'R' + news.SerializeToString())

  def close(self) -> None:
    """Disconnects; what is held goes back."""
    if self._connection is not None:
      self._connection.close()

  def _ask(self, message: bytes) -> bytes:
    self._connection.send_bytes(message)
    reply = self._connection.recv_bytes()
    if reply[:1] == b'K':
      return reply[1:]
    error = json.loads(reply[1:])
    raise _ERRORS.get(error['error'], RuntimeError)(error['text'])
