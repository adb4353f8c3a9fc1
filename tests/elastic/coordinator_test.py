# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's server, in this process and as one that is killed."""

import ast
import asyncio
import json
import os
import pathlib
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading

import grpc
import grpc.aio
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import protocol, writer
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.coordinator import CoordinatorConfig, serve
from antjax.elastic.rendezvous_room import RendezvousConfig
from antjax.shards.journal import Journal
from tests import source_tree
from tests.elastic import certificates
from tests.elastic.coordinator_server import (
  CoordinatorProcess,
  exchange,
  head,
  join,
  Server,
  TOKENS,
)
from tests.elastic.event_loop import beside, run

# --- Answers. -----------------------------------------------------------------


@beside(Server)
async def test_workers_get_leases(server):
  await join(server)
  reply = await server.send('Exchange', exchange(3, num_wanted=3))
  assert len(reply.leases) == 3
  assert await server.send('Exchange', exchange(3, num_wanted=3)) == reply
  await server.refused(
    'Exchange', exchange(2), 'FAILED_PRECONDITION', 'older than'
  )


@beside(Server)
async def test_requests_are_written_in_groups_before_they_are_answered(server):
  for n in range(40):
    await join(server, f'w{n}')
  may_write = threading.Event()
  append = server.journal.append

  def slow_append(rows):
    may_write.wait(30)
    append(rows)

  server.journal.append = slow_append
  num_commits = server.writer.num_commits
  calls = [
    asyncio.ensure_future(server.send('Exchange', exchange(3, f'w{n}')))
    for n in range(40)
  ]
  while server.jobs.job('j').data_sets['d'].counts()['doing'] < 40:
    await asyncio.sleep(0.01)
  # All is applied, nothing is on disk, and nobody has an answer; nor has
  # who asks about it.
  status = asyncio.ensure_future(server.send('Status', pb.StatusRequest()))
  done, _ = await asyncio.wait([*calls, status], timeout=0.2)
  assert not done
  may_write.set()
  await asyncio.gather(*calls, status)
  assert 1 <= server.writer.num_commits - num_commits <= 40
  assert server.writer.num_changes >= 40


@beside(Server)
async def test_what_was_answered_is_in_the_journal(server, tmp_path):
  await join(server)
  await server.send('Exchange', exchange(3, num_wanted=5))
  copy = tmp_path / 'copy.db'
  shutil.copy(server.config.journal, copy)
  shutil.copy(f'{server.config.journal}-wal', f'{copy}-wal')
  with Journal(copy) as journal:
    assert writer.load(journal).to_bytes() == server.jobs.to_bytes()


@beside(Server)
async def test_a_journal_that_cannot_be_written_ends_the_coordinator(server):
  await join(server)

  def full(rows):
    raise OSError('No space left on device')

  server.journal.append = full
  await server.refused(
    'Exchange', exchange(3), 'UNAVAILABLE', 'No space left on device'
  )
  await server.refused('Exchange', exchange(4), 'UNAVAILABLE')
  with pytest.raises(RuntimeError, match='No space left'):
    await server.coordinator.run(asyncio.Event())


@run
async def test_a_snapshot_takes_the_place_of_many_requests(tmp_path):
  async with Server(tmp_path) as server:
    await join(server)
    server.journal.num_commands = 10**6
    reply = await server.send('Exchange', exchange(3, num_wanted=5))
    await server.send(
      'Exchange',
      exchange(4, num_wanted=0, consumed=[reply.leases[0].shard]),
    )
    assert server.journal.num_commands == 1
    expected = server.jobs.to_bytes()
  with Journal(server.config.journal) as journal:
    assert writer.load(journal).to_bytes() == expected


@beside(Server)
async def test_an_inner_error_tells_nothing_and_ends_nothing(server):
  await join(server)

  def broken(request, now):
    raise KeyError('a secret')

  answer, server.jobs.answer = server.jobs.answer, broken
  await server.refused('Exchange', exchange(3), 'UNKNOWN', 'see its log')
  server.jobs.answer = answer
  assert (await server.send('Exchange', exchange(3))).leases


