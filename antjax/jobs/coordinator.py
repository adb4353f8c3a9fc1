# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the coordinator of elastic jobs, or asks a running one.

  python -m launch.coordinator --journal=run/coordinator.db --port=7070
  python -m launch.coordinator --port=7070 --status
  python -m launch.coordinator --port=7070 --operate=restart --job=ctr

Killed at any instant and started again with the same journal, it resumes;
workers and agents wait for it. It needs no accelerator and imports no jax.
"""

import asyncio
import dataclasses
import signal
import sys
from typing import Annotated

import uvloop

from antjax import paths
from antjax.elastic import coordinator, security, status_table
from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.controller import ControllerConfig
from antjax.elastic.protocol import OPERATOR
from antjax.elastic.rendezvous_room import RendezvousConfig
from antjax.elastic.windows import MonitorConfig
from antjax.jobs import script

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
    str, 'File that holds all state; made if it is not there.', paths.LOCKED
  ] = ''
  address: Annotated[
    str, 'Where to listen, or with --status or --operate: whom to ask.'
  ] = '127.0.0.1'
  port: Annotated[int, 'Port; 0: pick a free one and say which.'] = 0
  status_port: Annotated[
    int | None, 'Port of the status page; 0: pick one. none: no page.'
  ] = None
  token_file: Annotated[
    str,
    'Lines `role token [job]`, roles worker, agent, operator, viewer; read'
    ' again when it changes. Empty: no tokens.',
  ] = ''
  tls_dir: Annotated[
    str, 'Folder with ca.pem, cert.pem, key.pem: mutual TLS. Empty: none.'
  ] = ''
  insecure: Annotated[
    bool,
    'Listen for other machines without tokens or TLS: anyone there can change'
    ' and stop jobs.',
  ] = False
  policy: Annotated[
    str,
    'What is done about slow workers: a policy of antjax.elastic.policy, or'
    ' module:function.',
  ] = 'antdt_nd'
  lease_timeout_s: Annotated[
    float, 'A worker that is silent for so long is given up.'
  ] = 30.0
  progress_timeout_s: Annotated[
    float,
    'So is one that lives, but makes no step for so long: more than the longest'
    ' compilation or evaluation takes.',
  ] = 600.0
  short_window_s: Annotated[
    float, 'A worker slow for so long is slow now: a transient straggler.'
  ] = 30.0
  long_window_s: Annotated[
    float, 'One slow for most of so long is a persistent one.'
  ] = 300.0
  decide_every_s: Annotated[float, 'Seconds between decisions on a job.'] = 10.0
  min_steps: Annotated[
    int, 'Steps of each worker before the first decision, after two of warm-up.'
  ] = 5
  restart_cooldown_s: Annotated[
    float, 'After a restart for a slow worker no other for so long.'
  ] = 300.0
  max_policy_restarts: Annotated[
    int,
    'Restarts of slow workers that a job may have; max_restarts: faults.',
  ] = 3
  restart_cost_s: Annotated[
    float, 'What a restart is taken to cost before one was seen.'
  ] = 60.0
  settle_s: Annotated[
    float,
    'After a change of micro-batches no small one for so long: small gains are'
    ' mostly noise.',
  ] = 60.0
  min_hosts: Annotated[int, 'A job waits for so many hosts.'] = 1
  max_hosts: Annotated[int, 'It takes no more; 0: no limit.'] = 0
  max_restarts: Annotated[
    int, 'After so many failures a further one ends the job.'
  ] = 10
  agent_timeout_s: Annotated[
    float, 'A host whose agent is silent for so long is given up.'
  ] = 10.0
  join_wait_s: Annotated[
    float, 'With min_hosts there, wait so long for max_hosts.'
  ] = 2.0
  grow_after_s: Annotated[
    float,
    'Take in a host that has waited for so long where there is room; 0: never.',
  ] = 60.0
  restart_backoff_s: Annotated[
    float, 'Wait before the second restart in a row; doubles each time.'
  ] = 1.0
  node_check: Annotated[
    str,
    'What is done about hosts whose devices, memory, disk or links are far'
    " below the others' before workers start: warn names them, exclude also"
    ' keeps them out while there are min_hosts others, off: no checks.',
  ] = 'warn'
  node_check_fraction: Annotated[
    float, "Share of the others' median below which a host is bad."
  ] = 0.5
  restart_ended: Annotated[
    bool, 'Jobs of the journal that have ended resume, with a new budget.'
  ] = False
  status: Annotated[
    bool, 'Show the status of a running coordinator instead.'
  ] = False
  once: Annotated[bool, 'With --status: show it once.'] = False
  operate: Annotated[
    str,
    'Ask a running coordinator to stop, restart, replace or retry_set_aside a'
    ' --job instead.',
  ] = ''
  job: Annotated[str, 'With --operate: the job.'] = ''
  target: Annotated[
    str,
    'With --operate=replace: the worker; with retry_set_aside: the data set;'
    ' empty: all.',
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
  settings = coordinator.CoordinatorConfig(
    journal=config.journal,
    address=config.address,
    port=config.port,
    status_port=config.status_port,
    token_file=config.token_file,
    tls_dir=config.tls_dir,
    is_insecure=config.insecure,
    policy=config.policy,
    lease_timeout_s=config.lease_timeout_s,
    progress_timeout_s=config.progress_timeout_s,
    is_restarting_ended=config.restart_ended,
    monitor=MonitorConfig(
      short_s=config.short_window_s,
      long_s=config.long_window_s,
      min_steps=config.min_steps,
      restart_cost_s=config.restart_cost_s,
    ),
    controller=ControllerConfig(
      period_s=config.decide_every_s,
      min_samples=config.min_steps,
      cooldown_s=config.restart_cooldown_s,
      max_policy_restarts=config.max_policy_restarts,
      settle_s=config.settle_s,
    ),
    rendezvous=RendezvousConfig(
      node_check=config.node_check,
      node_check_fraction=config.node_check_fraction,
      min_hosts=config.min_hosts,
      max_hosts=config.max_hosts,
      max_restarts=config.max_restarts,
      agent_timeout_s=config.agent_timeout_s,
      join_wait_s=config.join_wait_s,
      grow_after_s=config.grow_after_s,
      backoff_s=config.restart_backoff_s,
    ),
  )
  # The journal's thread must not wait long for its turn to say that it is done.
  sys.setswitchinterval(5e-4)
  uvloop.run(_serve(settings))


async def _serve(settings: coordinator.CoordinatorConfig) -> None:
  until = asyncio.Event()

  def stop(number: signal.Signals) -> None:
    script.stop_request.signal = number
    until.set()

  loop = asyncio.get_running_loop()
  for number in (signal.SIGINT, signal.SIGTERM):
    loop.add_signal_handler(number, stop, number)

  def say(port: int, url: str) -> None:
    print(f'coordinator: {settings.address}:{port}', flush=True)
    if url:
      print(f'status: {url}', flush=True)

  await coordinator.serve(settings, until, say)


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
