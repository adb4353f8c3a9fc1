# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the coordinator of elastic jobs, or asks a running one.

  python -m launch.coordinator --journal=run/coordinator.db --port=7070
  python -m launch.coordinator --port=7070 --status
  python -m launch.coordinator --port=7070 --operate=restart --job=ctr

If it is killed, start it again with the same journal to resume; workers and
agents wait for it. It needs no accelerator and does not import jax.
"""

from collections.abc import Callable
import dataclasses
import gc
import inspect
import sys
from typing import Annotated, Any, TypeVar

import uvloop

from antjax import paths
from antjax.elastic import coordinator, security, status_table
from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.collector import ShortPauses
from antjax.elastic.controller import ControllerConfig
from antjax.elastic.protocol import OPERATOR
from antjax.elastic.rendezvous_room import RendezvousConfig
from antjax.elastic.windows import MonitorConfig
from antjax.jobs import script

_T = TypeVar('_T')

# What an operator may ask for, and what happens then.
_OPERATIONS = {
  'stop': 'its workers save and end, and it has ended.',
  'restart': 'its workers save and start again; one that has ended waits for'
  ' its agents.',
  'replace': 'its workers save and start again without the host replaced.',
  'retry_set_aside': 'shards set aside in epochs that are not over are to do'
  ' again.',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Where the coordinator listens, and when it acts."""

  journal: Annotated[
    str, 'File that stores all state; created if missing.', paths.LOCKED
  ] = ''
  address: Annotated[
    str, 'Address to listen on, or to contact with --status or --operate.'
  ] = '127.0.0.1'
  port: Annotated[int, 'Port. 0: a free port, which is printed.'] = 0
  status_port: Annotated[
    int | None, 'Port of the status page. 0: a free port. none: no page.'
  ] = None
  token_file: Annotated[
    str,
    'File of lines `role token [job]` with the roles worker, agent, operator'
    ' and viewer; reread when it changes. Empty: no tokens.',
  ] = ''
  tls_dir: Annotated[
    str, 'Folder with ca.pem, cert.pem, key.pem: mutual TLS. Empty: no TLS.'
  ] = ''
  insecure: Annotated[
    bool,
    'Allow listening for other machines without tokens or TLS. Anyone on the'
    ' network can then change and stop jobs.',
  ] = False
  policy: Annotated[
    str,
    'Policy for slow workers: a name from antjax.elastic.policy, or'
    ' module:function.',
  ] = 'antdt_nd'
  lease_timeout_s: Annotated[
    float, 'Seconds of silence after which a worker counts as lost.'
  ] = 30.0
  progress_timeout_s: Annotated[
    float,
    'Seconds without a step after which a live worker is considered lost. Must'
    ' exceed the longest compilation and evaluation.',
  ] = 600.0
  short_window_s: Annotated[
    float, 'Seconds of slowness that make a transient straggler.'
  ] = 30.0
  long_window_s: Annotated[
    float, 'Seconds of mostly slow steps that make a persistent straggler.'
  ] = 300.0
  decide_every_s: Annotated[float, 'Seconds between decisions on a job.'] = 10.0
  min_steps: Annotated[
    int, 'Steps of each worker before the first decision, after 2 of warm-up.'
  ] = 5
  restart_cooldown_s: Annotated[
    float, 'Minimum seconds between restarts because of slow workers.'
  ] = 300.0
  max_policy_restarts: Annotated[
    int, 'Maximum restarts of a job for slow workers. For faults: max_restarts.'
  ] = 3
  restart_cost_s: Annotated[
    float, 'Assumed seconds of a restart, until one has been measured.'
  ] = 60.0
  settle_s: Annotated[
    float,
    'Seconds after a change of micro-batches without another small change.'
    ' Small gains are mostly noise.',
  ] = 60.0
  min_hosts: Annotated[int, 'Number of hosts needed to start a job.'] = 1
  max_hosts: Annotated[int, 'Maximum hosts of a job. 0: no limit.'] = 0
  max_restarts: Annotated[
    int, 'Number of failures after which the next one ends the job.'
  ] = 10
  agent_timeout_s: Annotated[
    float, "Seconds of silence after which a host's agent counts as lost."
  ] = 10.0
  join_wait_s: Annotated[
    float, 'Seconds to wait for max_hosts when min_hosts are present.'
  ] = 2.0
  grow_after_s: Annotated[
    float,
    'Seconds that a new host waits before a job with room admits it. 0: never.',
  ] = 60.0
  restart_backoff_s: Annotated[
    float, 'Seconds before the second consecutive restart; doubles each time.'
  ] = 1.0
  node_check: Annotated[
    str,
    'Action on hosts whose devices, memory, disk or links are much slower than'
    " the others', before workers start. warn logs them, exclude also keeps"
    ' them out if min_hosts others remain, off skips the checks.',
  ] = 'warn'
  node_check_fraction: Annotated[
    float, "Share of the others' median below which a host is bad."
  ] = 0.5
  restart_ended: Annotated[
    bool, 'Resume ended jobs of the journal, with a new restart budget.'
  ] = False
  status: Annotated[
    bool, 'Show the status of a running coordinator instead of starting one.'
  ] = False
  once: Annotated[bool, 'With --status: show it once and exit.'] = False
  operate: Annotated[
    str,
    'Command for --job to send to a running coordinator, instead of starting'
    ' one: stop, restart, replace or retry_set_aside.',
  ] = ''
  job: Annotated[str, 'With --operate: name of the job.'] = ''
  target: Annotated[
    str,
    'With --operate=replace: worker to replace. With retry_set_aside: data'
    ' set; empty: all data sets.',
  ] = ''

  def __post_init__(self) -> None:
    # What else is out of range the parts say themselves, in the same words.
    if not self.decide_every_s > 0:
      raise ValueError(
        f'decide_every_s must be positive; got {self.decide_every_s}.'
      )
    if not 0 <= self.port <= 65535:
      raise ValueError(f'port must be 0 to 65535; got {self.port}.')


