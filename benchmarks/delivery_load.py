# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Clients of a server, over HTTP and gRPC, that cost little processor time.

Each connection sends its next request once it is answered. Those of gRPC write
the frames of HTTP/2 themselves: a call of grpcio takes more time than the
server's answer.
"""

import asyncio
from collections.abc import Callable, Sequence
import functools
import os
import time
from typing import Any

from google.protobuf.wrappers_pb2 import BytesValue
import numpy as np
import psutil
import uvloop


class Client(asyncio.Protocol):
  """A connection that sends its next request once it is answered.

  Attributes:
    waits: Seconds from each request to its whole reply.
    ended: Done when it has stopped at `until`, or failed.
  """

  hello = b''

  def __init__(self, requests: Sequence[bytes], turn: int, until: float):
    self._requests, self._turn, self._until = requests, turn, until
    self.waits: list[float] = []
    self.ended = asyncio.get_running_loop().create_future()
    self._reply = b''

  def connection_made(self, transport: Any) -> None:
    self._transport = transport
    transport.write(self.hello)
    self._ask()

  def connection_lost(self, exc: Exception | None) -> None:
    self._end(f'the connection is lost: {exc}')

  def _answered(self, trouble: str) -> None:
    self.waits.append(time.perf_counter() - self._start)
    if trouble:
      self._end(trouble)
    elif time.perf_counter() < self._until:
      self._ask()
    else:
      self._end()
      self._transport.close()

  @staticmethod
  def request(body: bytes) -> bytes:
    """What is sent of a request's JSON."""
    raise NotImplementedError

  def _ask(self) -> None:
    self._turn += 7
    self._start = time.perf_counter()
    self._transport.write(self._next(self._turn % len(self._requests)))

  def _next(self, number: int) -> bytes:
    return self._requests[number]

  def _end(self, trouble: str = '') -> None:
    if not self.ended.done():
      if trouble:
        self.ended.set_exception(RuntimeError(trouble))
      else:
        self.ended.set_result(None)


class Http(Client):
  """Over HTTP/1.1."""

  @staticmethod
  def request(body: bytes) -> bytes:
    """What is sent."""
    return (
      b'POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application'
      b'/json\r\nContent-Length: %d\r\n\r\n' % len(body) + body
    )

  def data_received(self, data: bytes) -> None:
    self._reply += data
    head, _, body = self._reply.partition(b'\r\n\r\n')
    size = head.lower().partition(b'content-length: ')[2].partition(b'\r')[0]
    if not size or len(body) < int(size):
      return
    said, self._reply = self._reply, b''
    is_good = head.startswith(b'HTTP/1.1 200')
    self._answered('' if is_good else f'the server said {said[:200]!r}')


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
  head = len(payload).to_bytes(3) + bytes([kind, flags])
  return head + stream.to_bytes(4) + payload


def _field(name: bytes, value: bytes) -> bytes:
  """A header of HPACK, literal and not indexed."""
  return b'\0' + bytes([len(name)]) + name + bytes([len(value)]) + value


class Grpc(Client):
  """Over gRPC, one call after another on a connection."""

  # Settings: a window of 2^31 - 1 for a stream; then that of the connection.
  hello = (
    b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
    + _frame(4, 0, 0, b'\0\x04\x7f\xff\xff\xff')
    + _frame(8, 0, 0, (2**31 - 65_536).to_bytes(4))
  )
  method = b'/antjax.Serve/Score'

  @staticmethod
  def request(body: bytes) -> bytes:
    """What is sent as data."""
    message = BytesValue(value=body).SerializeToString()
    return b'\0' + len(message).to_bytes(4) + message

  def _next(self, number: int) -> bytes:
    stream = 2 * len(self.waits) + 1
    return self._call(stream) + _frame(0, 1, stream, self._requests[number])

  @classmethod
  def _call(cls, stream: int) -> bytes:
    """Headers that begin a call."""
    fields = (
      (b':method', b'POST'),
      (b':scheme', b'http'),
      (b':path', cls.method),
      (b':authority', b'localhost'),
      (b'te', b'trailers'),
      (b'content-type', b'application/grpc'),
    )
    return _frame(1, 4, stream, b''.join(_field(*x) for x in fields))

  def data_received(self, data: bytes) -> None:
    self._reply += data
    while len(self._reply) >= 9:
      size, kind, flags = int.from_bytes(self._reply[:3]), *self._reply[3:5]
      if len(self._reply) < 9 + size:
        return
      payload, self._reply = self._reply[9 : 9 + size], self._reply[9 + size :]
      if kind == 0:
        self._take(payload)
      elif kind == 1 and flags & 1:  # Trailers.
        trouble = '' if self._got else f'no reply but {payload[:200]!r}'
        self._got = False
        self._answered(trouble)
      elif kind in (4, 6) and not flags & 1:  # Settings and pings.
        payload = payload if kind == 6 else b''
        self._transport.write(_frame(kind, 1, 0, payload))
      elif kind in (3, 7):
        self._end(f'the server ended it: {payload[:200]!r}')

  _got = False

  def _take(self, payload: bytes) -> None:
    self._got = True


class GrpcStream(Grpc):
  """Over gRPC, all of a connection on one call."""

  method = b'/antjax.Serve/ScoreStream'
  _message = b''

  def _next(self, number: int) -> bytes:
    head = b'' if self.waits else self._call(1)
    return head + _frame(0, 0, 1, self._requests[number])

  def _take(self, payload: bytes) -> None:
    self._message += payload
    size = 5 + int.from_bytes(self._message[1:5])
    if len(self._message) >= max(size, 5):
      self._message = b''
      self._answered('')


def run(
  kind: type[Client],
  bodies: Sequence[bytes],
  port: int,
  connections: int,
  seconds: float,
  server: psutil.Process,
) -> dict[str, float]:
  """Rates and waits of so many clients, and processor time a request."""
  requests = [kind.request(body) for body in bodies]

  async def all_clients(seconds: float) -> list[float]:
    until, loop = time.perf_counter() + seconds, asyncio.get_running_loop()
    makes: list[Callable[[], Any]] = [
      functools.partial(kind, requests, i, until) for i in range(connections)
    ]
    clients = [
      (await loop.create_connection(make, '127.0.0.1', port))[1]
      for make in makes
    ]
    await asyncio.gather(*(one.ended for one in clients))
    return [wait for one in clients for wait in one.waits]

  def cpu_s() -> float:
    times = [x.cpu_times() for x in (server, *server.children(recursive=True))]
    return sum(x.user + x.system for x in times)

  uvloop.run(all_clients(2))  # Warm-up.
  start, cpu, own = time.perf_counter(), cpu_s(), time.process_time()
  waits = uvloop.run(all_clients(seconds))
  count, took = len(waits), time.perf_counter() - start
  p50, p99 = np.percentile(waits, [50, 99]) * 1e3
  return {
    'requests_per_s': count / took,
    'server_cpu_ms': 1e3 * (cpu_s() - cpu) / count,
    'client_cpu_ms': 1e3 * (time.process_time() - own) / count,
    'p50_ms': float(p50),
    'p99_ms': float(p99),
    'load_average_after': os.getloadavg()[0],
  }
