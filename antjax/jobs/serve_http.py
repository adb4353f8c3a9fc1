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
sizes, clients' time and the queue are bounded.
"""

import asyncio
from collections.abc import Callable, Mapping
import ssl
import time
from typing import Any
import zlib

from absl import logging
import orjson
import prometheus_client
from prometheus_client import multiprocess

from antjax.elastic import metrics_export, status_page
from antjax.elastic.security import RoleTokens
from antjax.jobs.http_connections import Bounds, HttpCall, JSON, Listener, Reply
from antjax.serving.batcher import Batcher, Full, Served
from antjax.serving.follower import Follower

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
      'antjax_serve_waiting_rows',
      'Rows that waited when a batch was taken.',
      registry=all_of,
      multiprocess_mode='sum',
    )
    self.sequence = prometheus_client.Gauge(
      'antjax_serve_delta_sequence',
      'Number of the state; the least of all processes.',
      registry=all_of,
      multiprocess_mode='min',
    )
    self.event_age = prometheus_client.Gauge(
      'antjax_serve_event_age_seconds',
      'Age of the newest event of the last delta, when it was applied.',
      registry=all_of,
      multiprocess_mode='max',
    )
    self._codes: dict[int, prometheus_client.Counter] = {}
    self.refused = prometheus_client.Gauge(
      'antjax_serve_deltas_refused',
      'By kind.',
      ['kind'],
      registry=all_of,
      multiprocess_mode='max',
    )

  def count(self, status: int, seconds: float) -> None:
    """Takes an answer."""
    code = self._codes.get(status)
    if code is None:
      code = self._codes[status] = self.requests.labels(str(status))
    code.inc()
    if status == 200:
      self.seconds.observe(seconds)

  def take(self, rows: int, waiting: int) -> None:
    """Takes a batch, and the rows that wait for the next one."""
    self.batch_rows.observe(rows)
    self.waiting.set(waiting)

  def see(self, follower: Follower) -> None:
    """Takes the figures of deltas."""
    self.sequence.set(follower.live.version['sequence'])
    self.event_age.set(follower.age_s)
    for kind, count in follower.state['refused'].items():
      self.refused.labels(kind).set(count)


class Front:
  """Answers requests with a batcher.

  Attributes:
    address: Where it listens.
    port: Port that is listened on.
    limits: What clients may take, over gRPC too.
    is_shared: Whether other processes listen on the port too.
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
    limits: Bounds,
    is_shared: bool = False,
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
      limits: What clients may take; health is always answered.
      is_shared: Whether other processes listen on the port too.
      tokens: Tokens as of now.
      tls: For HTTPS.
      is_insecure: Whether names other than localhost may be asked for.
      state: What `/readyz` says besides, JSON-able.
    """
    self._served, self._batcher, self._metrics = served, batcher, metrics
    self.address, self.port, self._tls = address, port, tls
    self.limits, self.is_shared, self._tokens = limits, is_shared, tokens
    self._is_insecure, self._state = is_insecure, state
    self.trouble = 'the model is being read and compiled'
    self._num_open = 0
    limits = limits._replace(always_answered=('/healthz', '/readyz'))
    self._listener = Listener(self._call, self._refuse, limits)
    self._pages = {
      '/healthz': self._healthz,
      '/readyz': self._readyz,
      '/metrics': self._show_metrics,
    }

  async def start(self) -> None:
    """Begins to listen.

    Raises:
      RuntimeError: The port is taken.
    """
    try:
      self.port = await self._listener.start(
        self.address, self.port, self._tls, self.is_shared
      )
    except OSError as error:
      raise RuntimeError(
        f'serve: cannot listen on {self.address}:{self.port}: {error}.'
      ) from error

  @property
  def url(self) -> str:
    """Address of the service."""
    host = f'[{self.address}]' if ':' in self.address else self.address
    return f'http{"s" if self._tls else ""}://{host}:{self.port}'

  async def close(self, timeout_s: float) -> None:
    """Takes no more requests, and ends when those that came are answered."""
    self.trouble = 'the server stops'
    self._listener.stop_listening()
    until = time.monotonic() + timeout_s
    while self._num_open and time.monotonic() < until:
      await asyncio.sleep(0.01)
    self._listener.close()
    while self._listener.connections and time.monotonic() < until:
      await asyncio.sleep(0.01)

  def _refuse(self, status: int, text: str) -> Reply:
    self._metrics.count(status, 0)
    return _refused(status, text)

  def _call(self, call: HttpCall, send: Callable[[Reply], None]) -> None:
    if call.path == '/v1/score' and call.method == 'POST':
      self.score(call, send)
    elif call.path in self._pages and call.method in ('GET', 'HEAD'):
      send(self._pages[call.path](call))
    elif call.path == '/v1/score' or call.path in self._pages:
      send(_error(405, 'POST is for /v1/score, GET for all else.'))
    else:
      send(_error(404, f'there are /v1/score, {", ".join(self._pages)}.'))

  def score(self, call: HttpCall, send: Callable[[Reply], None]) -> None:
    """Answers a request of scores, at once or later."""
    start_s = time.perf_counter()

    def end(reply: Reply) -> None:
      self._metrics.count(reply.status, time.perf_counter() - start_s)
      send(reply)

    def answered(future: 'asyncio.Future[dict[str, Any]]') -> None:
      self._num_open -= 1
      error = future.exception()
      end(_json(200, future.result()) if error is None else _trouble(error))

    if refusal := self.refusal(call):
      end(refusal)
      return
    try:
      found = self._batcher.submit(self._served.read(self._fields(call)))
    except Exception as error:
      end(_trouble(error))
    else:
      self._num_open += 1
      found.add_done_callback(answered)

  def _fields(self, call: HttpCall) -> Any:
    """JSON of a request."""
    content_type = call.headers.get('content-type', '')
    if content_type.partition(';')[0].strip().lower() != JSON:
      raise _Refused(415, 'needed is Content-Type: application/json.')
    if self.trouble:
      raise _Later(self.trouble)
    body = call.body
    if (coding := call.headers.get('content-encoding', '')) == 'gzip':
      body = _unpacked(body, self.limits.body_bytes)
    elif coding:
      raise _Refused(
        400, f'the content-encoding {coding[:40]} is none of gzip.'
      )
    try:
      return orjson.loads(body)
    except ValueError as error:
      raise _Refused(400, f'the request is no JSON: {error}.') from error

  def refusal(self, call: HttpCall) -> Reply | None:
    """What to say to who may not ask; None: it may."""
    tokens = self._tokens()
    if tokens.grant(call.headers.get('authorization')) is None:
      reply = _error(401, 'needed is "Authorization: Bearer TOKEN".')
      return reply._replace(headers={'WWW-Authenticate': 'Bearer'})
    if tokens.grants or self._is_insecure:
      return None
    if status_page.is_own_name(call.headers.get('host')):
      return None
    return _error(403, status_page.NOT_OWN_NAME)

  def _healthz(self, call: HttpCall) -> Reply:
    del call
    return Reply(200, b'ok\n', 'text/plain; charset=utf-8')

  def _readyz(self, call: HttpCall) -> Reply:
    del call
    about = {'ready': not self.trouble, 'trouble': self.trouble}
    return _json(503 if self.trouble else 200, {**about, **self._state()})

  def _show_metrics(self, call: HttpCall) -> Reply:
    if refused := self.refusal(call):
      return refused
    registry = self._metrics.registry
    if self.is_shared:  # Those of all processes.
      registry = prometheus_client.CollectorRegistry()
      multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    text = prometheus_client.generate_latest(registry)
    return Reply(200, text, metrics_export.CONTENT_TYPE)


class _Refused(Exception):
  """A request that gets another status than 200."""

  def __init__(self, status: int, text: str):
    super().__init__(text)
    self.status = status


class _Later(Exception):
  """A request that should come again."""


def _trouble(error: BaseException) -> Reply:
  """The reply to a request that has no answer; it harms no other."""
  match error:
    case _Refused():
      return _error(error.status, str(error))
    case Full():
      return _later('too many rows wait')
    case _Later():
      return _later(str(error))
    case UnicodeError():
      return _error(400, 'a text has half a character, such as "\\ud800".')
    case ValueError():
      return _error(400, str(error), getattr(error, 'facts', None))
  logging.error('A request failed.', exc_info=error)
  return _error(500, 'the server failed; its log says why.')


def _unpacked(body: bytes, most: int) -> bytes:
  """What was packed by gzip, at most so many bytes."""
  unpacker = zlib.decompressobj(31)
  try:
    found = unpacker.decompress(body, most + 1)
  except zlib.error as error:
    text = f'the content-encoding gzip does not hold: {error}.'
    raise _Refused(400, text) from error
  if len(found) > most:
    raise _Refused(413, f'at most {most} bytes are read, unpacked.')
  if not unpacker.eof:
    raise _Refused(400, 'the content-encoding gzip does not hold: it ends.')
  return found


def _refused(status: int, text: str) -> Reply:
  reply = _error(status, f'{text}.')
  later = {'Retry-After': str(_RETRY_AFTER_S)} if status == 503 else {}
  return reply._replace(headers=later)


def _json(status: int, content: Mapping[str, Any]) -> Reply:
  option = orjson.OPT_SERIALIZE_NUMPY
  return Reply(status, orjson.dumps(content, option=option))


def _error(
  status: int, text: str, facts: Mapping[str, Any] | None = None
) -> Reply:
  return _json(status, {'error': {'message': text, **(facts or {})}})


def _later(text: str) -> Reply:
  return _refused(503, f'{text}; come again')
