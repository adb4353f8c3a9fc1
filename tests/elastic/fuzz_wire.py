# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bytes on the wire that no client of ours would send."""

import struct

from antjax.elastic import protocol
from tests.elastic.coordinator_server import TOKENS

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
SETTINGS = b'\0\0\0\4\0\0\0\0\0'


def frame(kind, flags, stream, payload, length=None):
  size = len(payload) if length is None else length
  head = struct.pack('>I', size)[1:] + bytes([kind, flags])
  return head + struct.pack('>I', stream) + payload


def _literal(name, value):
  """A header that HPACK does not keep."""
  parts = [
    bytes([len(text)]) + text for text in (name.encode(), value.encode())
  ]
  return b'\0' + b''.join(parts)


def call_head(method='Exchange', token='worker'):
  return b''.join(
    _literal(name, value)
    for name, value in (
      (':method', 'POST'),
      (':scheme', 'http'),
      (':path', f'/{protocol.SERVICE}/{method}'),
      (':authority', 'localhost'),
      ('content-type', 'application/grpc'),
      ('te', 'trailers'),
      ('authorization', f'Bearer {TOKENS[token]}'),
    )
  )


def wire_case(rng):
  """Returns bytes that no client of ours would send."""
  kind = rng.randrange(6)
  if kind == 0:
    return rng.randbytes(rng.choice([1, 9, 100, 5000]))
  if kind == 1:
    return b'GET /status HTTP/1.1\r\nHost: x\r\n\r\n' + rng.randbytes(9)
  data = PREFACE + SETTINGS
  if kind == 2:  # Frames of any type on any stream.
    for _ in range(rng.randrange(1, 10)):
      payload = rng.randbytes(rng.choice([0, 4, 5, 8, 100, 9000]))
      length = rng.choice([None, None, 0, 1 << 14, (1 << 24) - 1])
      data += frame(
        rng.randrange(12),
        rng.randrange(256),
        rng.choice([0, 1, 2, 3, 7, (1 << 31) - 1, 1 << 31]),
        payload,
        length,
      )
  elif kind == 3:  # A call whose message is not what it says.
    body = rng.randbytes(rng.choice([0, 3, 50]))
    size = rng.choice([len(body), 0, 1 << 20, (1 << 32) - 1])
    message = bytes([rng.choice([0, 0, 1, 9])]) + struct.pack('>I', size) + body
    method = rng.choice([*protocol.METHODS, 'Nothing'])
    data += frame(1, 4, 1, call_head(method)) + frame(0, 1, 1, message)
  elif kind == 4:  # Many calls, each given up at once.
    for stream in range(1, 2 * rng.randrange(1, 200), 2):
      data += frame(1, 4, stream, call_head())
      data += frame(3, 0, stream, struct.pack('>I', 8))
  else:  # Headers without an end.
    data += frame(1, 0, 1, call_head())
    for _ in range(rng.randrange(50)):
      data += frame(9, 0, 1, _literal('x' * 100, 'y' * 120))
  return data
