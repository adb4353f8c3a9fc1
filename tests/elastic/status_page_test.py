# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The status page: what it serves, whom it refuses, what does it no harm."""

import asyncio
import contextlib
import gzip
import json
import logging
import re
import shutil
import ssl

import pytest

from antjax.elastic import rotation, security, status_page
from tests.elastic import certificates, status_examples
from tests.elastic.event_loop import beside, run


@contextlib.asynccontextmanager
async def serving(folder, snapshot_fn=None, **options):
  """Serves a page of the lively job."""
  del folder
  snapshot_fn = snapshot_fn or (lambda: status_examples.lively().snapshot())
  page = status_page.StatusPage(snapshot_fn, **options)
  await page.start()
  try:
    yield page
  finally:
    await page.close()


async def _send(page, data, tls=None):
  """Sends bytes; returns all that comes back."""
  reader, writer = await asyncio.open_connection(
    '127.0.0.1', page.port, ssl=tls
  )
  writer.write(data)
  # It hangs up before all is sent where that is too much.
  with contextlib.suppress(ConnectionError):
    await writer.drain()
  out = b''
  with contextlib.suppress(ConnectionError):
    while chunk := await reader.read(65536):
      out += chunk
  writer.close()
  return out


async def _get(page, path, *, method='GET', **headers):
  """Returns status, headers (lower case) and body."""
  lines = [f'{method} {path} HTTP/1.1']
  headers = {'Host': f'localhost:{page.port}', **headers}
  lines += [f'{k.replace("_", "-")}: {v}' for k, v in headers.items()]
  out = await _send(page, ('\r\n'.join(lines) + '\r\n\r\n').encode())
  head, _, body = out.partition(b'\r\n\r\n')
  first, *rest = head.decode().split('\r\n')
  fields = [line.split(': ', 1) for line in rest]
  return int(first.split()[1]), {k.lower(): v for k, v in fields}, body


@beside(serving)
async def test_paths(page):
  code, headers, text = await _get(page, '/')
  assert code == 200 and text.startswith(b'<!DOCTYPE html>')
  assert headers['content-type'] == 'text/html; charset=utf-8'
  code, headers, text = await _get(page, '/status.json')
  assert code == 200 and headers['content-type'] == 'application/json'
  assert json.loads(text)['jobs'][0]['name'] == 'ctr'
  code, headers, text = await _get(page, '/metrics')
  assert code == 200 and b'antjax_job_step{job_name="ctr"} 412.0' in text
  assert (await _get(page, '/healthz'))[::2] == (200, b'ok\n')
  assert (await _get(page, '/nothing/here'))[0] == 404


@beside(serving)
async def test_page_needs_nothing_from_outside(page):
  _, headers, text = await _get(page, '/')
  page_text = text.decode()
  policy = headers['content-security-policy']
  assert "default-src 'none'" in policy and 'unsafe' not in policy
  for header in ('x-frame-options', 'x-content-type-options'):
    assert header in headers
  assert headers['cache-control'] == 'no-store'
  # A name of SVG elements, and no address, is all that looks like one.
  assert set(re.findall(r'https?://[^\'" ]+', page_text)) == {
    'http://www.w3.org/2000/svg'
  }
  # Data are shown as text only.
  for way in ('innerHTML', 'outerHTML', 'insertAdjacent', 'eval(', 'write('):
    assert way not in page_text


@beside(serving)
async def test_head_says_the_same_without_the_body(page):
  for path in ('/', '/metrics', '/healthz'):
    code, headers, text = await _get(page, path, method='HEAD')
    assert code == 200 and text == b'' and int(headers['content-length']) > 0


