# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Client of the coordinator, for workers, agents and operators.

A request that changes the coordinator's state has a sequence number and is
repeated with the same one until it is answered, so that it takes effect once:
a coordinator that is killed and comes back is only waited for.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import random
import secrets
import threading
import time
from typing import Any, NoReturn

from absl import logging
import grpc

from antjax.elastic import security
from antjax.elastic.protocol import METHODS, SERVICE
from antjax.elastic.rotation import rotating_tls

MAX_MESSAGE_BYTES = 64 << 20
_TRY_TIMEOUT_S = 10.0  # For one answer.
_FIRST_DELAY_S, _MAX_DELAY_S = 0.1, 2.0
_ROTATION_S = 120.0  # Until all have the new token of a file.
# A coordinator that restarts is no news; one that stays away is, and again.
_QUIET_S, _SAY_S = 5.0, 600.0
_CROWDED = 'concurrent rpc limit'
_LOST = ('rst_stream', 'stream removed', 'socket closed', 'connection reset')


class StaleError(RuntimeError):
  """This process is fenced off: another one has taken its place; it must end.

  Its generation of the job is over, or another process has its name.
  """


class CoordinatorGoneError(RuntimeError):
  """The coordinator did not answer for as long as the client was to wait."""


_ERRORS: dict[grpc.StatusCode, type[Exception]] = {
  grpc.StatusCode.FAILED_PRECONDITION: StaleError,
  grpc.StatusCode.INVALID_ARGUMENT: ValueError,
  grpc.StatusCode.OUT_OF_RANGE: ValueError,
  grpc.StatusCode.NOT_FOUND: LookupError,
  grpc.StatusCode.UNAUTHENTICATED: PermissionError,
  grpc.StatusCode.PERMISSION_DENIED: PermissionError,
}


