# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's status page: HTTP for people, scripts and Prometheus.

| path | |
|---|---|
| `/` | the page; it asks for `status.json` every second |
| `/status.json` | what `status.Snapshots` says |
| `/metrics` | the same for Prometheus |
| `/healthz` | `ok`, without a token |

It only reads. It shares the event loop with the service, so that a snapshot
sees no half of a change, and takes one a second at most, however many ask.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import hmac
import importlib.resources
import json
import logging as std_logging
import ssl
import time
from typing import Any

from absl import logging
from aiohttp import http_exceptions, web

from antjax.elastic import metrics_export, security

_MAX_LINE_BYTES = 8190
_MAX_HEADERS = 64
_MAX_FIELDS = 8
_HEAD_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 15.0
_CLOSE_TIMEOUT_S = 2.0
_MAX_AGE_S = 0.9  # Age of a snapshot: one poll a second gets a new one.
_MIN_GZIP_BYTES = 1024
_NO_LOG = std_logging.Logger('status page', std_logging.WARNING)
NOT_OWN_NAME = 'Without a token only as localhost or 127.0.0.1, by that name.'
_NO_REQUEST = 'Not an HTTP/1.1 request.'
_HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'Server': 'antjax',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
}


def _page() -> tuple[str, str]:
  """Returns the page and the policy that lets nothing but it run."""
  files = importlib.resources.files('antjax.elastic')
  texts = {
    kind: files.joinpath(f'status_page.{kind}').read_text(encoding='utf-8')
    for kind in ('html', 'css', 'js')
  }
  digests = {
    kind: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    for kind, text in texts.items()
  }
  page = texts['html'].replace('{style}', texts['css'])
  page = page.replace('{script}', texts['js'])
  policy = (
    f"default-src 'none'; style-src 'sha256-{digests['css']}'; "
    f"script-src 'sha256-{digests['js']}'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
  )
  return page, policy


