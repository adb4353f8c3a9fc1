# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's real server: on an event loop, in a thread, as a process.

In this process nothing is decided but when a test calls `tick`.
"""

import asyncio
import hashlib
import logging
import signal
import subprocess
import sys
import threading
import time

import grpc
import grpc.aio
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import policy, protocol, security, service, writer
from antjax.elastic.controller import Controller
from antjax.elastic.coordinator import Coordinator, CoordinatorConfig
from antjax.elastic.jobs import Jobs
from antjax.shards.journal import Journal
from tests import source_tree

DATA_SET = pb.DataSet(name='d', num_records=400, shard_size=4, num_epochs=1)
TOKENS = {role: f'a-token-of-the-{role}' for role in protocol.ROLES}
WAIT_S = 30.0


class _Records(logging.Handler):
  """Keeps what the coordinator logs of failures inside."""

  def __init__(self):
    super().__init__(logging.ERROR)
    self.failures = []

  def emit(self, record):
    if record.exc_info or record.levelno >= logging.CRITICAL:
      self.failures.append(self.format(record))


def digest(data):
  return hashlib.sha256(data).hexdigest()


def _stored(jobs):
  """Returns the digest of what the journal must hold of jobs."""
  for name in jobs.names():
    for client in jobs.job(name).clients.values():
      # A question whether there is something again is not stored.
      client.sequence, client.reply = 0, b''
  return digest(jobs.to_bytes())


class Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


class Server:
  """A coordinator on this event loop, without TLS; ticks when told."""

  def __init__(self, folder, tokens=None, clock=None, **fields):
    self.config = CoordinatorConfig(
      journal=str(folder / 'journal.db'), **fields
    )
    self.clock, self._tokens = clock or Clock(), tokens or security.RoleTokens()
    if self.config.token_file:
      self._tokens = security.read_tokens(self.config.token_file)

  async def __aenter__(self):
    self.journal = Journal(self.config.journal)
    self.writer = writer.Writer(writer.load(self.journal), self.journal)
    self.coordinator = Coordinator(
      self.config,
      self.writer,
      Controller(policy.static, self.config.controller),
      self.clock,
    )
    self.server, self.port = service.make_server(
      service.Service(self.coordinator.handlers(), lambda: self._tokens),
      self.config.address,
      0,
      None,
    )
    await self.server.start()
    self.channel = grpc.aio.insecure_channel(
      f'127.0.0.1:{self.port}',
      options=[
        ('grpc.max_send_message_length', -1),
        ('grpc.use_local_subchannel_pool', 1),
      ],
    )
    return self

  async def __aexit__(self, *exc):
    await self.channel.close()
    await self.server.stop(0)
    if self.writer.error is None:
      await self.writer.close()
    self.journal.close()

  @property
  def jobs(self):
    return self.writer.jobs

  async def ask(self, name, data, token=None):
    """Returns the bytes of the reply to bytes."""
    metadata = [('authorization', f'Bearer {token}')] if token else None
    call = self.channel.unary_unary(f'/{protocol.SERVICE}/{name}')
    return await call(data, metadata=metadata, timeout=WAIT_S)

  async def send(self, name, data, token=None):
    if not isinstance(data, bytes):
      data = data.SerializeToString()
    reply = await self.ask(name, data, token)
    return protocol.METHODS[name].reply.FromString(reply)

  async def refused(self, name, data, code, match='', token=None):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
      await self.send(name, data, token)
    assert caught.value.code() == grpc.StatusCode[code], caught.value.details()
    assert match in caught.value.details()


def head(sequence=1, client='a', job='j', incarnation=7, generation=0):
  return pb.Head(
    job=job,
    client=client,
    incarnation=incarnation,
    sequence=sequence,
    generation=generation,
  )


async def join(server, client='a', **fields):
  await server.send(
    'CreateDataSet',
    pb.CreateDataSetRequest(head=head(1, client, **fields), data_set=DATA_SET),
  )
  await server.send(
    'Begin',
    pb.BeginRequest(
      head=head(2, client, **fields), data_set='d', pass_number=1
    ),
  )


def exchange(sequence, client='a', num_wanted=1, **fields):
  return pb.ExchangeRequest(
    head=head(sequence, client),
    data_set='d',
    pass_number=1,
    num_wanted=num_wanted,
    **fields,
  )


class CoordinatorProcess:
  """`launch.coordinator` in a process that can be killed and started again."""

  def __init__(self, folder, *flags):
    self.flags = [f'--journal={folder}/journal.db', '--policy=static', *flags]
    self.port = 0
    self.log = folder / 'log.txt'

  def __enter__(self):
    self.start()
    return self

  def __exit__(self, *exc):
    if self.process.poll() is None:
      self.end()

  def start(self):
    command = [sys.executable, '-m', 'launch.coordinator', *self.flags]
    with self.log.open('a') as log:
      self.process = subprocess.Popen(
        [*command, f'--port={self.port}'],
        cwd=source_tree.ROOT,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
      )
    line = self.process.stdout.readline()
    assert line.startswith('coordinator: '), self.log.read_text()
    self.port = int(line.rpartition(':')[2])

  @property
  def address(self):
    return f'127.0.0.1:{self.port}'

  def end(self, number=signal.SIGKILL):
    self.process.send_signal(number)
    self.process.communicate(timeout=30)
    return self.process.returncode


class CoordinatorServer:
  """The coordinator's server on an event loop in a thread; ticks when told."""

  def __init__(self, folder):
    tokens = tuple(
      (token.encode(), security.Grant(role)) for role, token in TOKENS.items()
    )
    self._inner = Server(folder, security.RoleTokens(tokens), time.monotonic)
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever)
    self._records = _Records()

  def __enter__(self):
    logging.getLogger('absl').addHandler(self._records)
    self._thread.start()
    self.run(self._inner.__aenter__())
    self.coordinator, self.port = self._inner.coordinator, self._inner.port
    return self

  def __exit__(self, *exc):
    self.run(self._stop())
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()
    logging.getLogger('absl').removeHandler(self._records)

  def run(self, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(
      WAIT_S
    )

  async def _stop(self):
    await self._inner.channel.close()
    await self._inner.server.stop(None)
    await self._inner.writer.settled()
    # As a kill would: without a snapshot.
    self._inner.writer._thread.shutdown()
    self._inner.journal.close()

  def state(self):
    return digest(self._jobs())

  def _jobs(self):
    async def read():
      return self._inner.jobs.to_bytes()

    return self.run(read())

  def tick(self):
    async def tick():
      self.coordinator.tick()

    self.run(tick())

  def call(self, method, data, caller):
    """Returns (status code, reply)."""
    token = TOKENS.get(caller, 'a-token-of-nobody-here')
    if caller == 'nobody':
      token = None
    try:
      reply = self.run(self._inner.ask(method, data, token))
      return grpc.StatusCode.OK, reply
    except grpc.RpcError as error:
      return error.code(), error.details()

  def check(self):
    """Nothing failed inside, and others are still served."""
    assert not self._records.failures, self._records.failures[0]
    for _ in range(100):
      code, reply = self.call('Status', b'', 'operator')
      # gRPC sheds load so while a thousand calls wait; our client repeats too.
      if code is not grpc.StatusCode.CANCELLED:
        break
      time.sleep(0.1)
    assert code is grpc.StatusCode.OK, reply

  def remember(self):
    """Keeps the state for `check_journal`."""
    data = self._jobs()
    jobs = Jobs.from_bytes(data)
    assert digest(jobs.to_bytes()) == digest(data)
    self._last = _stored(jobs)

  def check_journal(self):
    """What is stored leads to the state that was served. Call when stopped."""
    with Journal(self._inner.config.journal) as journal:
      assert _stored(writer.load(journal)) == self._last
