# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model's gRPC service, beside that over HTTP: the same JSON and bounds.

| method | |
|---|---|
| `/antjax.Serve/Score` | a `google.protobuf.BytesValue` of JSON to another |
| `/grpc.health.v1.Health/Check` | SERVING if requests are answered |
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeAlias

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue
import grpc
import grpc.aio
import orjson

from antjax.elastic import security, service
from antjax.jobs.http_connections import HttpCall, JSON, Reply
from antjax.jobs.serve_http import Front

SCORE, HEALTH = '/antjax.Serve/Score', '/grpc.health.v1.Health/Check'
_CODES = {
  400: grpc.StatusCode.INVALID_ARGUMENT,
  401: grpc.StatusCode.UNAUTHENTICATED,
  503: grpc.StatusCode.UNAVAILABLE,
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
    self._front = front
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
    await self._server.stop(timeout_s)

  def service(
    self, handler_call_details: grpc.HandlerCallDetails
  ) -> grpc.RpcMethodHandler | None:
    metadata = dict(handler_call_details.invocation_metadata or ())
    if handler_call_details.method == HEALTH:
      return grpc.unary_unary_rpc_method_handler(self._health)
    if handler_call_details.method != SCORE:
      return None

    async def score(messages: object, context: _Context) -> bytes:
      del messages  # Read here, in bounded time.
      return await self._score(metadata, context)

    return grpc.stream_unary_rpc_method_handler(score)

  async def _health(self, request: bytes, context: _Context) -> bytes:
    del request, context
    return _NOT_SERVING if self._front.trouble else _SERVING

  async def _score(
    self, metadata: Mapping[str, str | bytes], context: _Context
  ) -> bytes:
    # No page of a foreign site can ask by gRPC.
    headers = {'content-type': JSON, 'host': 'localhost'}
    if authorization := metadata.get('authorization'):
      headers['authorization'] = str(authorization)
    call = HttpCall('POST', '/v1/score', headers, b'', True)
    if (reply := self._front.refusal(call)) is None:
      body = await self._body(context)
      reply = await self._answer(call._replace(body=body))
    if reply.status != 200:
      error = orjson.loads(reply.body)['error']['message']
      code = _CODES.get(reply.status, grpc.StatusCode.INTERNAL)
      await context.abort(code, error)
    return BytesValue(value=reply.body).SerializeToString()

  async def _body(self, context: _Context) -> bytes:
    code, text = grpc.StatusCode.INVALID_ARGUMENT, 'the call has no request.'
    try:
      async with asyncio.timeout(self._front.limits.client_s):
        data = await context.read()
      if isinstance(data, bytes):
        return BytesValue.FromString(data).value
    except DecodeError:
      text = 'needed is a google.protobuf.BytesValue of JSON.'
    except TimeoutError:
      code = grpc.StatusCode.DEADLINE_EXCEEDED
      text = 'the request took too long to arrive.'
    await context.abort(code, text)
    raise AssertionError('abort raises.')

  async def _answer(self, call: HttpCall) -> Reply:
    answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def send(reply: Reply) -> None:
      if not answer.done():  # A client may have gone.
        answer.set_result(reply)

    self._front.score(call, send)
    return await answer
