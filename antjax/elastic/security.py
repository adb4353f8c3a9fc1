# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Access control: roles, tokens, TLS, and allowed listening addresses."""

from collections.abc import Callable, Iterable
import dataclasses
import hmac
import ipaddress
import os
import pathlib
import re
import ssl
import stat

from absl import logging
import grpc

from antjax.elastic.protocol import OPERATOR, ROLES, VIEWER

_MIN_TOKEN = 16
_TOKEN = re.compile(r'[\x21-\x7e]+')


@dataclasses.dataclass(frozen=True)
class Grant:
  """What a token, or a certificate, lets its owner do."""

  role: str
  job: str = ''  # The only job that it is for; empty: for all.


@dataclasses.dataclass(frozen=True)
class RoleTokens:
  """The tokens that a coordinator knows."""

  # Pairs of a token and what it grants; empty: all may do all.
  grants: tuple[tuple[bytes, Grant], ...] = ()

  def grant(self, authorization: str | bytes | None) -> Grant | None:
    """Returns what 'Bearer <token>' grants; None: it is not known.

    Takes as long whichever token is wrong, and wherever it is.
    """
    if not self.grants:
      return Grant(OPERATOR)
    if isinstance(authorization, str):
      authorization = authorization.encode(errors='replace')
    scheme, _, given = (authorization or b'').partition(b' ')
    found = None
    for token, grant in self.grants:
      if hmac.compare_digest(token, given):
        found = grant
    return found if scheme.lower() == b'bearer' else None

  def page_tokens(self) -> list[str]:
    """Returns the tokens that open the status page, which shows all jobs."""
    return [
      token.decode()
      for token, grant in self.grants
      if grant.role in (OPERATOR, VIEWER) and not grant.job
    ]


def certificate_grant(names: Iterable[bytes]) -> Grant | None:
  """Returns what a client's certificate is for; None: it does not say.

  Of its common names `antjax/role` and `antjax/role/job` are ours.
  """
  for name in names:
    prefix, _, rest = name.decode(errors='replace').partition('/')
    role, _, job = rest.partition('/')
    if prefix == 'antjax' and role:
      return Grant(role, job)
  return None


def read_tokens(path: str | os.PathLike[str]) -> RoleTokens:
  """Reads a token file: lines `role token [job]`; # begins a comment.

  A token of a job lets its owner do what the role may in that job only. Several
  tokens of one role may be there, as while they are changed.

  Raises:
    ValueError: A line is wrong, or a token is short or given twice.
  """
  grants: list[tuple[bytes, Grant]] = []
  for number, line in enumerate(_lines(path), 1):
    words = line.partition('#')[0].split()
    if not words:
      continue
    where = f'token file {path}, line {number}'
    if len(words) not in (2, 3) or words[0] not in ROLES:
      raise ValueError(
        f'{where}: must be a role ({", ".join(ROLES)}), a token and, where it'
        ' is for one job only, the name of the job.'
      )
    role, token, *job = words
    if len(token) < _MIN_TOKEN or not _TOKEN.fullmatch(token):
      raise ValueError(
        f'{where}: a token needs at least {_MIN_TOKEN} printable ASCII'
        " characters; make one with `python -c 'import secrets;"
        " print(secrets.token_urlsafe())'`."
      )
    if any(token.encode() == other for other, _ in grants):
      raise ValueError(f'{where}: this token was given before.')
    grants.append((token.encode(), Grant(role, *job)))
  if not grants:
    raise ValueError(f'token file {path} has no line `role token`.')
  return RoleTokens(tuple(grants))


def read_token(path: str | os.PathLike[str], role: str, job: str = '') -> str:
  """Returns the token of a role from a token file.

  One of the job comes before one of all; of several the last counts; the only
  line of a file, as a client has, may be for whatever job.

  Raises:
    ValueError: The file is malformed, or has no token of the role.
  """
  grants = read_tokens(path).grants
  if len(grants) == 1 and grants[0][1].role == role:
    return grants[0][0].decode()
  for wanted in (Grant(role, job), Grant(role)):
    for token, grant in reversed(grants):
      if grant == wanted:
        return token.decode()
  of = f' and the job {job}' if job else ''
  raise ValueError(f'token file {path} has no line for the role {role}{of}.')


def _lines(path: str | os.PathLike[str]) -> list[str]:
  try:
    if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
      logging.warning(
        'Token file %s can be read by others; better: chmod 600.', path
      )
    return pathlib.Path(path).read_text(encoding='ascii').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f'token file {path}: {error}.') from error


@dataclasses.dataclass(frozen=True)
class Tls:
  """Certificates for mutual TLS, in PEM."""

  ca: bytes
  cert: bytes
  key: bytes


TLS_FILES = ('ca.pem', 'cert.pem', 'key.pem')


def read_tls(folder: str | os.PathLike[str]) -> Tls:
  """Reads ca.pem, cert.pem and key.pem.

  Raises:
    ValueError: One is missing.
  """
  parts = []
  for name in TLS_FILES:
    path = pathlib.Path(folder) / name
    try:
      parts.append(path.read_bytes())
    except OSError as error:
      raise ValueError(
        f'tls_dir={folder}: {path} cannot be read ({error.strerror}); the'
        ' folder needs ca.pem, cert.pem and key.pem.'
      ) from error
  return Tls(*parts)


def server_credentials(tls: Callable[[], Tls]) -> grpc.ServerCredentials:
  """For a server that takes only clients with a certificate of the CA.

  New connections are served with what `tls` returns then.
  """
  served = tls()

  def configuration() -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
      [(served.key, served.cert)], root_certificates=served.ca
    )

  def fetch() -> grpc.ServerCertificateConfiguration | None:
    nonlocal served
    newest = tls()
    if newest == served:
      return None
    served = newest
    return configuration()

  return grpc.dynamic_ssl_server_credentials(configuration(), fetch, True)


def page_tls(
  folder: str | os.PathLike[str], *, is_mutual: bool = False
) -> ssl.SSLContext:
  """For a status page: a browser needs the token, and no certificate.

  Where it is mutual, a client needs a certificate of the CA too.

  Raises:
    ValueError: cert.pem or key.pem is wrong.
  """
  context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
  try:
    context.load_cert_chain(
      pathlib.Path(folder) / 'cert.pem', pathlib.Path(folder) / 'key.pem'
    )
    if is_mutual:
      context.load_verify_locations(pathlib.Path(folder) / 'ca.pem')
      context.verify_mode = ssl.CERT_REQUIRED
  except (OSError, ssl.SSLError) as error:
    raise ValueError(f'tls_dir={folder}: {error}.') from error
  return context


def check_address(
  address: str,
  *,
  has_tokens: bool,
  has_tls: bool,
  is_insecure: bool,
  risk: str = 'change or stop jobs',
) -> None:
  """Raises ValueError where a service must not listen there so openly.

  `is_insecure` says that the user has taken the risk, of what others could do.
  """
  if is_loopback(address) or (has_tokens and has_tls) or is_insecure:
    return
  missing = [
    flag
    for flag, there in (('--token_file', has_tokens), ('--tls_dir', has_tls))
    if not there
  ]
  raise ValueError(
    f'address={address} can be reached from other machines: anyone there could'
    f' {risk}. Give {" and ".join(missing)} too, listen on 127.0.0.1, or, in a'
    ' network where you trust every machine, --insecure.'
  )


def is_loopback(address: str) -> bool:
  """Whether only this machine reaches an address."""
  if address == 'localhost':
    return True
  try:
    return ipaddress.ip_address(address.strip('[]')).is_loopback
  except ValueError:
    return False
