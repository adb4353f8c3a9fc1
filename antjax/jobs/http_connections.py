# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 connections, bounded in time, size and number.

httptools parses: a request costs a quarter of what it costs aiohttp's server
(docs/delivery.md). A connection's requests are answered in order, one at a
time; while one is open, or a reply is not read, nothing more is read from it.

| a client that | |
|---|---|
| sends no whole request in `client_s` | status 408, closed |
| does not read its replies for `client_s` | aborted |
| is idle between requests for `idle_s` | closed |
| comes when all places are taken | takes that of the one longest idle, if it \
has been idle for a second; else one of a few further places, only for \
`always_answered` paths, for 2 s |
"""

import asyncio
import collections
from collections.abc import Callable, Collection, Mapping
import functools
import http
import math
import ssl
import time
from typing import cast, NamedTuple

import httptools

_SWEEP_S = 0.2
_IDLE_S = 75.0
_MAX_HEAD = 16 << 10  # Bytes of a request before its body.
_SURPLUS, _SURPLUS_S = 32, 2.0  # Connections beyond the bound; their time.
_LEAST_IDLE_S = 1.0  # Before another connection may take the place.
JSON = 'application/json'
_LINES = {
  s.value: f'HTTP/1.1 {s.value} {s.phrase}\r\n' for s in http.HTTPStatus
}


class HttpCall(NamedTuple):
  """A request that came whole.

  Attributes:
    method: Such as 'POST'.
    path: Without the query.
    headers: By name in lower case.
    body: As it was sent.
    is_kept: Whether the connection stays open.
  """

  method: str
  path: str
  headers: Mapping[str, str]
  body: bytes
  is_kept: bool


class Reply(NamedTuple):
  """An answer."""

  status: int
  body: bytes
  content_type: str = JSON
  headers: Mapping[str, str] = {}


# Answers a request at once or later, with what it is given.
Answer = Callable[[HttpCall, Callable[[Reply], None]], None]
# A refusal of the connection itself: status and text to a reply.
Refuse = Callable[[int, str], Reply]


class Bounds(NamedTuple):
  """Bounds of connections.

  Attributes:
    connections: At once.
    body_bytes: Bytes of a body.
    client_s: Seconds for a client to send a request or to read a reply.
    idle_s: Seconds between two requests of a connection.
    always_answered: Paths that are answered beyond `connections` too.
  """

  connections: int
  body_bytes: int
  client_s: float = 10.0
  idle_s: float = _IDLE_S
  always_answered: Collection[str] = ()


class Listener:
  """Listens, and holds the connections."""

  def __init__(self, answer: Answer, refuse: Refuse, limits: Bounds):
    """Listens to nothing yet."""
    self.answer, self.refuse, self.limits = answer, refuse, limits
    self.connections: set[Connection] = set()
    self._server: asyncio.Server | None = None
    self._sweeping: asyncio.Task[None] | None = None

  async def start(
    self,
    address: str,
    port: int,
    tls: ssl.SSLContext | None,
    is_shared: bool = False,
  ) -> int:
    """Listens; returns the port. `is_shared`: with other processes.

    Raises:
      OSError: The port is taken.
    """
    self._server = await asyncio.get_running_loop().create_server(
      lambda: Connection(self),
      *(address, port),
      ssl=tls,
      ssl_handshake_timeout=self.limits.client_s if tls else None,
      backlog=1024,
      reuse_port=is_shared or None,
    )
    self._sweeping = asyncio.create_task(self._sweep())
    return self._server.sockets[0].getsockname()[1]

  def stop_listening(self) -> None:
    """Takes no more connections."""
    if self._server is not None:
      self._server.close()

  def close(self) -> None:
    """Ends all connections."""
    self.stop_listening()
    if self._sweeping is not None:
      self._sweeping.cancel()
    for one in [*self.connections]:
      one.close()

  def is_surplus(self) -> bool | None:
    """Whether a new connection has no place; None: and is not heard at all."""
    surplus = len(self.connections) - self.limits.connections
    if surplus < 0:
      return False
    now_s = time.monotonic()
    idle = [c for c in self.connections if now_s - c.idle_since_s > 0]
    first = min(idle, key=lambda c: c.idle_since_s, default=None)
    if first is not None and now_s - first.idle_since_s > _LEAST_IDLE_S:
      first.abort()
      return False
    return True if surplus < _SURPLUS else None

  async def _sweep(self) -> None:
    while True:
      await asyncio.sleep(_SWEEP_S)
      now_s = time.monotonic()
      for one in [c for c in self.connections if c.deadline_s < now_s]:
        one.expire()


class Connection(asyncio.Protocol):
  """One connection.

  Attributes:
    deadline_s: Monotonic time at which it ends unless the client acts.
    idle_since_s: Since when it waits for a request; infinite: it does not.
  """

  def __init__(self, listener: Listener):
    self._listener, self._limits = listener, listener.limits
    self._parser = httptools.HttpRequestParser(self)
    self._calls: collections.deque[HttpCall] = collections.deque()
    self._refusal: Reply | None = None  # Of what comes behind the calls.
    # A call is answered; replies are not read; no data is taken.
    self._is_open = self._is_unread = self._is_paused = False
    self._is_surplus = self._is_last = False
    self._has_head = self._has_begun = False
    self._num_bytes = 0  # Of the request that is being read.
    self._last_s = math.inf
    self.deadline_s = self.idle_since_s = math.inf

  def connection_made(self, transport: asyncio.BaseTransport) -> None:
    """See the base class."""
    # That of uvloop derives from no class of asyncio.
    self._transport = cast(asyncio.Transport, transport)
    is_surplus = self._listener.is_surplus()
    self._listener.connections.add(self)
    self._is_surplus = is_surplus is not False
    self.idle_since_s = time.monotonic()
    self.deadline_s = self.idle_since_s + self._limits.client_s
    if is_surplus:
      self.deadline_s = self._last_s = self.idle_since_s + _SURPLUS_S
    elif is_surplus is None:
      self._full()

  def connection_lost(self, exc: Exception | None) -> None:
    """See the base class."""
    self._listener.connections.discard(self)
    self._is_last = True
    self._calls.clear()

  def data_received(self, data: bytes) -> None:
    """See the base class."""
    if self._is_last or self._refusal is not None:
      return
    self._num_bytes += len(data)
    try:
      self._parser.feed_data(data)
    except httptools.HttpParserUpgrade:
      pass  # It is answered as HTTP/1.1, and what follows is not read.
    except httptools.HttpParserError as error:
      self._refuse(400, f'this is no HTTP/1.1: {error}')
    if not self._has_head and self._num_bytes > _MAX_HEAD:
      self._refuse(431, f'the headers have more than {_MAX_HEAD} bytes')
    self._proceed()

  # Of httptools, in this order.

  def on_message_begin(self) -> None:
    """A request begins."""
    self._url, self._body = b'', list[bytes]()
    self._headers: dict[str, str] = {}
    self._has_head, self._has_begun, self._body_bytes = False, True, 0
    self._settle()

  def on_url(self, url: bytes) -> None:
    """A part of what is asked for."""
    self._url += url

  def on_header(self, name: bytes, value: bytes) -> None:
    """A header."""
    self._headers[name.decode('latin-1').lower()] = value.decode('latin-1')

  def on_headers_complete(self) -> None:
    """The body is next."""
    self._has_head = True
    if self._headers.get('expect', '').lower() == '100-continue':
      self._transport.write(b'HTTP/1.1 100 Continue\r\n\r\n')

  def on_body(self, body: bytes) -> None:
    """A part of the body."""
    self._body_bytes += len(body)
    if self._body_bytes <= self._limits.body_bytes:
      self._body.append(body)
    else:
      self._body.clear()
      self._refuse(413, f'at most {self._limits.body_bytes} bytes are read')

  def on_message_complete(self) -> None:
    """The request is whole."""
    if self._is_last or self._refusal is not None:
      return
    self._num_bytes, self._has_begun = 0, False
    # 1.0 would have to be told that the connection stays.
    is_kept = self._parser.get_http_version() != '1.0'
    is_kept &= self._parser.should_keep_alive() and not self._is_surplus
    is_kept &= not self._parser.should_upgrade()
    path = self._url.partition(b'?')[0].decode('latin-1')
    method = self._parser.get_method().decode()
    self._calls.append(
      HttpCall(method, path, self._headers, b''.join(self._body), is_kept)
    )

  # Time and room.

  def pause_writing(self) -> None:
    """See the base class: replies are not read."""
    self._is_unread = True
    self._settle()

  def resume_writing(self) -> None:
    """See the base class: they are read again."""
    self._is_unread = False
    self._settle()
    self._proceed()

  def expire(self) -> None:
    """Ends a connection whose time is over."""
    if self._is_last or self._is_unread:
      self.abort()
    elif self._is_surplus:
      self._full()
    elif self._has_begun:
      self._refuse(408, f'no whole request in {self._limits.client_s:g} s')
    else:
      self.close()

  def abort(self) -> None:
    """Ends the connection at once."""
    self._listener.connections.discard(self)
    self._is_last = True
    self._transport.abort()

  def close(self) -> None:
    """Ends the connection when what was written is read, or soon."""
    self._is_last = True
    self._settle()
    self._transport.close()

  def _settle(self) -> None:
    """Says until when the client has to act."""
    now_s = time.monotonic()
    self.idle_since_s, left_s = math.inf, self._limits.client_s
    if not (self._is_unread or self._has_begun or self._is_last):
      self.idle_since_s, left_s = now_s, self._limits.idle_s
    if self._is_open and not (self._is_unread or self._is_last):
      self.idle_since_s, left_s = math.inf, math.inf
    self.deadline_s = min(now_s + left_s, self._last_s)

  def _proceed(self) -> None:
    """Answers what has come, if the answer before is sent and read."""
    while self._calls and not (self._is_open or self._is_unread):
      call = self._calls.popleft()
      if self._is_surplus and call.path not in self._limits.always_answered:
        self._full()
        return
      self._is_open = True
      self._settle()
      self._listener.answer(call, functools.partial(self._send, call))
    if self._is_last:
      return
    if self._refusal is not None and not (self._is_open or self._is_unread):
      self._write(self._refusal, False)
    elif self._is_open or self._is_unread:
      if not self._is_paused and (self._calls or self._has_begun):
        self._transport.pause_reading()
        self._is_paused = True
    elif self._is_paused:
      self._transport.resume_reading()
      self._is_paused = False

  def _send(self, call: HttpCall, reply: Reply) -> None:
    """Writes an answer, and takes the next request."""
    if self._is_last:
      return
    self._is_open = False
    self._settle()
    self._write(reply, call.is_kept, call.method != 'HEAD')
    if self._is_paused:
      asyncio.get_running_loop().call_soon(self._proceed)

  def _write(self, reply: Reply, is_kept: bool, has_body: bool = True) -> None:
    head = (
      f'{_LINES[reply.status]}Content-Type: {reply.content_type}\r\n'
      f'Content-Length: {len(reply.body)}\r\n'
    )
    for name, value in reply.headers.items():
      head += f'{name}: {value}\r\n'
    head += '\r\n' if is_kept else 'Connection: close\r\n\r\n'
    data = head.encode('latin-1')
    self._transport.write(data + reply.body if has_body else data)
    if not is_kept:
      self.close()

  def _refuse(self, status: int, text: str) -> None:
    """Refuses what cannot be read; what follows cannot be told from it."""
    if not self._is_last and self._refusal is None:
      reply = self._listener.refuse(status, text)
      if self._is_open or self._calls:
        self._refusal = reply
      else:
        self._write(reply, False)

  def _full(self) -> None:
    self._calls.clear()
    self._refuse(503, 'there are too many connections; come again')
