# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model's gRPC service, beside that over HTTP: the same JSON and bounds.

| method | |
|---|---|
| `/antjax.Serve/Score` | a `google.protobuf.BytesValue` of JSON to another |
| `/antjax.Serve/ScoreStream` | many of them, answered in order on one call |
| `/grpc.health.v1.Health/Check` | SERVING if requests are answered |
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue
import grpc
import grpc.aio
import orjson

from antjax.elastic import security, service
from antjax.jobs.http_connections import HttpCall, JSON, Reply
from antjax.jobs.serve_http import Front

SCORE, SCORE_STREAM = '/antjax.Serve/Score', '/antjax.Serve/ScoreStream'
HEALTH = '/grpc.health.v1.Health/Check'
_Code = grpc.StatusCode
_CODES = {
  400: _Code.INVALID_ARGUMENT,
  401: _Code.UNAUTHENTICATED,
  503: _Code.UNAVAILABLE,
}
# HealthCheckResponse{status}: 1 is SERVING, 2 NOT_SERVING.
_SERVING, _NOT_SERVING = b'\x08\x01', b'\x08\x02'

_Context: TypeAlias = 'grpc.aio.ServicerContext[bytes, bytes]'


class GrpcFront(grpc.GenericRpcHandler):
  """Answers calls as a `Front` answers requests.

  Attributes:
    port: Port that is listened on.
  """

  def __init__(
    self,
    front: Front,
    *,
    port: int,
    tls: Callable[[], security.Tls] | None = None,
  ):
    """Binds the port, and starts nothing yet; call it on an event loop.

    Args:
      front: Answers the requests; knows the tokens, the address and the
        limits. Those of connections also hold for calls at once.
      port: Port; 0: any.
      tls: Certificates for mutual TLS now.

    Raises:
      RuntimeError: The port is taken.
    """
    self._front, self._limits = front, front.limits
    self._idle: set[asyncio.Timeout] = set()  # Of streams between requests.
    self._handlers = {
      HEALTH: grpc.unary_unary_rpc_method_handler(self._health),
      SCORE: grpc.stream_unary_rpc_method_handler(self._score),
      SCORE_STREAM: grpc.stream_stream_rpc_method_handler(self._stream),
    }
    self._server, self.port = service.make_server(
      self,
      *(front.address, port, tls),
      who='serve',
      max_bytes=front.limits.body_bytes + 16,
      max_calls=front.limits.connections,
      is_shared=front.is_shared,
    )

  async def start(self) -> None:
    """Begins to answer."""
    await self._server.start()

  async def close(self, timeout_s: float) -> None:
    """Takes no more calls, and ends when those that came are answered."""
    stopping = asyncio.ensure_future(self._server.stop(timeout_s))
    while not stopping.done():
      for timeout in self._idle:
        if not timeout.expired():
          timeout.reschedule(0)
      await asyncio.wait([stopping], timeout=0.05)

  def service(
    self, handler_call_details: grpc.HandlerCallDetails
  ) -> grpc.RpcMethodHandler | None:
    return self._handlers.get(handler_call_details.method)

  async def _health(self, request: bytes, context: _Context) -> bytes:
    del request, context
    return _NOT_SERVING if self._front.trouble else _SERVING

  async def _score(self, messages: object, context: _Context) -> bytes:
    del messages  # Read here, in bounded time.
    call = await self._admit(context)
    late = 'the request took too long to arrive.'
    body = await self._read(
      context, asyncio.timeout(self._limits.client_s), late
    )
    if body is None:
      await _abort(context, _Code.INVALID_ARGUMENT, 'the call has no request.')
    return await self._answer(call._replace(body=body), context)

  async def _stream(self, messages: object, context: _Context) -> None:
    del messages
    call = await self._admit(context)
    limits = self._limits
    while True:
      idle = asyncio.timeout(limits.idle_s)
      self._idle.add(idle)
      late = f'no request came in {limits.idle_s:g} s.'
      try:
        body = await self._read(context, idle, late)
      finally:
        self._idle.remove(idle)
      if body is None:
        return
      reply = await self._answer(call._replace(body=body), context)
      try:
        async with asyncio.timeout(limits.client_s):
          await context.write(reply)
      except TimeoutError:
        late = f'the reply was not read in {limits.client_s:g} s.'
        await _abort(context, _Code.DEADLINE_EXCEEDED, late)

  async def _admit(self, context: _Context) -> HttpCall:
    """A call of who may ask, whose request is still to be read."""
    # No page of a foreign site can ask by gRPC.
    headers = {'content-type': JSON, 'host': 'localhost'}
    for name, value in context.invocation_metadata() or ():
      if name == 'authorization':
        headers[name] = str(value)
    call = HttpCall('POST', '/v1/score', headers, b'', True)
    if refusal := self._front.refusal(call):
      await _refuse(context, refusal)
    return call

  async def _read(
    self, context: _Context, timeout: asyncio.Timeout, late: str
  ) -> bytes | None:
    """The next request; None: there is none."""
    try:
      async with timeout:
        data = await context.read()
      if not isinstance(data, bytes):
        return None
      return BytesValue.FromString(data).value
    except DecodeError:
      text = 'needed is a google.protobuf.BytesValue of JSON.'
      await _abort(context, _Code.INVALID_ARGUMENT, text)
    except TimeoutError:
      if timeout in self._idle and (trouble := self._front.trouble):
        await _abort(context, _Code.UNAVAILABLE, trouble)
      await _abort(context, _Code.DEADLINE_EXCEEDED, late)

  async def _answer(self, call: HttpCall, context: _Context) -> bytes:
    answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def send(reply: Reply) -> None:
      if not answer.done():  # A client may have gone.
        answer.set_result(reply)

    self._front.score(call, send)
    if (reply := await answer).status != 200:
      await _refuse(context, reply)
    return BytesValue(value=reply.body).SerializeToString()


async def _refuse(context: _Context, reply: Reply) -> NoReturn:
  """Ends a call as HTTP answers a request."""
  text = orjson.loads(reply.body)['error']['message']
  await _abort(context, _CODES.get(reply.status, _Code.INTERNAL), text)


async def _abort(
  context: _Context, code: grpc.StatusCode, text: str
) -> NoReturn:
  await context.abort(code, text)
  raise AssertionError('abort raises.')
