# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exclusive ports and names on a host."""

import socket
import time

_POLL_S = 0.1


def free_port(address: str) -> int:
  """Returns a port of this host's address that nobody uses now.

  Raises:
    RuntimeError: The address is not this host's.
  """
  try:
    family, *_, target = socket.getaddrinfo(
      address, 0, type=socket.SOCK_STREAM
    )[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
      probe.bind(target)
      return int(probe.getsockname()[1])
  except OSError as error:
    raise RuntimeError(
      f'address={address} is none of this host ({error.strerror}); the other'
      ' hosts could not reach its worker there.'
    ) from error


def hold_name(key: str, *, wait_s: float = 10.0) -> socket.socket:
  """Takes a name on this host until all holders have closed the socket.

  An agent's guard keeps it too, so that a new agent of the same name starts
  only once the worker of a killed one is dead.

  Args:
    key: Job, name and address in one string.
    wait_s: Seconds to wait for the current holder.

  Raises:
    RuntimeError: Another process keeps it.
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
