# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A gRPC proxy that loses replies, for `benchmarks.chaos_bench`.

  python -m benchmarks.chaos_proxy 127.0.0.1:7070 127.0.0.1:7071 train

listens at the first address and calls the second. After SIGUSR1 the next reply
to a request that contains the mark is lost, after SIGUSR2 the next reply to
any: the server has answered, but the client gets UNAVAILABLE, so that it cannot
know whether its request has taken effect. Each lost reply prints a line `CUT`.
"""

import asyncio
from collections.abc import Callable
import functools
import signal
import sys
from typing import Any

import grpc

CUT = 'CUT'  # Printed line.
# A restarted coordinator is found soon.
_OPTIONS = (
  ('grpc.initial_reconnect_backoff_ms', 50),
  ('grpc.min_reconnect_backoff_ms', 50),
  ('grpc.max_reconnect_backoff_ms', 200),
)


class Proxy(grpc.GenericRpcHandler):
  """Forwards calls of any service and messages unchanged."""

  def __init__(self, target: str, mark: bytes, on_cut: Callable[[], None]):
    """Connects; requests that contain the mark are marked ones."""
    self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
    self._mark, self._on_cut = mark, on_cut
    self._marked = self._any = 0

  def arm(self, is_any: bool) -> None:
    """Schedules the loss of one more reply."""
    if is_any:
      self._any += 1
    else:
      self._marked += 1

  def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler:
    call = functools.partial(self._pass_on, handler_call_details.method)
    return grpc.unary_unary_rpc_method_handler(call)

  async def _pass_on(self, method: str, request: bytes, context: Any) -> bytes:
    metadata = [
      (key, value)
      for key, value in context.invocation_metadata() or ()
      if key != 'user-agent' and not key.startswith('grpc-')
    ]
    try:
      reply = await self._channel.unary_unary(method)(
        request, metadata=metadata, timeout=context.time_remaining()
      )
    except grpc.aio.AioRpcError as error:
      await context.abort(error.code(), error.details() or '')
    if self._strikes(request):
      self._on_cut()
      await context.abort(grpc.StatusCode.UNAVAILABLE, 'the reply is lost')
    return reply

  def _strikes(self, request: bytes) -> bool:
    if self._marked and self._mark in request:
      self._marked -= 1
      return True
    if self._any:
      self._any -= 1
      return True
    return False


async def serve(listen: str, proxy: Proxy) -> tuple[grpc.aio.Server, int]:
  """Starts forwarding calls; returns the server and its port."""
  server = grpc.aio.server()
  server.add_generic_rpc_handlers((proxy,))
  port = server.add_insecure_port(listen)
  await server.start()
  return server, port


async def _run(listen: str, target: str, mark: str) -> None:
  proxy = Proxy(target, mark.encode(), lambda: print(CUT, flush=True))
  loop = asyncio.get_running_loop()
  loop.add_signal_handler(signal.SIGUSR1, proxy.arm, False)
  loop.add_signal_handler(signal.SIGUSR2, proxy.arm, True)
  server, _ = await serve(listen, proxy)
  await server.wait_for_termination()


if __name__ == '__main__':
  asyncio.run(_run(*sys.argv[1:]))
