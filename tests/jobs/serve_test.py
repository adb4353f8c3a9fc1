# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The HTTP service: answers, refusals, overload, and a clean end."""

import asyncio
import gc
import gzip
import json
import ssl
import threading
from unittest import mock

import aiohttp
from google.protobuf.wrappers_pb2 import BytesValue
import grpc
import grpc.aio
import pytest
import uvloop

from antjax.elastic import security
from antjax.elastic.rotation import rotating_tls
from antjax.elastic.security import Grant, RoleTokens
from antjax.jobs import serve
from antjax.jobs.http_connections import Bounds
from antjax.jobs.serve_grpc import GrpcFront, HEALTH, SCORE, SCORE_STREAM
from antjax.jobs.serve_http import Front, Metrics
from antjax.serving.batcher import Batcher, Full, Request
from antjax.serving.served import BadField, need
from tests.elastic import certificates

TOKEN = 'a-token-of-a-test'


class Doubled:
  """Answers a number with twice it, when it is let."""

  def __init__(self):
    self.gate = threading.Event()
    self.gate.set()
    self.batches = []

  def read(self, fields):
    need(fields, ['x'], ['x'])
    if type(fields['x']) is not int:
      raise BadField('x', repr(fields['x']), 'an integer', 0)
    return Request(fields['x'], 10)

  def score(self, requests):
    self.gate.wait(30)
    self.batches.append([one.content for one in requests])
    if 13 in self.batches[-1]:
      raise ValueError('13 cannot be doubled')
    return [{'y': 2 * one.content} for one in requests]

  def warm(self):
    pass


def run(body, *, served=None, batcher=None, **options):
  """Runs `body(session, front, served)` beside a service."""
  served = served or Doubled()
  made = {'batch_rows': 100, 'max_waiting_rows': 40} | (batcher or {})
  metrics = Metrics()
  observe = metrics.batch_rows.observe
  made = Batcher(served, version=lambda: 7, observe=observe, **made)
  options = {'limits': Bounds(20, 1000)} | options
  front = Front(served, made, metrics, address='127.0.0.1', port=0, **options)

  async def beside():
    await front.start()
    made.start()
    front.trouble = ''
    connector = aiohttp.TCPConnector(limit=0)
    try:
      async with asyncio.timeout(60):
        async with aiohttp.ClientSession(front.url, connector=connector) as s:
          return await body(s, front, served)
    finally:
      served.gate.set()
      await front.close(5)
      made.close()

  return uvloop.run(beside())  # As the server does.


async def ask(session, content, **options):
  options = {'json': content} if not isinstance(content, bytes) else options
  async with session.post('/v1/score', **options) as reply:
    return reply.status, await reply.json()


def test_answers_and_refusals():
  async def body(session, front, served):
    assert await ask(session, {'x': 3}) == (200, {'version': 7, 'y': 6})
    code, reply = await ask(session, {'x': 'a'})
    assert code == 400 and reply['error']['message'] == (
      "x, row 0: got 'a'; needed is an integer."
    )
    assert reply['error']['field'] == 'x' and reply['error']['row'] == 0
    for content, told in (({}, 'x: got only nothing'), ([], 'an object')):
      code, reply = await ask(session, content)
      assert code == 400 and told in reply['error']['message']
    of_json = {'headers': {'Content-Type': 'application/json'}}
    for data in (b'{', b'[' * 999, b'{"x": NaN}', b'\xff'):
      assert (await ask(session, b'', data=data, **of_json))[0] == 400
    packed = {'headers': {**of_json['headers'], 'Content-Encoding': 'gzip'}}
    code, reply = await ask(session, b'', data=b'{}', **packed)
    assert code == 400 and 'content-encoding' in reply['error']['message']
    data = gzip.compress(b' ' * 2000)
    assert (await ask(session, b'', data=data, **packed))[0] == 413
    data = gzip.compress(b'{"x": 3}')[:-9]
    assert (await ask(session, b'', data=data, **packed))[0] == 400
    for path, code in (('/nothing', 404), ('/v1/score', 405)):
      async with session.get(path) as reply:
        assert reply.status == code
    assert (await ask(session, b'', data=b'{}'))[0] == 415
    assert (await ask(session, b'', data=b' ' * 1001, **of_json))[0] == 413
    async with session.get('/readyz') as reply:
      assert reply.status == 200 and (await reply.json())['ready']
    async with session.get('/metrics') as reply:
      text = await reply.text()
    assert 'antjax_serve_requests_total{code="200"} 1.0' in text
    assert 'antjax_serve_batch_rows_count 1.0' in text
    assert 'antjax_serve_requests_total{code="413"} 2.0' in text
    data = gzip.compress(b'{"x": 3}')
    assert (await ask(session, b'', data=data, **packed))[1]['y'] == 6
    foreign = {'headers': {'Host': 'evil.example'}}
    async with session.post('/v1/score', json={'x': 1}, **foreign) as reply:
      assert reply.status == 403

  run(body)


