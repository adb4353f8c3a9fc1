# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokens and certificates: roles, jobs, and their change without a restart."""

import json
import threading

import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import protocol, rotation, security, service
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.protocol import Refused
from tests.elastic import certificates
from tests.elastic.coordinator_server import (
  CoordinatorProcess,
  DATA_SET,
  head,
  Server,
)
from tests.elastic.event_loop import run

LONG = 'x' * 16
LINES = (
  f'worker wa{LONG} a\nworker wb{LONG} b\nagent aa{LONG} a\n'
  f'viewer v{LONG}\nviewer va{LONG} a\noperator oa{LONG} a\n'
)


def write(path, text):
  path.write_text(text)
  path.chmod(0o600)
  return path


def test_each_token_has_its_role(tmp_path):
  path = write(
    tmp_path / 't',
    f'# ours\nworker w{LONG}\n\nagent a{LONG}  # of host 1\noperator o{LONG}\n'
    f'viewer v{LONG}\n',
  )
  tokens = security.read_tokens(path)
  for role in protocol.ROLES:
    token = security.read_token(path, role)
    assert tokens.grant(f'Bearer {token}').role == role
    assert tokens.grant(f'bearer {token}'.encode()).role == role
  for wrong in (
    None,
    '',
    'Bearer ',
    'Bearer',
    f'w{LONG}',
    f'Basic w{LONG}',
    f'Bearer w{LONG}x',
    f'Bearer  w{LONG}',
    'Bearer \u20ac',
  ):
    assert tokens.grant(wrong) is None


def test_without_tokens_all_may_do_all():
  assert security.RoleTokens().grant(None).role == protocol.OPERATOR


def test_a_clients_file_has_one_line_of_its_role(tmp_path):
  path = write(tmp_path / 't', f'agent a{LONG} j\n')
  assert security.read_token(path, 'agent') == f'a{LONG}'
  # An agent would give its worker a token that the coordinator refuses.
  with pytest.raises(ValueError, match='no line for the role worker'):
    security.read_token(path, 'worker', 'j')
  path = write(tmp_path / 't', f'agent a{LONG}\nworker w{LONG}')
  with pytest.raises(ValueError, match='no line for the role operator'):
    security.read_token(path, 'operator')


@pytest.mark.parametrize(
  'text, message',
  [
    ('', 'has no line'),
    ('root ' + LONG, 'line 1: must be a role'),
    ('worker', 'must be a role'),
    ('worker a b c', 'must be a role'),
    ('worker short', 'at least 16'),
    (f'worker {LONG}\nagent {LONG}', 'line 2: this token was given before'),
    ('worker \u20ac' + LONG, 'ascii'),
  ],
)
def test_a_wrong_token_file_is_refused(tmp_path, text, message):
  with pytest.raises(ValueError, match=message):
    security.read_tokens(write(tmp_path / 't', text))


def test_a_missing_token_file_is_named(tmp_path):
  with pytest.raises(ValueError, match='nothing'):
    security.read_tokens(tmp_path / 'nothing')


def test_a_token_file_that_others_can_read_is_mentioned(tmp_path, caplog):
  path = write(tmp_path / 't', f'worker w{LONG}')
  security.read_tokens(path)
  assert not caplog.records
  path.chmod(0o644)
  security.read_tokens(path)
  assert 'chmod 600' in caplog.text


def test_who_may_call_what():
  callers = {
    name: {role for role in protocol.ROLES if method.may_be_called_by(role)}
    for name, method in protocol.METHODS.items()
  }
  assert callers.pop('AgentBeat') == {'agent', 'operator'}
  assert callers.pop('Operate') == {'operator'}
  assert callers.pop('Status') == {'viewer', 'operator'}
  assert all(roles == {'worker', 'operator'} for roles in callers.values())


@pytest.mark.parametrize(
  'address, is_ours',
  [
    ('127.0.0.1', True),
    ('127.9.9.9', True),
    ('::1', True),
    ('[::1]', True),
    ('localhost', True),
    ('0.0.0.0', False),
    ('::', False),
    ('10.1.2.3', False),
    ('localhost.example.com', False),
  ],
)
def test_other_machines_are_served_with_tokens_and_tls_only(address, is_ours):
  assert security.is_loopback(address) == is_ours

  def check(has_tokens, has_tls, is_insecure=False):
    security.check_address(
      address, has_tokens=has_tokens, has_tls=has_tls, is_insecure=is_insecure
    )

  check(True, True)
  check(False, False, is_insecure=True)
  for has_tokens, has_tls, missing in (
    (False, False, '--token_file and --tls_dir'),
    (True, False, '--tls_dir'),
    (False, True, '--token_file'),
  ):
    if is_ours:
      check(has_tokens, has_tls)
    else:
      with pytest.raises(ValueError, match=f'Give {missing} too'):
        check(has_tokens, has_tls)


def test_missing_tls_files_are_named(tmp_path):
  (tmp_path / 'ca.pem').write_text('x')
  with pytest.raises(ValueError, match='cert.pem cannot be read'):
    security.read_tls(tmp_path)


# --- Of one job, and changed. ------------------------------------------------


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
