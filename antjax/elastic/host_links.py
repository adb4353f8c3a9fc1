# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures the bandwidth between two hosts over a socket.

Each host listens while its agent runs. Who connects shows the host's key, which
the coordinator hands to the job's agents, and sends and gets a fixed number of
bytes; all else is closed.
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
_KEY = struct.Struct('>Q')
_CHUNK = bytes(1 << 18)
_MAX_CALLERS = 8  # At once.


class LinkServer:
  """Lets other hosts measure their link to this one, until it is closed."""

  def __init__(self, address: str):
    """Listens on a free port.

    Raises:
      OSError: The address is not this host's.
    """
    family, *_, target = socket.getaddrinfo(
      address, 0, type=socket.SOCK_STREAM
    )[0]
    self._socket = socket.socket(family, socket.SOCK_STREAM)
    self._socket.bind(target)
    self._socket.listen(_MAX_CALLERS)
    self.port = int(self._socket.getsockname()[1])
    self.key = secrets.randbits(64)
    self._places = threading.BoundedSemaphore(_MAX_CALLERS)
    threading.Thread(target=self._accept, daemon=True).start()

  def close(self) -> None:
    """Stops to listen."""
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

  Args:
    address: Address of the host.
    port: Port of its LinkServer.
    key: Key of its LinkServer.
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