@dataclasses.dataclass(eq=False, repr=False)
class CoordinatorClient:
  """Calls to one coordinator under one name; for any number of threads.

  It connects in the background; the coordinator need not be up yet. A forked
  child must make its own client, or both would use the same numbers.

  Raises:
    ValueError: A file of `tls_dir` is missing.
  """

  address: str  # host:port.
  _: dataclasses.KW_ONLY
  job: str
  client: str  # Name of the worker, agent or operator.
  generation: int = 0  # Of the job; 0 where there is none.
  # Bearer token, or what returns it as of now; empty for none.
  token: str | Callable[[], str] = ''
  tls_dir: str = ''  # With ca.pem, cert.pem and key.pem; empty: no TLS.
  give_up_s: float = 600.0  # That a call waits for an absent coordinator.

  def __post_init__(self) -> None:
    self.incarnation = secrets.randbits(63) | 1
    self._pid = os.getpid()
    self._order = threading.Lock()  # Held for a sequenced call, repeats too.
    self._sequence = 0
    self._is_known = False  # The coordinator has answered before.
    self._connecting = threading.Lock()
    # Of the job, the highest that a reply has told, and the proof that it did.
    self._told = 0, b''
    self._closed = threading.Event()
    self._check_tls = (
      f'that it has TLS too, of the ca.pem in {self.tls_dir}'
      if self.tls_dir
      else 'whether it has TLS: then give --tls_dir'
    )
    self._tls = rotating_tls(self.tls_dir) if self.tls_dir else None
    self._connect()

  def _connect(self) -> None:
    self._served = self._tls() if self._tls else None
    self._channel = _channel(self.address, self._served)
    self._methods = {
      name: self._channel.unary_unary(
        f'/{SERVICE}/{name}',
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=method.reply.FromString,
      )
      for name, method in METHODS.items()
    }

  def __enter__(self) -> 'CoordinatorClient':
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends calls that wait, with CoordinatorGoneError, and disconnects."""
    self._closed.set()
    if os.getpid() == self._pid:
      self._channel.close()

  def call(
    self, name: str, request: Any, *, give_up_s: float | None = None
  ) -> Any:
    """Sends a request and returns its reply, however often it takes.

    Args:
      name: Name of the call, such as 'Exchange'.
      request: Message of the call; `head` is filled in.
      give_up_s: Seconds to wait, instead of the client's setting.

    Raises:
      StaleError: This process is fenced off.
      ValueError: The coordinator refused the request as wrong.
      LookupError: It does not know the job or data set.
      PermissionError: It does not know the token, or the role may not do this.
      CoordinatorGoneError: It did not answer in time, or `close` was called.
    """
    if os.getpid() != self._pid:
      raise RuntimeError(
        f'CoordinatorClient.call({name!r}): made in process {self._pid} and'
        f' used in {os.getpid()}; make one after the fork.'
      )
    head = request.head
    head.job, head.client = self.job, self.client
    head.incarnation, head.generation = self.incarnation, self.generation
    head.revision, head.revision_proof = self._told
    patience = self.give_up_s if give_up_s is None else give_up_s
    if not METHODS[name].is_journaled:
      head.sequence = 0
      return self._call_until_answered(name, request, patience)
    with self._order:
      self._sequence += 1
      head.sequence = self._sequence
      return self._call_until_answered(name, request, patience)

  def _call_until_answered(
    self, name: str, request: Any, give_up_s: float
  ) -> Any:
    began = time.monotonic()
    delay, was_logged = _FIRST_DELAY_S, False
    was_known, next_s = self._is_known, _QUIET_S
    while not self._closed.is_set():
      left = began + give_up_s - time.monotonic()
      try:
        reply = self._methods[name](
          request,
          timeout=max(0.05, min(_TRY_TIMEOUT_S, left)),
          metadata=self._metadata(),
        )
        if was_logged:
          logging.info('The coordinator at %s is there again.', self.address)
        # A thread that overwrites a higher one only makes the check weaker.
        self._is_known = True
        revision = getattr(reply, 'revision', 0)
        if revision >= self._told[0]:
          self._told = revision, getattr(reply, 'revision_proof', b'')
        # Agents are told it, workers are of one.
        newest = getattr(reply, 'generation', 0)
        self.generation = max(self.generation, newest)
        return reply
      except grpc.RpcError as error:
        code, text = error.code(), error.details() or ''
        is_rotating = (
          code is grpc.StatusCode.UNAUTHENTICATED
          and was_known
          and time.monotonic() - began < _ROTATION_S
        )
        if not is_rotating and not _is_lost(code, text):
          self._refused(name, code, text)
        with self._connecting:
          if self._tls is not None and self._tls() != self._served:
            self._channel.close()
            self._connect()
      except ValueError:  # grpc's, of a channel that was closed meanwhile.
        if self._closed.is_set() or self._tls is None:
          if not self._closed.is_set():
            raise
          break
        code, text = grpc.StatusCode.UNAVAILABLE, 'connecting anew'
      waited = time.monotonic() - began
      reason = f'{code.name}: {text}'
      if waited >= give_up_s:
        raise CoordinatorGoneError(
          f'{name}: the coordinator at {self.address} did not answer for'
          f' {waited:.0f} s ({reason}); check that it runs there and can be'
          f' reached, that the port is its own, and {self._check_tls}.'
        )
      if waited >= next_s:
        logging.warning(
          'The coordinator at %s has not answered for %.0f s; waiting (%s).',
          *(self.address, waited, reason),
        )
        was_logged, next_s = True, max(_SAY_S, 2 * next_s)
      self._closed.wait(delay * random.uniform(0.5, 1.0))
      delay = min(2 * delay, _MAX_DELAY_S)
    raise CoordinatorGoneError(
      f'{name}: the client was closed while it waited for the coordinator at'
      f' {self.address}.'
    )

  def _metadata(self) -> list[tuple[str, str]] | None:
    token = self.token if isinstance(self.token, str) else self.token()
    return [('authorization', f'Bearer {token}')] if token else None

  def _refused(self, name: str, code: grpc.StatusCode, text: str) -> NoReturn:
    message = f'{name}: {text}'
    if code is grpc.StatusCode.UNAUTHENTICATED:
      message += (
        f' The coordinator at {self.address} wants another token; see the token'
        ' file.'
      )
    if code in _ERRORS:
      raise _ERRORS[code](message)
    raise RuntimeError(
      f'{name}: the coordinator at {self.address} failed ({code.name}: {text}).'
    )


def _is_lost(code: grpc.StatusCode, text: str) -> bool:
  """Whether the request may not have arrived, or its reply was lost."""
  if code in (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # By a server that ends.
    grpc.StatusCode.ABORTED,
  ):
    return True
  if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # By grpc, before any answer.
    return _CROWDED in text.lower()
  return code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and any(
    word in text.lower() for word in _LOST
  )


def _channel(address: str, tls: security.Tls | None) -> Any:
  options: Sequence[tuple[str, Any]] = (
    ('grpc.max_send_message_length', MAX_MESSAGE_BYTES),
    ('grpc.max_receive_message_length', MAX_MESSAGE_BYTES),
    # A coordinator that comes back is found at once.
    ('grpc.initial_reconnect_backoff_ms', 100),
    ('grpc.min_reconnect_backoff_ms', 5000),  # Timeout of one attempt.
    ('grpc.max_reconnect_backoff_ms', 1000),
    ('grpc.enable_http_proxy', 0),
    ('grpc.enable_retries', 0),  # `call` does them, with the same head.
    ('grpc.use_local_subchannel_pool', 1),
  )
  if tls is None:
    return grpc.insecure_channel(address, options)
  credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
  return grpc.secure_channel(address, credentials, options)
