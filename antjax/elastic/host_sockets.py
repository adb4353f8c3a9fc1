# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A host's sockets: free ports, names held by one, and links to other hosts.

The bandwidth between two hosts is measured over a socket. Each host listens
while its agent runs. Who connects shows the host's key, which the coordinator
hands to the job's agents, and sends and gets a fixed number of bytes; all else
is closed.
"""

import contextlib
import hmac
import secrets
import socket
import struct
import threading
import time

NUM_BYTES = 16 << 20  # Each way.
TIMEOUT_S = 15.0  # For all of it.
_POLL_S = 0.1
_KEY = struct.Struct('>Q')
_CHUNK = bytes(1 << 18)
_MAX_CALLERS = 8  # At once.


def _bound(address: str) -> socket.socket:
  """Returns a socket at a free port of this host's address."""
  family, *_, target = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[
    0
  ]
  bound = socket.socket(family, socket.SOCK_STREAM)
  try:
    bound.bind(target)
  except OSError:
    bound.close()
    raise
  return bound


def free_port(address: str) -> int:
  """Returns a port of this host's address that nobody uses now.

  Raises:
    RuntimeError: The address is not this host's.
  """
  try:
    with _bound(address) as probe:
      return int(probe.getsockname()[1])
  except OSError as error:
    raise RuntimeError(
      f'address={address} is none of this host ({error.strerror}); the other'
      ' hosts could not reach its worker there.'
    ) from error


def hold_name(key: str, *, wait_s: float = 10.0) -> socket.socket:
  """Takes a name on this host until all holders have closed the socket.

  An agent's guard keeps it too, so that a new agent of the same name starts
  only once the worker of a killed one is dead. The key is job, name and address
  in one string.

  Raises:
    RuntimeError: Another process keeps it after `wait_s`.
  """
  held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
  end = time.monotonic() + wait_s
  while True:
    try:
      held.bind(f'\0antjax-agent/{key}'[:107])  # Abstract: leaves no file.
      return held
    except OSError as error:
      if time.monotonic() > end:
        held.close()
        raise RuntimeError(
          f'an agent {key} runs on this host already; end it, or give this one'
          ' another --name.'
        ) from error
      time.sleep(_POLL_S)


class LinkServer:
  """Lets other hosts measure their link to this one, until it is closed."""

  def __init__(self, address: str):
    """Listens on a free port.

    Raises:
      OSError: The address is not this host's.
    """
    self._socket = _bound(address)
    self._socket.listen(_MAX_CALLERS)
    self.port = int(self._socket.getsockname()[1])
    self.key = secrets.randbits(64)
    self._places = threading.BoundedSemaphore(_MAX_CALLERS)
    threading.Thread(target=self._accept, daemon=True).start()

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._socket.shutdown(socket.SHUT_RDWR)  # Wakes `accept`.
    self._socket.close()

  def _accept(self) -> None:
    while True:
      try:
        caller, _ = self._socket.accept()
      except OSError:
        return  # It is closed.
      if not self._places.acquire(blocking=False):
        caller.close()
        continue
      threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

  def _serve(self, caller: socket.socket) -> None:
    try:
      with caller, contextlib.suppress(OSError):
        end = time.monotonic() + TIMEOUT_S
        caller.settimeout(TIMEOUT_S)
        shown = _receive(caller, _KEY.size, end, keep=True)
        if hmac.compare_digest(shown, _KEY.pack(self.key)):
          _receive(caller, NUM_BYTES, end)
          _send(caller, end)
    finally:
      self._places.release()


def measure(address: str, port: int, key: int) -> float:
  """Returns the bytes a second to and from a host; 0: the link does not work.

  Port and key are of its LinkServer.
  """
  end = time.monotonic() + TIMEOUT_S
  try:
    with socket.create_connection((address, port), TIMEOUT_S) as peer:
      peer.sendall(_KEY.pack(key))
      began = time.monotonic()
      _send(peer, end)
      _receive(peer, NUM_BYTES, end)
  except OSError:
    return 0.0
  return 2 * NUM_BYTES / max(time.monotonic() - began, 1e-9)


def _send(to: socket.socket, end: float) -> None:
  for _ in range(NUM_BYTES // len(_CHUNK)):
    to.settimeout(max(1e-3, end - time.monotonic()))
    to.sendall(_CHUNK)


def _receive(
  of: socket.socket, num: int, end: float, keep: bool = False
) -> bytes:
  """Gets so many bytes; raises OSError where they do not come."""
  kept = b''
  while num:
    of.settimeout(max(1e-3, end - time.monotonic()))
    data = of.recv(min(num, len(_CHUNK)))
    if not data:
      raise ConnectionError('the other side has closed')
    num -= len(data)
    if keep:
      kept += data
  return kept
