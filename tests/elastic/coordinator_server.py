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

from antjax.elastic import protocol, security, service, writer
from antjax.elastic.controller import Controller
from antjax.elastic.coordinator import Coordinator, CoordinatorConfig
from antjax.elastic.jobs import Jobs
from antjax.shards.journal import Journal
from tests import source_tree

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


class LoopServer:
  """A coordinator's server on this event loop, without TLS."""

  def __init__(self, config, tokens, policy, clock=time.monotonic):
    self.config, self.clock = config, clock
    self._tokens, self._policy = tokens, policy

  async def start(self):
    self.journal = Journal(self.config.journal)
    self.writer = writer.Writer(writer.load(self.journal), self.journal)
    self.coordinator = Coordinator(
      self.config,
      self.writer,
      Controller(self._policy, self.config.controller),
      self.clock,
    )
    self.server, self.port = service.make_server(
      service.Service(self.coordinator.handlers(), lambda: self._tokens),
      self.config.address,
      0,
      None,
    )
    await self.server.start()


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
    self.journal = folder / 'journal.db'
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever)
    self._records = _Records()

  def __enter__(self):
    logging.getLogger('absl').addHandler(self._records)
    self._thread.start()
    self.run(self._start())
    self.port = self._inner.port
    self.address = f'127.0.0.1:{self.port}'
    self._channel = grpc.insecure_channel(
      self.address,
      options=[
        ('grpc.max_send_message_length', -1),
        ('grpc.use_local_subchannel_pool', 1),
      ],
    )
    return self

  def __exit__(self, *exc):
    self._channel.close()
    self.run(self._stop())
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()
    logging.getLogger('absl').removeHandler(self._records)

  def run(self, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(
      WAIT_S
    )

  async def _start(self):
    tokens = security.RoleTokens(
      tuple(
        (token.encode(), security.Grant(role)) for role, token in TOKENS.items()
      )
    )
    config = CoordinatorConfig(journal=str(self.journal))
    self._inner = LoopServer(config, tokens, lambda view: [])
    await self._inner.start()
    self.coordinator = self._inner.coordinator

  async def _stop(self):
    await self._inner.server.stop(None)
    await self._inner.writer.settled()
    # As a kill would: without a snapshot.
    self._inner.writer._thread.shutdown()
    self._inner.journal.close()

  def state(self):
    return digest(self._jobs())

  def _jobs(self):
    async def read():
      return self._inner.writer.jobs.to_bytes()

    return self.run(read())

  def tick(self):
    async def tick():
      self.coordinator.tick()

    self.run(tick())

  def call(self, method, data, caller, timeout=WAIT_S):
    """Returns (status code, reply)."""
    metadata = []
    if caller != 'nobody':
      token = TOKENS.get(caller, 'a-token-of-nobody-here')
      metadata = [('authorization', f'Bearer {token}')]
    try:
      path = f'/{protocol.SERVICE}/{method}'
      reply = self._channel.unary_unary(path)(
        data, timeout=timeout, metadata=metadata
      )
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
    with Journal(self.journal) as journal:
      assert _stored(writer.load(journal)) == self._last