@dataclasses.dataclass(eq=False, repr=False)
class StatusPage:
  """Serves the status on an event loop."""

  snapshot_fn: Callable[[], dict[str, Any]]  # Called on the loop.
  _: dataclasses.KW_ONLY
  address: str = '127.0.0.1'  # One other than loopback needs a token.
  port: int = 0  # 0 picks a free one, which it is after `start`.
  # Who asks must show it, as `Authorization: Bearer` or, once, as `?token=`;
  # empty: whoever reaches the address may look.
  token: str = ''
  tokens: Callable[[], Sequence[str]] = tuple  # More of them, as of now.
  tls: ssl.SSLContext | None = None  # For HTTPS.
  is_insecure: bool = False  # Other machines may look without a token.
  max_connections: int = 64  # At once; more are told to retry.
  clock: Callable[[], float] = time.monotonic

  def __post_init__(self) -> None:
    if not (
      self._tokens() or self.is_insecure or security.is_loopback(self.address)
    ):
      raise ValueError(
        f'StatusPage(address={self.address!r}): other machines would read it '
        'without a token. Give a token, or listen on 127.0.0.1 and come '
        'through ssh -L.'
      )
    self._connections: dict[_Connection, None] = {}
    self._page, self._policy = _page()
    self._max_age_s = _MAX_AGE_S
    self._taken_s, self._snapshot = -float('inf'), dict[str, Any]()
    self._server: asyncio.Server | None = None
    self._requests: web.Server | None = None

  async def start(self) -> None:
    """Begins to listen.

    Raises:
      RuntimeError: The port is taken.
    """
    loop = asyncio.get_running_loop()
    requests = web.Server(self._handle)
    self._requests = requests
    try:
      self._server = await loop.create_server(
        lambda: _Connection(
          requests, loop, self._connections, self.max_connections
        ),
        self.address,
        self.port,
        ssl=self.tls,
        ssl_handshake_timeout=_HEAD_TIMEOUT_S if self.tls else None,
      )
    except OSError as error:
      raise RuntimeError(
        f'the status page cannot listen on {self.address}:{self.port}: {error}.'
      ) from error
    self.port = self._server.sockets[0].getsockname()[1]

  @property
  def url(self) -> str:
    """The page's address, without the token."""
    scheme = 'https' if self.tls else 'http'
    host = f'[{self.address}]' if ':' in self.address else self.address
    return f'{scheme}://{host}:{self.port}/'

  async def close(self) -> None:
    """Stops to listen; what is being answered is."""
    if self._server is not None and self._requests is not None:
      self._server.close()
      await self._requests.shutdown(_CLOSE_TIMEOUT_S)
      self._server = self._requests = None

  async def _handle(self, request: web.BaseRequest) -> web.Response:
    connection = request.protocol
    assert isinstance(connection, _Connection)
    connection.hang_up_in(_REPLY_TIMEOUT_S)
    # aiohttp waits for a body, which nobody here reads: that one gives way.
    connection.is_idle = request.body_exists
    if connection.is_surplus:
      reply = _text(503, 'Too many connections; come again.')
    else:
      reply = self._answer(request)
    if 'gzip' in request.headers.get('accept-encoding', ''):
      if (reply.content_length or 0) >= _MIN_GZIP_BYTES:
        reply.enable_compression(web.ContentCoding.gzip)
        reply.headers['Vary'] = 'Accept-Encoding'
    return _last(reply)

  def _answer(self, request: web.BaseRequest) -> web.Response:
    if request.version < (1, 0):
      return _text(400, _NO_REQUEST)
    if request.method not in ('GET', 'HEAD'):
      allowed = {'Allow': 'GET, HEAD'}
      return _text(
        405, 'Only GET and HEAD: this page changes nothing.', allowed
      )
    if len(request.query) > _MAX_FIELDS:
      return _text(400, 'Too many fields in the query.')
    if request.path == '/healthz':
      return _text(200, 'ok')
    if request.path not in ('/', '/status.json', '/metrics'):
      return _text(404, 'Here are /, /status.json, /metrics and /healthz.')
    refused = None
    if self._tokens():
      refused = self._check_token(request)
    elif not self.is_insecure:
      refused = check_host(request)
    return refused or self._show(request.path)

  def _show(self, path: str) -> web.Response:
    if path == '/':
      policy = {'Content-Security-Policy': self._policy}
      return web.Response(
        text=self._page, content_type='text/html', headers=policy
      )
    try:
      snapshot = self._take()
      if path == '/metrics':
        return web.Response(
          body=metrics_export.render(snapshot),
          headers={'Content-Type': metrics_export.CONTENT_TYPE},
        )
      body = json.dumps(
        snapshot, separators=(',', ':'), allow_nan=False, ensure_ascii=False
      )
    # Whatever it is, the service beside the page keeps running.
    except Exception:
      logging.exception('The status page could not take a snapshot.')
      return _text(
        500, 'Could not take a snapshot; the log of the coordinator says why.'
      )
    return web.Response(
      body=body.encode(), headers={'Content-Type': 'application/json'}
    )

  def _take(self) -> dict[str, Any]:
    """Returns a snapshot, the last one if it is new enough."""
    now = self.clock()
    if now - self._taken_s > self._max_age_s:
      self._snapshot = self.snapshot_fn()
      self._taken_s = now
      # One of thousands of workers takes long, and the service waits.
      self._max_age_s = max(_MAX_AGE_S, 20 * (self.clock() - now))
    return self._snapshot

  def _tokens(self) -> list[str]:
    return [*filter(None, [self.token]), *self.tokens()]

  def _check_token(self, request: web.BaseRequest) -> web.Response | None:
    """Returns None where the request shows a token, else what to say."""
    cookie = f'antjax_status_{self.port}'
    kind, _, shown = request.headers.get('authorization', '').partition(' ')
    for token in self._tokens():
      if kind.lower() == 'bearer' and _equal(shown.strip(), token):
        return None
      if _equal(request.cookies.get(cookie, ''), _ticket(token)):
        return None
      if _equal(request.query.get('token', ''), token):
        # Away from the address bar, and from what a browser remembers.
        reply = web.Response(status=303, headers={'Location': request.path})
        reply.set_cookie(
          cookie,
          _ticket(token),
          httponly=True,
          samesite='Lax',
          secure=bool(self.tls),
        )
        return reply
    return _text(
      401,
      'A token is needed: open /?token=TOKEN once, or send '
      '"Authorization: Bearer TOKEN".',
      {'WWW-Authenticate': 'Bearer'},
    )


