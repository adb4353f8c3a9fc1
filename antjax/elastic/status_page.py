# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's status page: HTTP for people, scripts and Prometheus.

| path | |
|---|---|
| `/` | the page; it asks for `status.json` every second |
| `/status.json` | what `status.snapshot` says |
| `/metrics` | the same for Prometheus |
| `/healthz` | `ok`, without a token |

It only reads. It shares the event loop with the service, so that a snapshot
sees no half of a change, and takes one a second at most, however many ask.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping
import dataclasses
import gzip
import hashlib
import hmac
import http
import importlib.resources
import ipaddress
import json
import ssl
import time
from typing import Any
import urllib.parse

from absl import logging

from antjax.elastic import metrics_export

_MAX_HEAD_BYTES = 16 * 1024
_HEAD_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 15.0
_MAX_AGE_S = 0.9  # Of a snapshot, so that a poll a second finds a new one.
_MIN_GZIP_BYTES = 1024
_TEXT = 'text/plain; charset=utf-8'
_HEADERS = (
  ('Cache-Control', 'no-store'),
  ('Cross-Origin-Resource-Policy', 'same-origin'),
  ('Referrer-Policy', 'no-referrer'),
  ('X-Content-Type-Options', 'nosniff'),
  ('X-Frame-Options', 'DENY'),
  ('Connection', 'close'),
)
_NO_CONTENT = "default-src 'none'; frame-ancestors 'none'"


@dataclasses.dataclass(frozen=True)
class _Reply:
  status: int
  body: bytes
  content_type: str = _TEXT
  headers: tuple[tuple[str, str], ...] = ()
  policy: str = _NO_CONTENT


@dataclasses.dataclass(frozen=True)
class _Request:
  method: str
  path: str
  query: Mapping[str, str]
  headers: Mapping[str, str]


class _Refused(Exception):
  """A request that gets an error; the text says what is wrong with it."""

  def __init__(self, status: int, text: str):
    super().__init__(text)
    self.status = status


def _parse(head: bytes) -> _Request:
  """Reads the head of a request.

  Raises:
    _Refused: it is not one, or asks for what no page here does.
  """
  lines = head.decode('latin-1').split('\r\n')
  parts = lines[0].split(' ')
  if len(parts) != 3 or not parts[2].startswith('HTTP/1.'):
    raise _Refused(400, 'Not an HTTP/1.1 request.')
  method, target, _ = parts
  if method not in ('GET', 'HEAD'):
    raise _Refused(405, 'Only GET and HEAD: this page changes nothing.')
  headers: dict[str, str] = {}
  for line in lines[1:]:
    name, colon, value = line.partition(':')
    if colon:
      headers[name.strip().lower()] = value.strip()
  path, _, query = target.partition('?')
  try:
    fields = urllib.parse.parse_qsl(query, max_num_fields=8)
  except ValueError:
    raise _Refused(400, 'Too many fields in the query.') from None
  return _Request(method, path, dict(fields), headers)


def _page() -> tuple[bytes, str]:
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
  return page.encode(), policy


def _is_loopback(address: str) -> bool:
  try:
    return ipaddress.ip_address(address.strip('[]')).is_loopback
  except ValueError:
    return address == 'localhost'


