# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Notices of preemption, from metadata services on loopback."""

import contextlib
import http.server
import json
import threading

import pytest

from antjax.elastic import preemption


@contextlib.contextmanager
def metadata(answer):
  """Serves `answer(method, path, headers) -> (status, text)`; its address."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def _reply(self):
      status, text = answer(self.command, self.path, self.headers)
      self.send_response(status)
      self.end_headers()
      self.wfile.write(text.encode())

    do_GET = do_PUT = _reply

    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  try:
    yield f'127.0.0.1:{server.server_port}'
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


class Ec2:
  """The part of IMDSv2 that is asked."""

  def __init__(self):
    self.action = None

  def __call__(self, method, path, headers):
    if (method, path) == ('PUT', '/latest/api/token'):
      assert headers['X-aws-ec2-metadata-token-ttl-seconds'] == '21600'
      return 200, 'a-token=='
    assert path == '/latest/meta-data/spot/instance-action'
    if headers['X-aws-ec2-metadata-token'] != 'a-token==':
      return 401, ''
    return (404, 'Not Found') if self.action is None else (200, self.action)


def test_compute_engine():
  said = ['FALSE', 'TRUE']

  def answer(method, path, headers):
    assert (method, headers['Metadata-Flavor']) == ('GET', 'Google')
    assert path == '/computeMetadata/v1/instance/preempted'
    return 200, said.pop(0)

  with metadata(answer) as address:
    assert preemption.notice('gce', address) == ''
    assert 'preempts' in preemption.notice('gce', address)


def test_ec2():
  cloud = Ec2()
  with metadata(cloud) as address:
    assert preemption.notice('ec2', address) == ''
    cloud.action = json.dumps(
      {'action': 'terminate', 'time': '2026-12-02T03:00:00Z'}
    )
    text = preemption.notice('ec2', address)
    assert text == 'EC2: terminate at 2026-12-02T03:00:00Z'


@pytest.mark.parametrize('kind', preemption.KINDS)
@pytest.mark.parametrize(
  'reply', [(500, 'oops'), (200, '[]\n\n\x00'), (200, 'x' * 10_000), (302, '')]
)
def test_other_answers_are_no_notice(kind, reply):
  with metadata(lambda *_: reply) as address:
    with pytest.raises(preemption.MetadataError):
      preemption.notice(kind, address)


def test_nobody_there(monkeypatch):
  monkeypatch.setattr(preemption, '_TIMEOUT_S', 0.2)
  with pytest.raises(preemption.MetadataError, match='127.0.0.1:9'):
    preemption.notice('gce', '127.0.0.1:9')


def test_the_watch_says_it_once_and_what_is_wrong():
  replies = [(500, '')] * 4 + [(200, 'FALSE'), (200, 'TRUE')]
  noticed, said = [], []
  is_noticed = threading.Event()

  def on_notice(reason):
    noticed.append(reason)
    is_noticed.set()

  with metadata(lambda *_: replies.pop(0)) as address:
    preemption.PreemptionWatch(
      'gce', address, on_notice, said.append, poll_s=0.01
    )
    assert is_noticed.wait(20)
  assert len(noticed) == 1 and not replies
  assert len(said) == 1 and 'no notices of preemption' in said[0]


def test_a_wrong_kind():
  with pytest.raises(ValueError, match='preemption=azure'):
    preemption.PreemptionWatch('azure', '', print, print)
