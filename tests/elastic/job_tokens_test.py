# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokens and certificates of one job, and their change without a restart."""

import json
import threading

import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import rotation, security, service
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.protocol import Refused
from tests.elastic import certificates
from tests.elastic.coordinator_server import CoordinatorProcess
from tests.elastic.coordinator_test import DATA_SET, head, run, Server

LONG = 'x' * 16
LINES = (
  f'worker wa{LONG} a\nworker wb{LONG} b\nagent aa{LONG} a\n'
  f'viewer v{LONG}\nviewer va{LONG} a\noperator oa{LONG} a\n'
)


def write(path, text):
  path.write_text(text)
  path.chmod(0o600)
  return path


@run
async def test_a_token_is_for_its_job_only(tmp_path):
  tokens = write(tmp_path / 'tokens', LINES)
  async with Server(tmp_path, token_file=str(tokens)) as server:
    create = pb.CreateDataSetRequest(head=head(1, job='a'), data_set=DATA_SET)
    await server.send('CreateDataSet', create, f'wa{LONG}')
    beat = pb.HeartbeatRequest(head=head(0, job='a'))
    begin = pb.BeginRequest(head=head(2, job='a'), data_set='d', pass_number=1)
    for name, request in (
      ('CreateDataSet', create),
      ('Heartbeat', beat),
      ('Begin', begin),
    ):
      await server.refused(
        name, request, 'PERMISSION_DENIED', 'is for the job b;', f'wb{LONG}'
      )
    beat = pb.AgentBeatRequest(head=head(0, job='b'))
    await server.refused(
      'AgentBeat', beat, 'PERMISSION_DENIED', 'for the job a', f'aa{LONG}'
    )
    operate = pb.OperateRequest(head=head(1, job='b'), action='stop')
    await server.refused(
      'Operate', operate, 'PERMISSION_DENIED', 'for the job a', f'oa{LONG}'
    )


@run
async def test_a_viewer_sees_and_changes_nothing(tmp_path):
  tokens = write(tmp_path / 'tokens', LINES)
  async with Server(tmp_path, token_file=str(tokens)) as server:
    for job, token in (('a', f'wa{LONG}'), ('b', f'wb{LONG}')):
      create = pb.CreateDataSetRequest(head=head(1, job=job), data_set=DATA_SET)
      await server.send('CreateDataSet', create, token)

    async def jobs(token, job=''):
      request = pb.StatusRequest(head=pb.Head(job=job))
      reply = await server.send('Status', request, token)
      return [one['name'] for one in json.loads(reply.json)['jobs']]

    assert sorted(await jobs(f'v{LONG}')) == ['a', 'b']
    assert await jobs(f'va{LONG}', 'a') == ['a']
    await server.refused(
      'Status', pb.StatusRequest(), 'PERMISSION_DENIED', 'job a', f'va{LONG}'
    )
    operate = pb.OperateRequest(head=head(1, job='a'), action='stop')
    await server.refused(
      'Operate', operate, 'PERMISSION_DENIED', 'role operator', f'v{LONG}'
    )


def test_the_status_page_opens_to_viewers_and_operators_of_all(tmp_path):
  tokens = security.read_tokens(write(tmp_path / 't', LINES))
  assert tokens.page_tokens() == [f'v{LONG}']


def test_a_client_takes_the_token_of_its_job(tmp_path):
  path = write(tmp_path / 't', f'worker w{LONG}\n' + LINES)
  assert security.read_token(path, 'worker', 'b') == f'wb{LONG}'
  assert security.read_token(path, 'worker', 'c') == f'w{LONG}'
  with pytest.raises(ValueError, match='role agent and the job c'):
    security.read_token(path, 'agent', 'c')


def test_a_certificate_may_name_role_and_job():
  assert security.certificate_grant([b'antjax']) is None
  names = [b'host-1'], [b'antjax/worker'], [b'antjax/agent/ctr']
  assert [security.certificate_grant(one) for one in names] == [
    None,
    security.Grant('worker'),
    security.Grant('agent', 'ctr'),
  ]

  class Context:
    def auth_context(self):
      return {'x509_common_name': [b'antjax/worker/a']}

  check = service._check_certificate
  check('Heartbeat', pb.HeartbeatRequest(head=head(job='a')), Context())
  with pytest.raises(Refused, match='this certificate is for the job a'):
    check('Heartbeat', pb.HeartbeatRequest(head=head(job='b')), Context())
  with pytest.raises(Refused, match='certificate is of the role worker'):
    check('AgentBeat', pb.AgentBeatRequest(head=head(job='a')), Context())


def test_a_file_is_read_again_when_it_changes_and_is_whole(tmp_path):
  path, now = write(tmp_path / 't', f'worker w{LONG}\n'), [0.0]
  token = rotation.Rotating(
    lambda: security.read_token(path, 'worker'), [path], lambda: now[0]
  )
  for text, expected in (
    (f'worker new{LONG}\n', f'new{LONG}'),
    ('worker half', f'new{LONG}'),
    (f'worker x{LONG}\n', f'x{LONG}'),
  ):
    write(path, text)
    now[0] += 2
    assert token() == expected


@pytest.mark.slow
@certificates.needs_openssl
def test_tokens_and_certificates_change_without_a_restart(tmp_path):
  certificates.make(tmp_path, 'server', 'client')
  tokens = write(tmp_path / 'tokens', f'worker old{LONG} j\n')
  ours = write(tmp_path / 'ours', f'worker old{LONG} j\n')
  flags = f'--token_file={tokens}', f'--tls_dir={tmp_path}/server'
  with CoordinatorProcess(tmp_path, *flags) as process:
    client = CoordinatorClient(
      process.address.replace('127.0.0.1', 'localhost'),
      job='j',
      client='a',
      token=rotation.rotating_token(str(ours), 'worker', 'j'),
      tls_dir=f'{tmp_path}/client',
    )
    client.call('Heartbeat', pb.HeartbeatRequest())
    write(tokens, f'worker new{LONG} j\n')
    threading.Timer(3.0, write, (ours, f'worker new{LONG} j\n')).start()
    threading.Event().wait(1.5)
    client.call('Heartbeat', pb.HeartbeatRequest())  # Waits for the file.
    assert client._metadata() == [('authorization', f'Bearer new{LONG}')]
    # Another CA, of all.
    certificates.make(tmp_path, 'server', 'client', exist_ok=True)
    threading.Event().wait(1.5)
    process.end()
    process.start()
    client.call('Heartbeat', pb.HeartbeatRequest())
    client.close()
