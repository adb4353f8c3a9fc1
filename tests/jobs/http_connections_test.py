# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""HTTP connections: slow clients are bounded, and answers keep their order."""

import asyncio
import socket
import time

import pytest
import uvloop

from antjax.jobs import http_connections
from antjax.jobs.http_connections import Bounds, Listener, Reply

LARGE = b'x' * (4 << 20)  # More than the buffers of a connection.


def run(body, **limits):
  """Runs `body(listener, port)` beside a listener that says what it heard."""
  limits = {'connections': 20, 'body_bytes': 5000, 'client_s': 30} | limits

  def answer(call, send):
    loop = asyncio.get_running_loop()
    if call.path == '/large':
      send(Reply(200, LARGE))
    elif call.path == '/later':
      loop.call_later(0.05, send, Reply(200, call.body))
    else:
      send(Reply(200, f'{call.method} {call.path} '.encode() + call.body))

  async def beside():
    listener = Listener(
      answer,
      lambda status, text: Reply(status, text.encode(), 'text/plain'),
      Bounds(always_answered=('/healthz',), **limits),
    )
    port = await listener.start('127.0.0.1', 0, None)
    try:
      async with asyncio.timeout(60):
        await body(listener, port)
    finally:
      listener.close()

  uvloop.run(beside())


def opened(port):
  return asyncio.open_connection('127.0.0.1', port)


async def said(port, data):
  """All that is answered until the connection is closed."""
  reader, writer = await opened(port)
  writer.write(data)
  found = await reader.read()
  writer.close()
  return found


def post(path, content, more=''):
  head = f'POST {path} HTTP/1.1\r\nContent-Length: {len(content)}\r\n{more}\r\n'
  return head.encode() + content


LAST = b'GET /last HTTP/1.1\r\nConnection: close\r\n\r\n'


def test_answers_keep_their_order():
  async def body(listener, port):
    data = post('/later', b'one') + post('/now?a=b', b'two') + LAST
    for parts in ([data], [data[i : i + 1] for i in range(len(data))]):
      reader, writer = await opened(port)
      for part in parts:
        writer.write(part)
        await asyncio.sleep(0)
      found = await reader.read()
      assert [x.partition(b'\r\n\r\n')[2] for x in found.split(b'HTTP/1.1 ')][
        1:
      ] == [b'one', b'POST /now two', b'GET /last ']
      writer.close()
    # What cannot be read is refused behind the answers before it.
    found = await said(port, post('/later', b'one') + b'nothing\r\n\r\n')
    assert found.count(b'HTTP/1.1 ') == 2
    assert found.index(b'200 OK') < found.index(b'400 Bad Request')

  run(body)


@pytest.mark.parametrize(
  ('data', 'status'),
  [
    (b'GET / HTTP/1.1\r\nConnection: close\r\n\r\n', 200),
    (b'HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n', 200),
    (b'GET / HTTP/1.0\r\n\r\n', 200),
    (
      b'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n'
      b'\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n',
      200,
    ),
    (b'\x16\x03\x01\x02\x00\x01\x00', 400),
    (b'GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n', 200),
    (b'GET / HTTP/1.1\r\na: ' + b'b' * 20_000, 431),
    (post('/', b' ' * 5001), 413),
    (
      b'POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n'
      b'\r\n0\r\n\r\n',
      400,
    ),
  ],
)
def test_requests_of_all_kinds(data, status):
  async def body(listener, port):
    found = await said(port, data)
    assert found.startswith(b'HTTP/1.1 %d ' % status), found
    if b'chunked' in data and status == 200:
      assert found.endswith(b'POST / abc')
    if data.startswith(b'HEAD'):
      assert found.endswith(b'\r\n\r\n') and b'Content-Length: 7' in found

  run(body)


def test_it_says_continue():
  async def body(listener, port):
    reader, writer = await opened(port)
    data = post('/', b'abc', 'Expect: 100-continue\r\n')
    writer.write(data[:-3])
    assert await reader.readuntil(b'\r\n\r\n') == (
      b'HTTP/1.1 100 Continue\r\n\r\n'
    )
    writer.write(data[-3:])
    assert (await reader.readuntil(b'abc')).startswith(b'HTTP/1.1 200')
    writer.close()

  run(body)


def test_who_sends_slowly_is_refused():
  async def body(listener, port):
    assert (await said(port, post('/', b'abc')[:-1])).startswith(
      b'HTTP/1.1 408'
    )
    assert await said(port, b'') == b''
    reader, writer = await opened(port)
    writer.write(post('/', b'abc'))
    assert await reader.readuntil(b'abc')
    assert await reader.read() == b''  # Idle for too long.
    writer.close()
    # Bytes one by one do not make the time longer.
    reader, writer = await opened(port)
    start = time.monotonic()
    for byte in post('/', b'abc' * 1000):
      if writer.is_closing() or reader.at_eof():
        break
      writer.write(bytes([byte]))
      await asyncio.sleep(0.05)
    assert time.monotonic() - start < 20
    writer.close()
    while listener.connections:
      await asyncio.sleep(0.05)

  run(body, client_s=0.5, idle_s=0.3)


@pytest.mark.parametrize('data', [b'GET /large HTTP/1.1\r\n\r\n' * 50, LAST])
def test_who_does_not_read_is_ended(data):
  async def body(listener, port):
    slow = [socket.create_connection(('127.0.0.1', port)) for _ in range(3)]
    for one in slow:
      one.sendall(data.replace(b'/last', b'/large'))
    while len(listener.connections) < 3:
      await asyncio.sleep(0.01)
    found = await said(port, LAST)  # Others are answered meanwhile.
    assert found.endswith(b'GET /last ')
    while listener.connections:
      await asyncio.sleep(0.05)
    for one in slow:
      one.close()

  run(body, client_s=0.5)


def test_health_is_answered_when_all_places_are_taken():
  async def body(listener, port):
    held = [await opened(port) for _ in range(2)]
    health = LAST.replace(b'/last', b'/healthz')
    assert (await said(port, health)).startswith(b'HTTP/1.1 200')
    found = await said(port, LAST)
    assert found.startswith(b'HTTP/1.1 503') and b'come again' in found
    for _ in range(http_connections._SURPLUS):
      held.append(await opened(port))
    assert (await said(port, b'')).startswith(b'HTTP/1.1 503')
    assert len(listener.connections) <= 2 + http_connections._SURPLUS
    # They are told so, and there is room for others again.
    assert (await held[-1][0].read()).startswith(b'HTTP/1.1 503')
    assert (await said(port, health)).startswith(b'HTTP/1.1 200')
    for _, writer in held:
      writer.close()

  run(body, connections=2)


def test_a_new_connection_takes_the_place_of_an_idle_one(monkeypatch):
  monkeypatch.setattr(http_connections, '_LEAST_IDLE_S', 0.1)

  async def body(listener, port):
    busy, idle = await opened(port), await opened(port)
    await asyncio.sleep(0.2)
    busy[1].write(post('/', b'abc')[:-1])
    await asyncio.sleep(0.1)
    assert (await said(port, LAST)).endswith(b'GET /last ')
    busy[1].write(b'c')
    assert await busy[0].readuntil(b'abc')
    assert await idle[0].read() == b''
    for _, writer in (busy, idle):
      writer.close()

  run(body, connections=2)
