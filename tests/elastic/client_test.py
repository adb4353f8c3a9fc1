# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Calls to a coordinator that dies, stalls, repeats and refuses."""

import contextlib
import os
import socket
import threading

import grpc
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import (
  CoordinatorClient,
  CoordinatorGoneError,
  StaleError,
)
from tests.elastic.jobs_server import JobsServer


def connect(server, client='w', **options):
  return CoordinatorClient(
    server.address, job='job', client=client, **{'give_up_s': 30.0, **options}
  )


def create(client, num_records=10, **options):
  data_set = pb.DataSet(
    name='train', num_records=num_records, shard_size=1, num_epochs=1, **options
  )
  client.call('CreateDataSet', pb.CreateDataSetRequest(data_set=data_set))


def begin(client, state=b'', pass_number=1):
  client.call(
    'Begin',
    pb.BeginRequest(data_set='train', state=state, pass_number=pass_number),
  )


def lease(client, count=1, **options):
  return client.call(
    'Exchange',
    pb.ExchangeRequest(
      data_set='train', pass_number=1, num_wanted=count, **options
    ),
  )


@pytest.mark.parametrize(
  'fault',
  [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    'drop_reply',
  ],
)
def test_a_lost_call_is_repeated_with_the_same_head(server, fault):
  faults = [fault, fault]
  server.break_call = lambda name, message: (
    faults.pop() if name == 'Exchange' and faults else None
  )
  with connect(server) as client:
    create(client)
    begin(client)
    leases = lease(client, 3).leases
  assert len(leases) == 3
  assert server.ledger().counts()['doing'] == 3  # Not 9.
  heads = [m.head.sequence for name, m in server.requests if name == 'Exchange']
  assert heads == [3, 3, 3]


def test_waits_for_a_coordinator_that_is_killed_and_comes_back(server):
  with connect(server) as client:
    create(client)
    begin(client)
    first = lease(client).leases[0].shard
    server.stop()
    results = []
    thread = threading.Thread(
      target=lambda: results.append(lease(client, consumed=[first]))
    )
    thread.start()
    server.restart()
    thread.join(30)
    assert results[0].leases[0].shard != first
  counts = server.ledger().counts()
  assert (counts['consumed'], counts['doing']) == (1, 1)


def test_waits_for_a_coordinator_that_starts_late():
  with JobsServer() as server:
    server.stop()
    with connect(server) as client:
      thread = threading.Thread(target=create, args=(client,))
      thread.start()
      server.start()
      thread.join(30)
      assert not thread.is_alive()
    assert server.jobs.names() == ['job']


def test_gives_up(server):
  server.stop()
  with connect(server, give_up_s=0.3) as client:
    with pytest.raises(CoordinatorGoneError, match='did not answer for'):
      create(client)


def test_of_a_port_that_hangs_up_it_says_what_may_be_wrong():
  with socket.create_server(('127.0.0.1', 0)) as listener:

    def hang_up():
      with contextlib.suppress(OSError):
        while True:
          listener.accept()[0].close()

    threading.Thread(target=hang_up, daemon=True).start()
    address = f'127.0.0.1:{listener.getsockname()[1]}'
    with CoordinatorClient(
      address, job='job', client='a', give_up_s=0.3
    ) as client:
      with pytest.raises(CoordinatorGoneError, match='port .* give --tls_dir'):
        create(client)
    listener.shutdown(socket.SHUT_RDWR)


def test_close_ends_a_call_that_waits(server):
  server.stop()
  client = connect(server)
  errors = []

  def call():
    try:
      create(client)
    except CoordinatorGoneError as error:
      errors.append(error)

  thread = threading.Thread(target=call)
  thread.start()
  client.close()
  thread.join(10)
  assert len(errors) == 1


def test_another_process_of_the_name_fences_off_the_first(server):
  with connect(server) as old, connect(server) as new:
    create(old)
    begin(old)
    create(new)
    with pytest.raises(StaleError, match='another process has its name'):
      lease(old)
    assert len(lease(new).leases) == 1


def test_threads_share_one_client(server):
  with connect(server) as client:
    create(client, 400)
    begin(client)
    taken = []

    def work():
      for _ in range(50):
        taken.extend(one.shard.index for one in lease(client).leases)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  assert sorted(taken) == list(range(400))


def test_a_heartbeat_has_no_number(server):
  with connect(server) as client:
    create(client)
    client.call('Heartbeat', pb.HeartbeatRequest())
    begin(client)
  assert [m.head.sequence for _, m in server.requests] == [1, 0, 2]


@pytest.mark.parametrize(
  'code, error, match',
  [
    (grpc.StatusCode.FAILED_PRECONDITION, StaleError, 'Begin: as the test'),
    (grpc.StatusCode.INVALID_ARGUMENT, ValueError, 'Begin: as the test'),
    (grpc.StatusCode.NOT_FOUND, LookupError, 'Begin: as the test'),
    (grpc.StatusCode.PERMISSION_DENIED, PermissionError, 'Begin: as the test'),
    (grpc.StatusCode.UNAUTHENTICATED, PermissionError, 'another token'),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, RuntimeError, 'RESOURCE_EXHAUSTED'),
    (grpc.StatusCode.INTERNAL, RuntimeError, 'INTERNAL'),
  ],
)
def test_refusals(server, code, error, match):
  server.break_call = lambda name, message: code
  with connect(server) as client, pytest.raises(error, match=match):
    begin(client)
  assert len(server.requests) == 1  # No second try.


def test_the_token_is_sent(server):
  seen = []
  call = server._call

  def spy(name, request, context):
    seen.append(dict(context.invocation_metadata())['authorization'])
    return call(name, request, context)

  server._call = spy
  with connect(server, token='secret') as client:
    create(client)
  assert seen == ['Bearer secret']


def test_a_forked_child_is_refused(server):
  with connect(server) as client:
    client._pid = os.getpid() + 1
    with pytest.raises(RuntimeError, match='make one after the fork'):
      create(client)
    client._pid = os.getpid()


def test_tls_needs_its_files(server, tmp_path):
  with pytest.raises(ValueError, match='ca.pem'):
    connect(server, tls_dir=str(tmp_path))