# --- Who may call, and what is taken. -----------------------------------------


@run
async def test_roles_hold(tmp_path):
  path = tmp_path / 'tokens'
  path.write_text(''.join(f'{r} {token}\n' for r, token in TOKENS.items()))
  path.chmod(0o600)
  async with Server(tmp_path, token_file=str(path)) as server:
    for name, method in protocol.METHODS.items():
      for token in (None, 'another-token-of-nobody', TOKENS['worker'][:-1]):
        await server.refused(
          name, method.request(), 'UNAUTHENTICATED', 'token', token
        )
      for role, token in TOKENS.items():
        if method.may_be_called_by(role):
          continue
        await server.refused(
          name, method.request(), 'PERMISSION_DENIED', role, token
        )
    await server.send('Status', pb.StatusRequest(), TOKENS['operator'])
    assert server.jobs.names() == []


@beside(Server)
async def test_an_unknown_method_is_unimplemented(server):
  call = server.channel.unary_unary(f'/{protocol.SERVICE}/Explode')
  with pytest.raises(grpc.aio.AioRpcError) as caught:
    await call(b'')
  assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@run
async def test_dlrover_defect_11_nothing_that_is_sent_is_run(tmp_path):
  """Pickles are bytes like others; without a token nothing is even read."""

  class Bomb:
    def __reduce__(self):
      return (os.mkdir, (str(tmp_path / 'exploded'),))

  async with Server(tmp_path) as server:
    for name in protocol.METHODS:
      for number in range(pickle.HIGHEST_PROTOCOL + 1):
        await server.refused(
          name, pickle.dumps(Bomb(), number), 'INVALID_ARGUMENT'
        )
    assert server.jobs.names() == []
  assert not (tmp_path / 'exploded').exists()
  for path in (source_tree.ROOT / 'antjax' / 'elastic').glob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or '']
      assert not {'pickle', 'marshal', 'shelve', 'dill'} & set(names), path


# --- Decisions. ---------------------------------------------------------------


@run
async def test_ended_jobs_go_on_when_asked_to(tmp_path):
  async with Server(tmp_path) as server:
    for job in ('j', 'k'):
      server.writer.decide(pb.StartGeneration(job=job, members=['a']))
    server.writer.decide(
      pb.EndGeneration(job='j', generation=1, is_final=True, counts=True)
    )
    assert server.jobs.job('j').restarts_used == 1
    server.coordinator.restart_ended()
  async with Server(tmp_path) as server:
    job = server.jobs.job('j')
    assert (job.phase, job.restarts_used) == ('waiting', 0)
    assert job.actions[-1][1] == 'restart by coordinator'
    assert not server.jobs.job('k').is_restart_asked


@beside(Server, lease_timeout_s=30)
async def test_leases_of_a_silent_worker_go_to_others(server):
  await join(server, 'a')
  await join(server, 'b')
  [lost] = (await server.send('Exchange', exchange(3, 'a'))).leases
  for _ in range(40):
    server.clock.now += 1
    server.coordinator.tick()
    await server.send('Heartbeat', pb.HeartbeatRequest(head=head(0, 'b')))
  await server.refused(
    'Exchange', exchange(4, 'a'), 'FAILED_PRECONDITION', 'fenced off'
  )
  await server.refused(
    'Heartbeat',
    pb.HeartbeatRequest(head=head(0, 'a')),
    'FAILED_PRECONDITION',
  )
  [found] = (await server.send('Exchange', exchange(3, 'b'))).leases
  assert found == lost


@beside(Server, lease_timeout_s=30, progress_timeout_s=100)
async def test_leases_of_a_worker_that_only_lives_go_to_others(server):
  await join(server, 'a')
  await server.send('Exchange', exchange(3, 'a'))
  beat = pb.HeartbeatRequest(head=head(0, 'a'), step=5, num_samples=50)
  for _ in range(90):
    server.clock.now += 1
    await server.send('Heartbeat', beat)
    server.coordinator.tick()
  assert server.jobs.job('j').data_sets['d'].holders() == {'a'}
  server.clock.now += 20
  server.coordinator.tick()
  assert server.jobs.job('j').data_sets['d'].holders() == set()