def main(config: Config) -> None:
  """Serves until SIGINT or SIGTERM."""
  if config.status:
    with _client(config, '--status', 'status') as client:
      status_table.show(client, config.once)
    return
  if config.operate or config.job or config.target:
    _operate(config)
    return
  settings = _part(
    coordinator.CoordinatorConfig,
    config,
    is_insecure=config.insecure,
    is_restarting_ended=config.restart_ended,
    monitor=_part(
      MonitorConfig,
      config,
      short_s=config.short_window_s,
      long_s=config.long_window_s,
    ),
    controller=_part(
      ControllerConfig,
      config,
      period_s=config.decide_every_s,
      min_samples=config.min_steps,
      cooldown_s=config.restart_cooldown_s,
    ),
    rendezvous=_part(
      RendezvousConfig, config, backoff_s=config.restart_backoff_s
    ),
  )
  # The journal's thread must not wait long for its turn to say that it is done.
  sys.setswitchinterval(5e-4)
  gc.callbacks.append(ShortPauses())
  uvloop.run(_serve(settings))


def _part(kind: Callable[..., _T], config: Config, **others: Any) -> _T:
  """Settings of a part: those of its own names, and others."""
  names = inspect.signature(kind).parameters.keys() - others.keys()
  shared = {field.name for field in dataclasses.fields(config)} & names
  return kind(**{name: getattr(config, name) for name in shared}, **others)


async def _serve(settings: coordinator.CoordinatorConfig) -> None:
  def say(port: int, url: str) -> None:
    print(f'coordinator: {settings.address}:{port}', flush=True)
    if url:
      print(f'status: {url}', flush=True)

  await coordinator.serve(settings, script.stop_event(), say)


def _operate(config: Config) -> None:
  action, job, target = config.operate, config.job, config.target
  if action not in _OPERATIONS:
    raise ValueError(
      f'--operate={action} must be one of {", ".join(_OPERATIONS)}.'
    )
  if not job:
    raise ValueError(
      f'--operate={action} needs a --job; --status shows which there are.'
    )
  if action == 'replace' and not target:
    raise ValueError('--operate=replace needs the worker as --target.')
  if action in ('stop', 'restart') and target:
    raise ValueError(
      f'--target={target}: --operate={action} is for a whole job; leave it out.'
    )
  request = pb.OperateRequest(action=action, target=target)
  with _client(config, f'--operate={action}', 'operator', job) as client:
    try:
      client.call('Operate', request)
    except LookupError as error:
      raise ValueError(f'{error} --status shows what there is.') from error
  print(f'job {job}: {_OPERATIONS[action]}', flush=True)


def _client(
  config: Config, flag: str, name: str, job: str = ''
) -> CoordinatorClient:
  if not config.port:
    raise ValueError(f'{flag} needs the --port of the coordinator.')
  file = config.token_file
  return CoordinatorClient(
    f'{config.address}:{config.port}',
    job=job,
    client=name,
    token=security.read_token(file, OPERATOR) if file else '',
    tls_dir=config.tls_dir,
    give_up_s=10.0,
  )