def test_requests_that_wait_go_together_and_more_are_refused():
  async def body(session, front, served):
    served.gate.clear()
    first = asyncio.create_task(ask(session, {'x': 1}))
    while front._batcher.waiting_rows or not front._num_open:
      await asyncio.sleep(0.01)
    waiting = [
      asyncio.create_task(ask(session, {'x': x})) for x in (2, 13, 4, 5)
    ]
    while front._batcher.waiting_rows < 40:
      await asyncio.sleep(0.01)
    async with session.post('/v1/score', json={'x': 6}) as reply:
      assert reply.status == 503 and reply.headers['Retry-After'] == '1'
    served.gate.set()
    assert (await first)[1]['y'] == 2
    found = await asyncio.gather(*waiting)
    # The one that cannot be answered harms no other.
    assert [code for code, _ in found] == [200, 400, 200, 200]
    assert [reply.get('y') for _, reply in found] == [4, None, 8, 10]
    assert sorted(served.batches[1]) == [2, 4, 5, 13]

  run(body)


def test_tokens():
  tokens = RoleTokens(((TOKEN.encode(), Grant('viewer')),))

  async def body(session, front, served):
    assert (await ask(session, {'x': 1}))[0] == 401
    headers = {'Authorization': f'Bearer {TOKEN}'}
    async with session.post('/v1/score', json={'x': 1}, headers=headers) as r:
      assert r.status == 200
    for path, code in (('/metrics', 401), ('/healthz', 200), ('/readyz', 200)):
      async with session.get(path) as reply:
        assert reply.status == code

  run(body, tokens=lambda: tokens)


@certificates.needs_openssl
def test_clients_need_a_certificate(tmp_path):
  certificates.make(tmp_path, 'server', 'client')

  async def body(session, front, served):
    tls = ssl.create_default_context(cafile=tmp_path / 'ca.pem')
    for name in ('', 'client'):
      if name:
        own = tmp_path / name
        tls.load_cert_chain(own / 'cert.pem', own / 'key.pem')
      connector = aiohttp.TCPConnector(ssl=tls)
      async with aiohttp.ClientSession(front.url, connector=connector) as one:
        if name:
          assert (await ask(one, {'x': 1}))[0] == 200
        else:
          with pytest.raises(aiohttp.ClientError):
            await ask(one, {'x': 1})

  server = security.page_tls(tmp_path / 'server', is_mutual=True)
  run(body, tls=server)


def test_what_came_is_answered_before_the_end():
  async def body(session, front, served):
    served.gate.clear()
    last = asyncio.create_task(ask(session, {'x': 4}))
    while not front._num_open:
      await asyncio.sleep(0.01)
    end = asyncio.create_task(front.close(30))
    await asyncio.sleep(0.05)
    assert not end.done() and front.trouble
    with pytest.raises(aiohttp.ClientError):
      async with aiohttp.ClientSession(front.url) as other:
        await ask(other, {'x': 5})
    served.gate.set()
    assert await last == (200, {'version': 7, 'y': 8})
    await end

  run(body)