def _ticket(token: str) -> str:
  """Returns a cookie: not the token itself, which also opens the service."""
  return hmac.digest(token.encode(), b'antjax status page', 'sha256').hex()


def _equal(shown: str, secret: str) -> bool:
  return hmac.compare_digest(
    shown.encode('utf-8', 'replace'), secret.encode('utf-8', 'replace')
  )


def check_host(request: web.BaseRequest) -> web.Response | None:
  """Refuses names that a foreign web page gave this machine's address."""
  host = request.headers.get('host')
  return None if is_own_name(host) else _text(403, NOT_OWN_NAME)


def is_own_name(host: str | None) -> bool:
  """Whether a Host header names this machine; None: it is no browser's."""
  if host is not None and not host.endswith(']'):
    host = host.rpartition(':')[0] or host
  return host is None or security.is_loopback(host)


def _text(
  status: int, text: str, headers: Mapping[str, str] | None = None
) -> web.Response:
  return web.Response(status=status, text=f'{text}\n', headers=headers)


def _last(reply: web.Response) -> web.Response:
  """Gives a reply what all have; the connection ends after it."""
  for name, value in _HEADERS.items():
    reply.headers.setdefault(name, value)
  reply.force_close()
  return reply


class _Connection(web.RequestHandler):
  """One request, within limits of number, size and time."""

  def __init__(
    self,
    server: web.Server,
    loop: asyncio.AbstractEventLoop,
    connections: 'dict[_Connection, None]',
    max_connections: int,
  ):
    super().__init__(
      server,
      loop=loop,
      access_log=_NO_LOG,
      max_line_size=_MAX_LINE_BYTES,
      max_field_size=_MAX_LINE_BYTES,
      max_headers=_MAX_HEADERS,
    )
    self._connections, self._max_connections = connections, max_connections
    self._deadline: asyncio.TimerHandle | None = None
    self.is_idle, self.is_surplus = True, False

  def hang_up_in(self, seconds: float) -> None:
    """Sets how long the connection may still last, whatever it does."""
    if self._deadline is not None:
      self._deadline.cancel()
    if self.transport is not None:
      # Also what a reader that does not read left in the buffer.
      self._deadline = self._loop.call_later(seconds, self.transport.abort)

  def hang_up(self) -> None:
    """Ends it, and lets another one have its place."""
    self._connections.pop(self, None)
    self.hang_up_in(0.0)

  def connection_made(self, transport: asyncio.BaseTransport) -> None:
    super().connection_made(transport)
    self.hang_up_in(_HEAD_TIMEOUT_S)
    if len(self._connections) >= self._max_connections:
      # Who asks nothing gives way: a probe of /healthz must not fail by it.
      idle = next((one for one in self._connections if one.is_idle), None)
      self.is_surplus = idle is None
      if idle is not None:
        idle.hang_up()
    self._connections[self] = None
    if self.is_surplus:  # It is told at once, whatever it would ask.
      self.data_received(b'GET / HTTP/1.0\r\n\r\n')

  def connection_lost(self, exc: BaseException | None) -> None:
    if self._deadline is not None:
      self._deadline.cancel()
    self._connections.pop(self, None)
    super().connection_lost(exc)

  def handle_error(
    self,
    request: web.BaseRequest,
    status: int = 500,
    exc: BaseException | None = None,
    message: str | None = None,
  ) -> web.Response:
    """Answers what is no request, or is too long; see the base class."""
    if status != 400:
      logging.error('The status page failed.', exc_info=exc)
      return _last(_text(500, 'The page failed; the log says why.'))
    # It has no exception class of its own for too many headers.
    if isinstance(exc, http_exceptions.LineTooLong) or (
      message or ''
    ).startswith('Too many headers'):
      return _last(
        _text(
          431,
          f'The head of a request has at most {_MAX_HEADERS} lines of at most '
          f'{_MAX_LINE_BYTES} bytes.',
        )
      )
    return _last(_text(400, _NO_REQUEST))
