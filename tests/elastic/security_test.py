# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
import pytest

from antjax.elastic import protocol, security

LONG = 'x' * 16


def write(tmp_path, text):
  path = tmp_path / 'tokens'
  path.write_text(text)
  path.chmod(0o600)
  return path


def test_each_token_has_its_role(tmp_path):
  path = write(
    tmp_path,
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


def test_a_clients_file_has_one_line_whatever_the_role(tmp_path):
  path = write(tmp_path, f'agent a{LONG}\n')
  assert security.read_token(path, 'worker') == f'a{LONG}'
  path = write(tmp_path, f'agent a{LONG}\nworker w{LONG}')
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
    security.read_tokens(write(tmp_path, text))


def test_a_missing_token_file_is_named(tmp_path):
  with pytest.raises(ValueError, match='nothing'):
    security.read_tokens(tmp_path / 'nothing')


def test_a_token_file_that_others_can_read_is_mentioned(tmp_path, caplog):
  path = write(tmp_path, f'worker w{LONG}')
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