class StatusPage:
  """Serves the status on an event loop.

  Args:
    snapshot_fn: Returns what `status.snapshot` says; called on the loop.
    address: Where to listen. Not loopback: needs a token.
    port: 0 picks a free one; see `port` after `start`.
    token: Who asks must show it, as `Authorization: Bearer` or, once, as
      `?token=`; empty: whoever reaches the address may look.
    tls: Serves HTTPS with this.
    is_insecure: Other machines may look without a token.
    max_connections: At once; more are told to come again.
    clock: Seconds from any origin.

  Raises:
    ValueError: an address that others reach, without a token.
  """

  def __init__(
    self,
    snapshot_fn: Callable[[], dict[str, Any]],
    *,
    address: str = '127.0.0.1',
    port: int = 0,
    token: str = '',
    tls: ssl.SSLContext | None = None,
    is_insecure: bool = False,
    max_connections: int = 64,
    clock: Callable[[], float] = time.monotonic,
  ):
    if not (token or is_insecure or _is_loopback(address)):
      raise ValueError(
        f'StatusPage(address={address!r}): other machines would read it '
        'without a token. Give a token, or listen on 127.0.0.1 and come '
        'through ssh -L.'
      )
    self._snapshot_fn, self._clock = snapshot_fn, clock
    self._address, self._port, self._tls = address, port, tls
    self._token, self._is_insecure = token, is_insecure
    self._max_connections, self._num_connections = max_connections, 0
    self._page, self._policy = _page()
    self._taken_s, self._snapshot = -float('inf'), dict[str, Any]()
    self._server: asyncio.Server | None = None

  async def start(self) -> None:
    """Begins to listen.

    Raises:
      OSError: the port is taken.
    """
    self._server = await asyncio.start_server(
      self._serve,
      self._address,
      self._port,
      limit=_MAX_HEAD_BYTES,
      ssl=self._tls,
      **({'ssl_handshake_timeout': _HEAD_TIMEOUT_S} if self._tls else {}),
    )
    self._port = self._server.sockets[0].getsockname()[1]

  @property
  def port(self) -> int:
    """Where it listens, after `start`."""
    return self._port

  @property
  def url(self) -> str:
    """The page's address, without the token."""
    scheme = 'https' if self._tls else 'http'
    host = f'[{self._address}]' if ':' in self._address else self._address
    return f'{scheme}://{host}:{self._port}/'

  async def close(self) -> None:
    """Stops to listen; what is being answered is."""
    if self._server is not None:
      self._server.close()
      self._server = None

  async def _serve(
    self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
  ) -> None:
    """Answers one request, within limits of size and time, and hangs up."""
    self._num_connections += 1
    try:
      request, reply = None, _text(503, 'Too many connections; come again.')
      if self._num_connections <= self._max_connections:
        try:
          request = _parse(await _read_head(reader))
          reply = self._answer(request)
        except _Refused as error:
          reply = _text(error.status, str(error))
      writer.write(_format(reply, request))
      async with asyncio.timeout(_REPLY_TIMEOUT_S):
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    except (OSError, EOFError, TimeoutError):
      pass  # They went away, said nothing or do not read; nobody to tell.
    finally:
      # Also what a reader that does not read left in the buffer.
      writer.transport.abort()
      self._num_connections -= 1

  def _answer(self, request: _Request) -> _Reply:
    if request.path == '/healthz':
      return _Reply(200, b'ok\n')
    if request.path not in ('/', '/status.json', '/metrics'):
      raise _Refused(404, 'Here are /, /status.json, /metrics and /healthz.')
    if self._token:
      refused = self._check_token(request)
      if refused is not None:
        return refused
    elif not self._is_insecure:
      self._check_host(request)
    if request.path == '/':
      return _Reply(
        200, self._page, 'text/html; charset=utf-8', policy=self._policy
      )
    try:
      snapshot = self._take()
      if request.path == '/metrics':
        return _Reply(
          200, metrics_export.render(snapshot), metrics_export.CONTENT_TYPE
        )
      body = json.dumps(
        snapshot, separators=(',', ':'), allow_nan=False, ensure_ascii=False
      )
    # Whatever it is, the service beside the page goes on.
    except Exception:
      logging.exception('The status page could not take a snapshot.')
      raise _Refused(
        500, 'Could not take a snapshot; the log of the coordinator says why.'
      ) from None
    return _Reply(200, body.encode(), 'application/json')

  def _take(self) -> dict[str, Any]:
    """Returns a snapshot, the last one if it is new enough."""
    now = self._clock()
    if now - self._taken_s > _MAX_AGE_S:
      self._snapshot = self._snapshot_fn()
      self._taken_s = now
    return self._snapshot

  def _check_token(self, request: _Request) -> _Reply | None:
    """Returns None where the request shows the token, else what to say."""
    # Not the token itself, which may also open the service.
    ticket = hmac.digest(
      self._token.encode(), b'antjax status page', 'sha256'
    ).hex()
    cookie = f'antjax_status_{self._port}'
    kind, _, shown = request.headers.get('authorization', '').partition(' ')
    if kind.lower() == 'bearer' and _equal(shown.strip(), self._token):
      return None
    for part in request.headers.get('cookie', '').split(';'):
      name, _, value = part.strip().partition('=')
      if name == cookie and _equal(value, ticket):
        return None
    if _equal(request.query.get('token', ''), self._token):
      # Away from the address bar, and from what a browser remembers.
      secure = '; Secure' if self._tls else ''
      return _Reply(
        303,
        b'',
        headers=(
          ('Location', request.path),
          (
            'Set-Cookie',
            f'{cookie}={ticket}; Path=/; HttpOnly; SameSite=Lax{secure}',
          ),
        ),
      )
    return dataclasses.replace(
      _text(
        401,
        'A token is needed: open /?token=TOKEN once, or send '
        '"Authorization: Bearer TOKEN".',
      ),
      headers=(('WWW-Authenticate', 'Bearer'),),
    )

  def _check_host(self, request: _Request) -> None:
    """Refuses names that a foreign web page gave this machine's address."""
    host = request.headers.get('host')
    if host is None:  # No browser.
      return
    name = host if host.endswith(']') else host.rpartition(':')[0] or host
    if not _is_loopback(name):
      raise _Refused(
        403, 'Without a token only as localhost or 127.0.0.1, by that name.'
      )


def _equal(shown: str, secret: str) -> bool:
  return hmac.compare_digest(
    shown.encode('utf-8', 'replace'), secret.encode('utf-8', 'replace')
  )


async def _read_head(reader: asyncio.StreamReader) -> bytes:
  """Reads up to the empty line, within a size and a time for all of it.

  Raises:
    _Refused: it is too long.
    EOFError: it ended before.
    TimeoutError: it takes too long, a byte now and then included.
  """
  try:
    async with asyncio.timeout(_HEAD_TIMEOUT_S):
      return (await reader.readuntil(b'\r\n\r\n'))[:-4]
  except asyncio.LimitOverrunError:
    raise _Refused(
      431, f'The head of a request is at most {_MAX_HEAD_BYTES} bytes.'
    ) from None


def _text(status: int, text: str) -> _Reply:
  return _Reply(status, text.encode() + b'\n')


def _format(reply: _Reply, request: _Request | None) -> bytes:
  body, headers = reply.body, [*reply.headers]
  if reply.status == 405:
    headers.append(('Allow', 'GET, HEAD'))
  accepted = request.headers.get('accept-encoding', '') if request else ''
  if len(body) >= _MIN_GZIP_BYTES and 'gzip' in accepted:
    body = gzip.compress(body, 1)
    headers += [('Content-Encoding', 'gzip'), ('Vary', 'Accept-Encoding')]
  headers += [
    ('Content-Type', reply.content_type),
    ('Content-Length', str(len(body))),
    ('Content-Security-Policy', reply.policy),
    *_HEADERS,
  ]
  phrase = http.HTTPStatus(reply.status).phrase
  head = f'HTTP/1.1 {reply.status} {phrase}\r\n' + ''.join(
    f'{name}: {value}\r\n' for name, value in headers
  )
  is_head = request is not None and request.method == 'HEAD'
  return f'{head}\r\n'.encode('latin-1') + (b'' if is_head else body)
