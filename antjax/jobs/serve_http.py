# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model's HTTP service.

| path | |
|---|---|
| `POST /v1/score` | JSON to JSON; the reply names the version of the model |
| `/healthz` | `ok` while the process lives |
| `/readyz` | 200 if requests are answered, or why not |
| `/metrics` | for Prometheus |

If there are tokens, `/v1/score` and `/metrics` need one. Connections, request
sizes and the queue are bounded.
"""

import asyncio
from collections.abc import Callable, Mapping
import json
import ssl
import time
from typing import Any, cast

from absl import logging
from aiohttp import web
import prometheus_client

from antjax.elastic import metrics_export, status_page
from antjax.elastic.security import RoleTokens
from antjax.serving.batcher import Batcher, Full, Served
from antjax.serving.follower import Follower

_BODY_TIMEOUT_S = 10.0
_IDLE_TIMEOUT_S = 75.0
_RETRY_AFTER_S = 1
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_ROWS = (1, 10, 30, 100, 300, 1_000, 3_000, 10_000)


class Metrics:
  """What `/metrics` says, in a registry of its own."""

  def __init__(self) -> None:
    self.registry = prometheus_client.CollectorRegistry()
    all_of = self.registry
    self.requests = prometheus_client.Counter(
      'antjax_serve_requests', 'By status.', ['code'], registry=all_of
    )
    self.seconds = prometheus_client.Histogram(
      'antjax_serve_request_seconds',
      'From the head of a request to its answer.',
      buckets=_SECONDS,
      registry=all_of,
    )
    self.batch_rows = prometheus_client.Histogram(
      'antjax_serve_batch_rows',
      'Rows scored at once.',
      buckets=_ROWS,
      registry=all_of,
    )
    self.waiting = prometheus_client.Gauge(
      'antjax_serve_waiting_rows', 'Rows that wait.', registry=all_of
    )
    self.sequence = prometheus_client.Gauge(
      'antjax_serve_delta_sequence', 'Number of the state.', registry=all_of
    )
    self.event_age = prometheus_client.Gauge(
      'antjax_serve_event_age_seconds',
      'Age of the newest event of the last delta, when it was applied.',
      registry=all_of,
    )
    self.refused = prometheus_client.Gauge(
      'antjax_serve_deltas_refused', 'By kind.', ['kind'], registry=all_of
    )

  def see(self, follower: Follower) -> None:
    """Takes the figures of deltas."""
    self.sequence.set(follower.live.version['sequence'])
    self.event_age.set(follower.age_s)
    for kind, count in follower.state['refused'].items():
      self.refused.labels(kind).set(count)


class Front:
  """Answers requests with a batcher.

  Attributes:
    port: Port that is listened on.
    trouble: Why no request is answered; empty: they are.
  """

  def __init__(
    self,
    served: Served,
    batcher: Batcher,
    metrics: Metrics,
    *,
    address: str,
    port: int,
    max_body_bytes: int,
    max_connections: int,
    tokens: Callable[[], RoleTokens] = RoleTokens,
    tls: ssl.SSLContext | None = None,
    is_insecure: bool = False,
    state: Callable[[], Mapping[str, Any]] = dict,
  ):
    """Listens to nothing yet.

    Args:
      served: The model.
      batcher: Batcher of it.
      metrics: What is counted.
      address: Where to listen.
      port: Port; 0: any.
      max_body_bytes: Size of a request at most.
      max_connections: Connections at once, at most.
      tokens: Tokens as of now.
      tls: For HTTPS.
      is_insecure: Whether names other than localhost may be asked for.
      state: What `/readyz` says besides, JSON-able.
    """
    self._served, self._batcher, self._metrics = served, batcher, metrics
    self._address, self.port, self._tls = address, port, tls
    self._max_connections, self._tokens = max_connections, tokens
    self._is_insecure, self._state = is_insecure, state
    self.trouble = 'the model is being read and compiled'
    self._num_open = 0
    app = web.Application(client_max_size=max_body_bytes)
    app.router.add_post('/v1/score', self._score)
    app.router.add_get('/healthz', self._healthz)
    app.router.add_get('/readyz', self._readyz)
    app.router.add_get('/metrics', self._show_metrics)
    self._runner = web.AppRunner(
      app, access_log=None, keepalive_timeout=_IDLE_TIMEOUT_S
    )
    self._server: asyncio.Server | None = None

  async def start(self) -> None:
    """Begins to listen.

    Raises:
      RuntimeError: The port is taken.
    """
    await self._runner.setup()
    server = self._runner.server
    assert server is not None

    def connect() -> asyncio.BaseProtocol:
      is_full = len(server.connections) >= self._max_connections
      return _Surplus() if is_full else server()

    loop = asyncio.get_running_loop()
    try:
      self._server = await loop.create_server(
        connect, self._address, self.port, ssl=self._tls, backlog=1024
      )
    except OSError as error:
      raise RuntimeError(
        f'serve: cannot listen on {self._address}:{self.port}: {error}.'
      ) from error
    self.port = self._server.sockets[0].getsockname()[1]

  @property
  def url(self) -> str:
    """Address of the service."""
    host = f'[{self._address}]' if ':' in self._address else self._address
    return f'http{"s" if self._tls else ""}://{host}:{self.port}'

  async def close(self, timeout_s: float) -> None:
    """Takes no more requests, and ends when those that came are answered."""
    self.trouble = 'the server stops'
    if self._server is not None:
      self._server.close()
    until = time.monotonic() + timeout_s
    while self._num_open and time.monotonic() < until:
      await asyncio.sleep(0.01)
    await self._runner.cleanup()

  async def _score(self, request: web.Request) -> web.Response:
    start_s = time.perf_counter()
    self._num_open += 1
    try:
      reply = self._refusal(request) or await self._answer(request)
    except web.HTTPRequestEntityTooLarge as error:
      reply = _error(413, f'the request is too large: {error.text}.')
    finally:
      self._num_open -= 1
    self._metrics.requests.labels(str(reply.status)).inc()
    if reply.status == 200:
      self._metrics.seconds.observe(time.perf_counter() - start_s)
    return reply

  async def _answer(self, request: web.Request) -> web.Response:
    if request.content_type != 'application/json':
      return _error(415, 'needed is Content-Type: application/json.')
    try:
      async with asyncio.timeout(_BODY_TIMEOUT_S):
        body = await request.read()
    except TimeoutError:
      return _error(408, f'no whole request in {_BODY_TIMEOUT_S:g} s.')
    except web.RequestPayloadError as error:
      text = ' '.join(str(error).split())
      reply = _error(400, f'the body cannot be read: {text}.')
      reply.force_close()  # What follows cannot be told from it.
      return reply
    if self.trouble:
      return _later(self.trouble)
    try:
      fields = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
      return _error(400, f'the request is no JSON: {error}.')
    try:
      found = await self._batcher.submit(self._served.read(fields))
    except Full:
      return _later('too many rows wait')
    except UnicodeError:
      return _error(400, 'a text has half a character, such as "\\ud800".')
    except ValueError as error:
      return _error(400, str(error), getattr(error, 'facts', None))
    except Exception:  # It harms no other.
      logging.exception('A request failed.')
      return _error(500, 'the server failed; its log says why.')
    return _json(200, found)

  def _refusal(self, request: web.Request) -> web.Response | None:
    """What to say to who may not ask; None: it may."""
    tokens = self._tokens()
    if tokens.grant(request.headers.get('authorization')) is None:
      reply = _error(401, 'needed is "Authorization: Bearer TOKEN".')
      reply.headers['WWW-Authenticate'] = 'Bearer'
      return reply
    if tokens.grants or self._is_insecure:
      return None
    return status_page.check_host(request)

  async def _healthz(self, request: web.Request) -> web.Response:
    del request
    return web.Response(text='ok\n')

  async def _readyz(self, request: web.Request) -> web.Response:
    del request
    about = {'ready': not self.trouble, 'trouble': self.trouble}
    return _json(503 if self.trouble else 200, {**about, **self._state()})

  async def _show_metrics(self, request: web.Request) -> web.Response:
    if refused := self._refusal(request):
      return refused
    self._metrics.waiting.set(self._batcher.waiting_rows)
    return web.Response(
      body=prometheus_client.generate_latest(self._metrics.registry),
      headers={'Content-Type': metrics_export.CONTENT_TYPE},
    )


class _Surplus(asyncio.Protocol):
  """A connection too many: it is told to come again."""

  def connection_made(self, transport: asyncio.BaseTransport) -> None:
    """See the base class."""
    # That of uvloop derives from no class of asyncio.
    transport = cast(asyncio.Transport, transport)
    transport.write(
      b'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n'
      b'Content-Length: 0\r\nConnection: close\r\n\r\n'
    )
    transport.close()


def _no_number(text: str) -> float:
  raise ValueError(f'{text} is no number of JSON')


def _json(status: int, content: Mapping[str, Any]) -> web.Response:
  body = json.dumps(content, separators=(',', ':')).encode()
  return web.Response(
    status=status, body=body, headers={'Content-Type': 'application/json'}
  )


def _error(
  status: int, text: str, facts: Mapping[str, Any] | None = None
) -> web.Response:
  return _json(status, {'error': {'message': text, **(facts or {})}})


def _later(text: str) -> web.Response:
  reply = _error(503, f'{text}; come again.')
  reply.headers['Retry-After'] = str(_RETRY_AFTER_S)
  return reply
