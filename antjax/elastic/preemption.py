# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Preemption notices of clouds.

A thread asks the metadata service of the machine, over plain HTTP:

  gce  /computeMetadata/v1/instance/preempted says TRUE, some 30 s before; see
       https://cloud.google.com/compute/docs/instances/create-use-spot
  ec2  /latest/meta-data/spot/instance-action is there, two minutes before; with
       a token (IMDSv2), see
       https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

from collections.abc import Callable, Mapping
import http.client
import json
import threading

KINDS = ('gce', 'ec2')
ADDRESS = '169.254.169.254:80'  # Of both clouds' metadata.
_POLL_S = 2.0
_TIMEOUT_S = 2.0
_MAX_BYTES = 4096
_FEW = 3  # Failures in a row before it says so.
_EC2_TOKEN_S = 21_600
_EC2 = 'X-aws-ec2-metadata-token'


class MetadataError(Exception):
  """The metadata cannot be read."""


def notice(kind: str, address: str) -> str:
  """Returns why the host will be taken away; empty: it will not be now.

  Raises:
    MetadataError: The metadata service at host:port does not answer, or not as
      that of this kind should.
  """
  if kind == 'gce':
    status, text = _ask(
      address,
      'GET',
      '/computeMetadata/v1/instance/preempted',
      {'Metadata-Flavor': 'Google'},
    )
    said = text.strip().upper()
    if status != 200 or said not in ('TRUE', 'FALSE'):
      raise MetadataError(f'instance/preempted: {status} {text[:80]!r}')
    return 'Compute Engine preempts this instance' if said == 'TRUE' else ''
  status, token = _ask(
    address,
    'PUT',
    '/latest/api/token',
    {f'{_EC2}-ttl-seconds': str(_EC2_TOKEN_S)},
  )
  if status != 200 or not token.isprintable():
    raise MetadataError(f'latest/api/token: {status}')
  status, text = _ask(
    address,
    'GET',
    '/latest/meta-data/spot/instance-action',
    {_EC2: token},
  )
  if status == 404:
    return ''
  try:
    said = json.loads(text)
    action, at = str(said['action'])[:40], str(said['time'])[:40]
  except (ValueError, TypeError, KeyError) as error:
    raise MetadataError(
      f'spot/instance-action: {status} {text[:80]!r}'
    ) from error
  return f'EC2: {action} at {at}'


def _ask(
  address: str, method: str, path: str, headers: Mapping[str, str]
) -> tuple[int, str]:
  """Status and text of a reply; never through a proxy."""
  connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
  try:
    connection.request(method, path, headers=dict(headers))
    reply = connection.getresponse()
    return reply.status, reply.read(_MAX_BYTES).decode(errors='replace')
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise MetadataError(f'{address}: {error}') from error
  finally:
    connection.close()


class PreemptionWatch:
  """Asks every two seconds, in a thread, until there is a notice."""

  def __init__(
    self,
    kind: str,
    address: str,
    on_notice: Callable[[str], None],
    say: Callable[[str], None],
    poll_s: float = _POLL_S,
  ):
    """Starts the thread, which calls `on_notice` once with the reason.

    An empty address is the cloud's; `say` shows a message to users.

    Raises:
      ValueError: There is no such kind.
    """
    if kind not in KINDS:
      raise ValueError(f'preemption={kind} must be one of {", ".join(KINDS)}.')
    self._kind, self._address = kind, address or ADDRESS
    self._on_notice, self._say, self._poll_s = on_notice, say, poll_s
    self._is_over = threading.Event()
    threading.Thread(target=self._run, daemon=True).start()

  def close(self) -> None:
    self._is_over.set()

  def _run(self) -> None:
    failures = 0
    while not self._is_over.is_set():
      try:
        reason = notice(self._kind, self._address)
        failures = 0
      except MetadataError as error:
        reason, failures = '', failures + 1
        if failures == _FEW:
          self._say(
            f'no notices of preemption can be had: {error}. It asks again.'
          )
      if reason:
        self._on_notice(reason)
        return
      self._is_over.wait(self._poll_s)