def agent_beat(name='h0', **fields):
  return pb.AgentBeatRequest(
    head=head(0, name), address='127.0.0.1', free_port=4321, **fields
  )


@beside(Server, rendezvous=RendezvousConfig(join_wait_s=1.0))
async def test_agents_run_generations(server):
  async def beat(**fields):
    server.clock.now += 0.5
    server.coordinator.tick()
    return await server.send('AgentBeat', agent_beat(**fields))

  async def told_to_run():
    for _ in range(40):
      reply = await beat()
      if reply.command == pb.AgentBeatReply.RUN:
        return reply
    raise AssertionError(reply)

  reply = await told_to_run()
  assert reply.assignment.generation == 1
  assert reply.assignment.jax_coordinator == '127.0.0.1:4321'
  await join(server, 'h0', generation=1)
  running = pb.AgentBeatRequest.RUNNING
  await beat(status=running, generation=1)
  exited = {'status': pb.AgentBeatRequest.EXITED, 'generation': 1}
  await beat(**exited, exit_code=-9)
  server.coordinator.tick()
  assert server.jobs.job('j').phase == 'waiting'
  assert server.jobs.job('j').restarts_used == 1
  await server.refused(
    'Heartbeat',
    pb.HeartbeatRequest(head=head(0, 'h0', generation=1)),
    'FAILED_PRECONDITION',
    'over',
  )
  reply = await told_to_run()
  assert reply.assignment.generation == 2
  (job,) = server.coordinator.snapshot()['jobs']
  assert [g['generation'] for g in job['generations']] == [2, 1]
  # The budgets of faults and of slow workers are two.
  assert (job['restarts_used'], job['restarts_left']) == (1, 9)
  assert job['policy_restarts_left'] == 3


@beside(Server)
async def test_jobs_of_agents_alone_are_bounded(server):
  for n in range(1000):
    server.coordinator._beaten[f'job{n}'] = server.clock.now
  await server.refused('AgentBeat', agent_beat(), 'RESOURCE_EXHAUSTED')
  server.clock.now += 1000
  server.coordinator.tick()
  await server.send('AgentBeat', agent_beat())


@beside(Server)
async def test_heartbeats_bring_the_plan_and_the_stop(server):
  beat = pb.HeartbeatRequest(head=head(0, 'a'))
  assert (await server.send('Heartbeat', beat)).plan.lr_scale == 1.0
  await join(server)
  plan = pb.Plan(num_micro_batches={'a': 3}, lr_scale=1.5)
  for sequence, action in ((1, 'set_plan'), (2, 'stop')):
    await server.send(
      'Operate',
      pb.OperateRequest(head=head(sequence, 'op'), action=action, plan=plan),
    )
  reply = await server.send('Heartbeat', beat)
  assert reply.plan.num_micro_batches['a'] == 3
  assert reply.is_stopping and reply.plan.version == 1


# --- The process. -------------------------------------------------------------


def ended(*arguments):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=source_tree.ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )


def test_the_coordinator_runs_without_jax():
  code = (
    'import sys\n'
    'import launch.coordinator\n'
    'from antjax.elastic.policy import resolve\n'
    'resolve("antdt_nd"), resolve("antdt_dd")\n'
    'found = {"jax", "jaxlib", "grain", "flax"} & set(sys.modules)\n'
    'assert not found, found\n'
  )
  done = ended('-c', code)
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_shard_is_leased_once_whatever_is_killed(tmp_path):
  """`kill -9` in the middle of many exchanges, three times."""
  num_workers, leased, lock = 8, [], threading.Lock()
  data_set = pb.DataSet(
    name='d', num_records=12_000, shard_size=2, num_epochs=1
  )
  with CoordinatorProcess(tmp_path) as process:

    def work(n):
      with CoordinatorClient(
        process.address, job='j', client=f'w{n}', give_up_s=60
      ) as client:
        client.call('CreateDataSet', pb.CreateDataSetRequest(data_set=data_set))
        client.call('Begin', pb.BeginRequest(data_set='d', pass_number=1))
        consumed = []
        while True:
          reply = client.call(
            'Exchange',
            pb.ExchangeRequest(
              data_set='d', pass_number=1, num_wanted=1, consumed=consumed
            ),
          )
          consumed = [lease.shard for lease in reply.leases]
          if reply.outcome == pb.ExchangeReply.FINISHED:
            return
          with lock:
            leased.extend(shard.index for shard in consumed)

    threads = [
      threading.Thread(target=work, args=(n,)) for n in range(num_workers)
    ]
    for thread in threads:
      thread.start()
    for kill in range(1, 4):
      while len(leased) < 1000 * kill:
        assert any(thread.is_alive() for thread in threads)
        threading.Event().wait(0.01)
      process.end(signal.SIGKILL)
      process.start()
    for thread in threads:
      thread.join(120)
    assert sorted(leased) == list(range(6000))
    with CoordinatorClient(process.address, job='', client='op') as client:
      status = json.loads(client.call('Status', pb.StatusRequest()).json)
    [shown] = status['jobs'][0]['data_sets']
    assert shown['shards']['consumed'] == 6000
    assert process.end(signal.SIGTERM) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_coordinator_says_what_is_wrong_and_ends(tmp_path):
  with CoordinatorProcess(tmp_path) as process:

    def fails(*flags):
      done = ended('-m', 'launch.coordinator', *flags)
      assert done.returncode == 1 and 'Traceback' not in done.stderr
      return done.stderr

    journal = f'--journal={tmp_path}/journal.db'
    other = f'--journal={tmp_path}/other.db'
    assert 'another coordinator (process' in fails(journal)
    assert 'Is the port taken?' in fails(other, f'--port={process.port}')
    assert 'journal must name a file' in fails()
    assert 'reached from other machines' in fails(other, '--address=0.0.0.0')
    assert 'policy' in fails(other, '--policy=nothing')
    assert 'needs the --port' in fails('--status')
    port = f'--port={process.port}'
    shown = ended('-m', 'launch.coordinator', '--status', '--once', port)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.slow
@certificates.needs_openssl
def test_only_who_has_a_certificate_is_served(tmp_path):
  ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
  ours.mkdir()
  theirs.mkdir()
  certificates.make(ours, 'server', 'client')
  certificates.make(theirs, 'client')
  tokens = tmp_path / 'tokens'
  tokens.write_text(f'operator {TOKENS["operator"]}\n')
  tokens.chmod(0o600)
  with CoordinatorProcess(
    tmp_path, f'--tls_dir={ours}/server', f'--token_file={tokens}'
  ) as process:

    def ask(tls_dir, token):
      with CoordinatorClient(
        process.address,
        job='',
        client='op',
        token=token,
        tls_dir=str(tls_dir) if tls_dir else '',
        give_up_s=1.5,
      ) as client:
        return client.call('Status', pb.StatusRequest()).json

    assert ask(ours / 'client', TOKENS['operator'])
    with pytest.raises(PermissionError):
      ask(ours / 'client', 'another-token-of-nobody')
    for folder, hint in ((theirs / 'client', 'ca.pem in'), (None, 'tls_dir')):
      with pytest.raises(RuntimeError, match=f'did not answer.*{hint}'):
        ask(folder, TOKENS['operator'])


@run
async def test_serve_says_where_and_stops_when_told(tmp_path):
  config = CoordinatorConfig(
    journal=str(tmp_path / 'j.db'), policy='static', status_port=0
  )
  until, started = asyncio.Event(), asyncio.Event()
  said = []

  def on_start(port, url):
    said.extend([port, url])
    started.set()

  task = asyncio.ensure_future(serve(config, until, on_start))
  await started.wait()
  port, url = said
  assert url.startswith('http://127.0.0.1:')
  with socket.create_connection(('127.0.0.1', port)):
    pass
  until.set()
  await task
  assert pathlib.Path(config.journal).exists()
  with Journal(config.journal) as journal:
    assert journal.load()[0] is not None
