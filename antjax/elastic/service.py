# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's gRPC service: methods, who may call them, and limits."""

import asyncio
import collections
from collections.abc import (
  AsyncIterator,
  Awaitable,
  Callable,
  Iterator,
  Sequence,
)
import contextlib
import functools
import resource
from typing import Any, TypeAlias
import weakref

from absl import logging
import grpc
import grpc.aio

from antjax.elastic import requests, security
from antjax.elastic.protocol import MAX_HOSTS, METHODS, Refused, SERVICE
from antjax.elastic.security import RoleTokens

_MAX_CALLS = MAX_HOSTS  # At once.
# The next two are of a machine in a job, and of a job. Requests that have not
# arrived; above it the sender is to try again.
_MAX_ARRIVING = (_MAX_CALLS // 8, _MAX_CALLS // 4)
# Requests with positions of checkpoints that are read and answered at once.
# Below `_LARGE_BYTES` only to read them takes a turn.
_MAX_LARGE, _MAX_LARGE_OF = 8, (3, 5)
_LARGE_BYTES = 256 << 10
_READ_TIMEOUT_S = 5.0  # Half of what a client waits for the answer.

_Context: TypeAlias = 'grpc.aio.ServicerContext[bytes, bytes]'
_Sender: TypeAlias = tuple[str, str]  # Job and machine; empty: any.
# Takes a checked request and its bytes, and returns the serialized reply.
HandlerFn = Callable[[Any, bytes], Awaitable[bytes]]


class Service(grpc.GenericRpcHandler):
  """Finds the handler of a call; who may not call is refused unread."""

  def __init__(
    self,
    handlers: dict[str, HandlerFn],
    tokens: Callable[[], RoleTokens] = RoleTokens,
  ):
    """Serves METHODS by these handlers to the owners of these tokens."""
    self._tokens = tokens
    arrivals = _Arrivals()
    self._handlers = {
      f'/{SERVICE}/{name}': (
        name,
        # By the job of the token: of those that there are.
        functools.lru_cache(1000)(
          functools.partial(_handler, name, handler, arrivals)
        ),
      )
      for name, handler in handlers.items()
    }
    self._unknown = _refusal(
      Refused('UNAUTHENTICATED', 'the token is missing or not known.')
    )

  def service(
    self, handler_call_details: grpc.HandlerCallDetails
  ) -> grpc.RpcMethodHandler | None:
    found = self._handlers.get(handler_call_details.method)
    if found is None:
      return None
    metadata = dict(handler_call_details.invocation_metadata or ())
    grant = self._tokens().grant(metadata.get('authorization'))
    name, handler = found
    if grant is None:
      return self._unknown
    try:
      _check_role(name, grant, 'token')
    except Refused as error:
      return _refusal(error)
    return handler(grant.job)


@functools.cache
def _keep_poller() -> None:
  """Keeps gRPC's polling thread until the process ends.

  Else the last of its objects ends the thread from wherever garbage happens to
  be collected, and waits there without limit for operations still open.
  """
  grpc.aio.init_grpc_aio()


def make_server(
  service: grpc.GenericRpcHandler,
  address: str,
  port: int,
  tls: Callable[[], security.Tls] | None,
  *,
  who: str = 'the coordinator',
  max_bytes: int = requests.MAX_STATE_BYTES + 4096,
  max_calls: int = _MAX_CALLS,
  is_shared: bool = False,
) -> tuple[grpc.aio.Server, int]:
  """Returns a server that is bound and not started, and its port.

  `port` 0 picks a free one; `tls` returns the certificates for mutual TLS now.

  Raises:
    RuntimeError: The address or port cannot be had.
  """
  options: Sequence[tuple[str, Any]] = (
    ('grpc.max_receive_message_length', max_bytes),
    ('grpc.max_send_message_length', requests.MAX_STATE_BYTES),
    ('grpc.max_metadata_size', 16 << 10),
    ('grpc.absolute_max_metadata_size', 32 << 10),
    ('grpc.max_concurrent_streams', 1000),
    ('grpc.max_allowed_incoming_connections', max_connections(max_calls)),
    # Thousands of workers may come back at once.
    ('grpc.server.max_pending_requests', max_calls),
    ('grpc.server.max_pending_requests_hard_limit', max_calls * 3 // 2),
    ('grpc.server_handshake_timeout_ms', 10_000),
    # Half-open connections are found, and idle ones closed.
    ('grpc.keepalive_time_ms', 30_000),
    ('grpc.keepalive_timeout_ms', 10_000),
    ('grpc.keepalive_permit_without_calls', 1),
    ('grpc.http2.min_ping_interval_without_data_ms', 5_000),
    ('grpc.max_connection_idle_ms', 600_000),
    ('grpc.so_reuseport', int(is_shared)),
  )
  _keep_poller()
  server = grpc.aio.server(
    handlers=(service,), options=options, maximum_concurrent_rpcs=max_calls
  )
  where = f'[{address}]:{port}' if ':' in address else f'{address}:{port}'
  try:
    if tls is None:
      bound = server.add_insecure_port(where)
    else:
      bound = server.add_secure_port(where, security.server_credentials(tls))
  except RuntimeError as error:
    raise RuntimeError(
      f'{who} cannot listen on {where}: {error}. Is the port taken?'
    ) from error
  if not bound:
    raise RuntimeError(
      f'{who} cannot listen on {where}; is the port taken, or a file'
      ' of tls_dir wrong?'
    )
  return server, bound


def max_connections(most: int = _MAX_CALLS) -> int:
  """As many as there are files to be opened, less some for the journal."""
  limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if limit == resource.RLIM_INFINITY:
    return most
  wanted = most + 200
  more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
  if more > limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    limit = more
  return min(most, max(limit - 200, limit // 2))


class _Arrivals:
  """Calls whose requests are on their way, in bounds for each sender.

  A sender is the job of a token and, in it, a machine; where tokens are for all
  jobs, only the machine. Who sends nothing leaves room for the others.
  """

  def __init__(self) -> None:
    self._counts: collections.Counter[_Sender] = collections.Counter()
    self._large = asyncio.Semaphore(_MAX_LARGE)
    self._large_of: weakref.WeakValueDictionary[_Sender, asyncio.Semaphore] = (
      weakref.WeakValueDictionary()
    )

  @contextlib.contextmanager
  def call(self, senders: Sequence[_Sender]) -> Iterator[None]:
    """Counts a call while it is on its way; Refused: there are too many."""
    for sender, most in zip(senders, _MAX_ARRIVING):
      if self._counts[sender] >= most:
        raise Refused(
          'UNAVAILABLE',
          f'{most} other requests of this machine or job have not arrived yet.',
        )
    self._counts.update(senders)
    try:
      yield
    finally:
      for sender in senders:
        self._counts[sender] -= 1
        if not self._counts[sender]:
          del self._counts[sender]

  @contextlib.asynccontextmanager
  async def turn(self, senders: Sequence[_Sender]) -> AsyncIterator[None]:
    """Lets few large requests at once be read, and fewer of one sender.

    Until then they wait in their senders' memory, held back by HTTP/2.
    """
    async with contextlib.AsyncExitStack() as stack:
      for sender, most in zip(senders, _MAX_LARGE_OF):
        turns = self._large_of.get(sender)
        if turns is None:
          turns = self._large_of[sender] = asyncio.Semaphore(most)
        await stack.enter_async_context(turns)
      await stack.enter_async_context(self._large)
      yield


def _handler(
  name: str, handle: HandlerFn, arrivals: _Arrivals, job: str
) -> grpc.RpcMethodHandler:
  """Returns what reads a request in bounded time, and answers it.

  `job` is what the caller's token is for; empty: all jobs.
  """
  answer = _answering(name, handle, job)
  is_large = METHODS[name].request in requests.STATE_MESSAGES

  async def answered(context: _Context) -> bytes | Refused:
    host = context.peer().rpartition(':')[0]
    senders = ((job, host), (job, '')) if job else ((job, host),)
    try:
      with arrivals.call(senders):
        if not is_large:
          data = await _read(context)
        else:
          async with arrivals.turn(senders):
            data = await _read(context)
            if len(data) > _LARGE_BYTES:
              return await answer(data, context)
    except Refused as error:
      return Refused(error.code, error.text)
    return await answer(data, context)

  async def call(messages: object, context: _Context) -> bytes:
    del messages
    reply = await answered(context)
    if isinstance(reply, Refused):
      # What it raises keeps its frames for long: none may hold the request.
      await context.abort(grpc.StatusCode[reply.code], reply.text)
      raise AssertionError('abort raises.')
    return reply

  return grpc.stream_unary_rpc_method_handler(call)


async def _read(context: _Context) -> bytes:
  """Returns a call's request; Refused: it does not come."""
  try:
    async with asyncio.timeout(_READ_TIMEOUT_S):
      data = await context.read()
  except TimeoutError:
    raise Refused(
      'UNAVAILABLE', 'the request took too long to arrive.'
    ) from None
  if not isinstance(data, bytes):
    raise Refused('INVALID_ARGUMENT', 'the call ended without a request.')
  return data


def _answering(
  name: str, handle: HandlerFn, job: str
) -> Callable[[bytes, _Context], Awaitable[bytes | Refused]]:
  kind = METHODS[name].request

  async def answer(data: bytes, context: _Context) -> bytes | Refused:
    try:
      request: Any = requests.parse(kind, data)
      _check_job(job, 'token', request)
      _check_certificate(name, request, context)
      return await handle(request, data)
    except Refused as error:
      return Refused(error.code, error.text)
    except RuntimeError as error:  # The journal's.
      return Refused('UNAVAILABLE', str(error))
    # A bug of ours must not end the service, nor tell strangers of its inside.
    except Exception:
      logging.exception('A %s failed.', kind.DESCRIPTOR.name)
      return Refused('UNKNOWN', 'the coordinator failed; see its log.')

  return answer


def _check_role(name: str, grant: security.Grant, what: str) -> None:
  if not METHODS[name].may_be_called_by(grant.role):
    raise Refused(
      'PERMISSION_DENIED',
      f'{name} is for the role {METHODS[name].role}; this {what} is of the role'
      f' {grant.role}.',
    )


def _check_job(job: str, what: str, request: Any) -> None:
  if job and request.head.job != job:
    raise Refused(
      'PERMISSION_DENIED',
      f'this {what} is for the job {job}; the request is of the job'
      f' {request.head.job[:128]!r}.',
    )


def _check_certificate(name: str, request: Any, context: _Context) -> None:
  """Refuses what the certificate of the caller, if it has one, is not for."""
  names = (context.auth_context() or {}).get('x509_common_name', ())
  grant = security.certificate_grant(names)
  if grant is None:
    return
  _check_role(name, grant, 'certificate')
  _check_job(grant.job, 'certificate', request)


def _refusal(error: Refused) -> grpc.RpcMethodHandler:
  """A handler that ends a call before it reads the request."""

  async def refuse(messages: object, context: _Context) -> bytes:
    del messages
    await context.abort(grpc.StatusCode[error.code], error.text)
    raise AssertionError('abort raises.')

  return grpc.stream_unary_rpc_method_handler(refuse)