def test_connections_are_bounded():
  async def body(session, front, served):
    held = [
      await asyncio.open_connection('127.0.0.1', front.port) for _ in range(2)
    ]
    surplus = await asyncio.open_connection('127.0.0.1', front.port)
    assert (await surplus[0].read()).startswith(b'HTTP/1.1 503')
    for _, writer in [*held, surplus]:
      writer.close()

  run(body, limits=Bounds(2, 1000))


def test_a_closed_batcher_takes_nothing():
  batcher = Batcher(Doubled(), batch_rows=1, max_waiting_rows=1)
  batcher.close()

  async def late():
    with pytest.raises(Full):
      batcher.submit(Request(1, 1))

  asyncio.run(late())


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'address': '0.0.0.0'}, 'token_file and --tls_dir'),
    ({'port': 70_000}, 'port must be 0 to 65535; got 70000'),
    ({'max_rows': 0}, 'max_rows must be positive; got 0'),
    ({'grpc_port': 0, 'processes': 2}, 'several processes need the same'),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  with pytest.raises(ValueError, match=message):
    serve.Config(model='m', **changes)


def test_a_folder_without_a_model(tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no exported model'):
    serve.load(serve.Config(model=str(tmp_path)))


def test_grpc_answers_as_http_does():
  tokens = RoleTokens(((TOKEN.encode(), Grant('viewer')),))

  async def body(session, front, served):
    rpc = GrpcFront(front, port=0)
    await rpc.start()
    async with grpc.aio.insecure_channel(f'127.0.0.1:{rpc.port}') as channel:
      metadata = (('authorization', f'Bearer {TOKEN}'),)

      async def ask(content, metadata=metadata):
        score = channel.unary_unary(SCORE)
        data = content
        if not isinstance(content, bytes):
          text = json.dumps(content).encode()
          data = BytesValue(value=text).SerializeToString()
        reply = await score(data, metadata=metadata, timeout=30)
        return json.loads(BytesValue.FromString(reply).value)

      assert await ask({'x': 3}) == {'version': 7, 'y': 6}
      for content, code, told in (
        ({'x': 'a'}, 'INVALID_ARGUMENT', "x, row 0: got 'a'; needed is"),
        ({'x': 'a' * 2000}, 'RESOURCE_EXHAUSTED', 'larger than max'),
        (b'\xff', 'INVALID_ARGUMENT', 'needed is a google.protobuf.BytesVa'),
        (b'', 'INVALID_ARGUMENT', 'is no JSON'),
      ):
        with pytest.raises(grpc.aio.AioRpcError, match=told) as error:
          await ask(content)
        assert error.value.code().name == code
      with pytest.raises(grpc.aio.AioRpcError, match='Bearer TOKEN') as error:
        await ask({'x': 1}, None)
      assert error.value.code().name == 'UNAUTHENTICATED'
      # A request that does not come holds no place for long.
      slow = channel.stream_unary(SCORE)(metadata=metadata, timeout=30)
      assert await slow.code() == grpc.StatusCode.DEADLINE_EXCEEDED
      served.gate.clear()
      first = asyncio.create_task(ask({'x': 1}))
      while front._batcher.waiting_rows or not front._num_open:
        await asyncio.sleep(0.01)
      waiting = [asyncio.create_task(ask({'x': x})) for x in (2, 13, 4, 5)]
      while front._batcher.waiting_rows < 40:
        await asyncio.sleep(0.01)
      with pytest.raises(grpc.aio.AioRpcError, match='rows wait') as error:
        await ask({'x': 6})
      assert error.value.code().name == 'UNAVAILABLE'
      health = channel.unary_unary(HEALTH)
      assert await health(b'') == b'\x08\x01'
      end = asyncio.gather(front.close(30), rpc.close(30))
      served.gate.set()
      assert (await first)['y'] == 2
      found = await asyncio.gather(*waiting, return_exceptions=True)
      assert [type(x) for x in found] == [
        dict,
        grpc.aio.AioRpcError,
        dict,
        dict,
      ]
      await end

  run(body, tokens=lambda: tokens, limits=Bounds(20, 1000, 0.5))


def test_garbage_does_not_end_the_thread_of_grpc():
  """What ends it waits for all its calls, in any thread that collects."""

  async def body(session, front, served):
    rpc = GrpcFront(front, port=0)
    await rpc.start()
    await rpc.close(5)

  def polling():
    return {x for x in threading.enumerate() if '_poll_wrapper' in x.name}

  run(body)
  before = polling()
  gc.collect()
  assert len(before) == 1 and polling() == before


def test_a_grpc_stream_is_answered_in_order():
  tokens = RoleTokens(((TOKEN.encode(), Grant('viewer')),))

  async def body(session, front, served):
    rpc = GrpcFront(front, port=0)
    await rpc.start()
    async with grpc.aio.insecure_channel(f'127.0.0.1:{rpc.port}') as channel:
      ask = channel.stream_stream(
        SCORE_STREAM,
        request_serializer=lambda x: BytesValue(value=x).SerializeToString(),
        response_deserializer=lambda x: json.loads(
          BytesValue.FromString(x).value
        ),
      )
      metadata = (('authorization', f'Bearer {TOKEN}'),)
      call = ask(metadata=metadata)
      for x in (1, 2, 3):
        await call.write(b'{"x": %d}' % x)
      assert [(await call.read())['y'] for _ in range(3)] == [2, 4, 6]
      await call.done_writing()
      assert await call.code() == grpc.StatusCode.OK
      for content, known, code, told in (
        (b'{"x": "a"}', metadata, 'INVALID_ARGUMENT', "x, row 0: got 'a'; n"),
        (b'{"x": 1}', None, 'UNAUTHENTICATED', 'Bearer TOKEN'),
        (None, metadata, 'DEADLINE_EXCEEDED', 'no request came in 2 s'),
      ):
        call = ask(metadata=known)
        if content is not None:
          await call.write(content)
        assert (await call.code()).name == code
        assert told in await call.details()

      async def forever(reply):
        await asyncio.Event().wait()

      unread = mock.AsyncMock(write=forever)
      unread.invocation_metadata = lambda: metadata
      unread.read.return_value = BytesValue(
        value=b'{"x": 1}'
      ).SerializeToString()
      unread.abort.side_effect = grpc.aio.AbortError
      with pytest.raises(grpc.aio.AbortError):
        await rpc._stream(None, unread)
      late = 'the reply was not read in 0.5 s.'
      unread.abort.assert_called_with(grpc.StatusCode.DEADLINE_EXCEEDED, late)
      # Those that wait for a request do not hold up the end; open ones do.
      idle, call = (ask(metadata=metadata) for _ in range(2))
      await idle.write(b'{"x": 1}')
      assert (await idle.read())['y'] == 2
      served.gate.clear()
      await call.write(b'{"x": 4}')
      while not front._num_open:
        await asyncio.sleep(0.01)
      end = asyncio.gather(front.close(30), rpc.close(30))
      assert (await idle.code()).name == 'UNAVAILABLE'
      served.gate.set()
      assert (await call.read())['y'] == 8
      assert await call.details() == 'the server stops'
      await end

  run(body, tokens=lambda: tokens, limits=Bounds(20, 1000, 0.5, 2.0))


@certificates.needs_openssl
def test_grpc_clients_need_a_certificate(tmp_path):
  certificates.make(tmp_path, 'server', 'client')

  async def body(session, front, served):
    tls = rotating_tls(str(tmp_path / 'server'))
    rpc = GrpcFront(front, port=0, tls=tls)
    await rpc.start()
    ca = (tmp_path / 'ca.pem').read_bytes()
    own = [tmp_path / 'client' / f'{n}.pem' for n in ('key', 'cert')]
    data = BytesValue(value=b'{"x": 1}').SerializeToString()
    for pair in ((None, None), [path.read_bytes() for path in own]):
      credentials = grpc.ssl_channel_credentials(ca, *pair)
      where = f'localhost:{rpc.port}'
      async with grpc.aio.secure_channel(where, credentials) as channel:
        call = channel.unary_unary(SCORE)(data, timeout=20)
        if pair[0]:
          assert b'"y":2' in await call
        else:
          with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
          assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    await rpc.close(5)

  run(body)