@beside(serving)
async def test_only_reading_methods(page):
  for method in ('POST', 'PUT', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT'):
    code, headers, _ = await _get(page, '/', method=method)
    assert code == 405 and headers['allow'] == 'GET, HEAD'


@beside(serving)
async def test_compressed_where_asked(page):
  _, headers, text = await _get(page, '/status.json', Accept_Encoding='gzip')
  assert headers['content-encoding'] == 'gzip'
  assert json.loads(gzip.decompress(text))['version'] == 1


@run
async def test_one_snapshot_a_second_for_all():
  now, taken = [100.0], []

  def snapshot_fn():
    taken.append(now[0])
    return status_examples.Known().snapshot()

  async with serving(None, snapshot_fn, clock=lambda: now[0]) as page:
    await asyncio.gather(*(_get(page, '/status.json') for _ in range(20)))
    assert len(taken) == 1
    now[0] += 1.0
    await _get(page, '/metrics')
    assert len(taken) == 2


@run
async def test_failing_snapshot_is_logged_and_not_told(caplog):
  def snapshot_fn():
    raise RuntimeError('secret inner state')

  async with serving(None, snapshot_fn) as page:
    with caplog.at_level(logging.ERROR):
      code, _, text = await _get(page, '/status.json')
    assert code == 500 and b'secret' not in text
    assert (await _get(page, '/healthz'))[0] == 200
  assert 'secret inner state' in caplog.text


# --- Who may look. -----------------------------------------------------------


@pytest.mark.parametrize('address', ['0.0.0.0', '::', '10.1.2.3', 'host.lan'])
def test_other_machines_need_a_token(address):
  with pytest.raises(ValueError, match='Give a token'):
    status_page.StatusPage(dict, address=address)
  status_page.StatusPage(dict, address=address, token='t')
  status_page.StatusPage(dict, address=address, is_insecure=True)


@pytest.mark.parametrize('address', ['127.0.0.1', '127.9.9.9', '::1'])
def test_loopback_needs_none(address):
  status_page.StatusPage(dict, address=address)


@beside(serving)
async def test_names_of_foreign_pages_are_refused(page):
  for host in ('evil.example', f'evil.example:{page.port}', '8.8.8.8:80'):
    assert (await _get(page, '/status.json', Host=host))[0] == 403, host
  for host in ('localhost', '127.0.0.1:8080', '[::1]:80', '[::1]'):
    assert (await _get(page, '/status.json', Host=host))[0] == 200, host


@beside(serving, token='s3cret')
async def test_token(page):
  for path in ('/', '/status.json', '/metrics'):
    code, headers, text = await _get(page, path)
    assert code == 401 and headers['www-authenticate'] == 'Bearer'
    assert b'w3' not in text
    for bad in ('Bearer', 'Bearer x', 'Basic s3cret', 'Bearer s3cret2'):
      assert (await _get(page, path, Authorization=bad))[0] == 401
    good = await _get(page, path, Authorization='Bearer s3cret')
    assert good[0] == 200
    # A token makes any name of the machine good.
    good = await _get(page, path, Authorization='Bearer s3cret', Host='a.b')
    assert good[0] == 200
  assert (await _get(page, '/healthz'))[0] == 200


@beside(serving, token='s3cret')
async def test_token_in_the_address_becomes_a_cookie(page):
  assert (await _get(page, '/?token=wrong'))[0] == 401
  code, headers, _ = await _get(page, '/?token=s3cret')
  assert code == 303 and headers['location'] == '/'
  cookie = headers['set-cookie']
  assert 'HttpOnly' in cookie and 'SameSite=Lax' in cookie
  assert 's3cret' not in cookie
  pair = cookie.split(';')[0]
  code, _, _ = await _get(page, '/status.json', Cookie=f'other=1; {pair}')
  assert code == 200
  assert (await _get(page, '/', Cookie=pair + 'x'))[0] == 401
  assert (await _get(page, '//evil.example?token=s3cret'))[0] == 404


@beside(serving, token='é&+')
async def test_token_of_any_characters(page):
  assert (await _get(page, '/?token=%C3%A9%26%2B'))[0] == 303
  assert (await _get(page, '/?token=%ff%fe'))[0] == 401


@certificates.needs_openssl
@run
async def test_tls(tmp_path):
  certificates.make(tmp_path, 'server')
  request = b'GET /?token=s3cret HTTP/1.0\r\n\r\n'
  tls = security.page_tls(tmp_path / 'server')
  async with serving(None, token='s3cret', tls=tls) as page:
    assert page.url.startswith('https://')
    tls = ssl.create_default_context(cafile=tmp_path / 'ca.pem')
    reply = await _send(page, request, tls)
    assert b' 303 ' in reply.splitlines()[0] and b'; Secure' in reply
    # Who speaks without it is hung up on, and gets nothing.
    assert b'HTTP' not in await _send(page, request)


@certificates.needs_openssl
@run
async def test_its_certificate_changes_without_a_restart(tmp_path, monkeypatch):
  monkeypatch.setattr(rotation, '_LOOK_S', 0.0)
  certificates.make(tmp_path, 'server', 'next')
  tls = ssl.create_default_context(cafile=tmp_path / 'ca.pem')
  folder = tmp_path / 'server'
  served = rotation.rotating_page_tls(str(folder))
  async with serving(None, token='s3cret', tls=served) as page:

    async def name():
      _, writer = await asyncio.open_connection('127.0.0.1', page.port, ssl=tls)
      certificate = writer.get_extra_info('peercert')
      writer.close()
      return certificate['subject'][0][0][1]

    assert await name() == 'server'
    shutil.copy(tmp_path / 'next' / 'key.pem', folder / 'key.pem')
    assert await name() == 'server'  # The pair does not fit yet.
    shutil.copy(tmp_path / 'next' / 'cert.pem', folder / 'cert.pem')
    assert await name() == 'next'


# --- What does no harm. ------------------------------------------------------


@pytest.mark.parametrize(
  ('data', 'code'),
  [
    (b'\r\n\r\n\x00', 400),
    (b'GET /\r\n\r\n', 400),
    (b'GET / HTTP/2\r\n\r\n', 400),
    (b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n', 400),
    (b'\x00' * 50 + b'\r\n\r\n', 400),
    (b'GET  / HTTP/1.1\r\n\r\n', 400),
    (b'GET /?' + b'a=1&' * 100 + b' HTTP/1.0\r\n\r\n', 400),
    (b'GET /' + b'a' * 10**6 + b' HTTP/1.1\r\n\r\n', 431),
    (b'GET / HTTP/1.1\r\n' + b'X: y\r\n' * 10**5 + b'\r\n', 431),
    (b'a' * 10**6, 400),
    (b'GET /\xff\xfe HTTP/1.0\r\n\r\n', 400),
    (b'GET /%00/../../etc/passwd HTTP/1.0\r\n\r\n', 404),
    (b'GET /../status_page.py HTTP/1.0\r\n\r\n', 404),
  ],
)
@beside(serving)
async def test_garbage(page, data, code):
  out = await _send(page, data)
  # Where much was unread, the reply may be lost with the connection.
  assert out.split(b' ')[1:2] == [b'%d' % code] or (
    not out and len(data) > 10**5
  )
  assert not out or b'nosniff' in out
  assert (await _get(page, '/healthz'))[0] == 200


@beside(serving)
async def test_hanging_up_at_any_point(page):
  request = b'GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n'
  for length in range(len(request)):
    _, writer = await asyncio.open_connection('127.0.0.1', page.port)
    writer.write(request[:length])
    writer.close()
  assert (await _get(page, '/healthz'))[0] == 200


@run
async def test_slow_clients_are_hung_up_on(monkeypatch):
  """A byte now and then does not hold a connection: the head has its time."""
  monkeypatch.setattr(status_page, '_HEAD_TIMEOUT_S', 0.3)

  async def drip(page):
    reader, writer = await asyncio.open_connection('127.0.0.1', page.port)
    reading = asyncio.create_task(reader.read())
    writer.write(b'GET /')
    with contextlib.suppress(ConnectionError):
      while not reading.done():
        writer.write(b'X')
        await writer.drain()
        await asyncio.sleep(0.02)
    writer.close()
    with contextlib.suppress(ConnectionError):
      return await reading

  async with serving(None, max_connections=40) as page:
    said = await asyncio.gather(*(drip(page) for _ in range(30)))
    assert not any(said)
    assert len(page._connections) == 0


@run
async def test_clients_that_do_not_read_are_hung_up_on(monkeypatch):
  monkeypatch.setattr(status_page, '_REPLY_TIMEOUT_S', 0.2)
  # More than sockets' buffers take.
  big = {'jobs': [], 'text': 'x' * 50_000_000}
  async with serving(None, lambda: big) as page:
    reader, writer = await asyncio.open_connection(
      '127.0.0.1', page.port, limit=1024
    )
    writer.write(b'GET /status.json HTTP/1.0\r\n\r\n')
    await reader.read(10)
    while len(page._connections):
      await asyncio.sleep(0.02)
    writer.transport.abort()


@beside(serving, max_connections=5)
async def test_too_many_connections(page):
  idle = [
    await asyncio.open_connection('127.0.0.1', page.port) for _ in range(5)
  ]
  while len(page._connections) < 5:
    await asyncio.sleep(0.01)
  # Strangers must not make a probe fail: the coordinator would be restarted.
  assert (await _get(page, '/healthz'))[0] == 200
  assert await idle[0][0].read() == b''  # The oldest has given way.
  while len(page._connections) > 4:
    await asyncio.sleep(0.01)
  idle.append(await asyncio.open_connection('127.0.0.1', page.port))
  while len(page._connections) < 5:
    await asyncio.sleep(0.01)
  for connection in page._connections:
    connection.is_idle = False  # As if they were being answered.
  assert (await _get(page, '/healthz'))[0] == 503
  for _, writer in idle:
    writer.close()
  while len(page._connections):
    await asyncio.sleep(0.01)
  assert (await _get(page, '/healthz'))[0] == 200


@beside(serving, max_connections=5)
async def test_bodies_that_never_come_keep_no_probe_out(page):
  for length in ('Content-Length: 100000', 'Transfer-Encoding: chunked'):
    strangers = []
    for _ in range(5):
      strangers.append(await asyncio.open_connection('127.0.0.1', page.port))
      strangers[-1][1].write(
        f'GET /healthz HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n'.encode()
      )
    for reader, _ in strangers:
      assert await reader.readline() == b'HTTP/1.1 200 OK\r\n'
    for _ in range(3):
      assert (await _get(page, '/healthz'))[0] == 200
    for _, writer in strangers:
      writer.close()


@beside(serving, max_connections=256)
async def test_many_at_once(page):
  replies = await asyncio.gather(
    *(_get(page, '/status.json') for _ in range(200))
  )
  assert {reply[0] for reply in replies} == {200}
