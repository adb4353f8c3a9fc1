# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a host of tests/cluster/cluster_test.py runs; prints a JSON line."""

import json
import os
import socket
import sys
import threading
import time

from benchmarks import virtual_network

_PORT = 9000
_CONNECT_S = 10


def connect(address):
  end = time.monotonic() + _CONNECT_S
  while True:
    try:
      return socket.create_connection(address, timeout=_CONNECT_S)
    except OSError:
      if time.monotonic() > end:
        raise
      time.sleep(0.02)


def receive(peer, num_bytes):
  while num_bytes:
    num_bytes -= len(peer.recv(min(num_bytes, 1 << 16)))


def in_threads(fn, peers):
  threads = [threading.Thread(target=fn, args=(peer,)) for peer in peers]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()


def transfer(num_bytes):
  """Host 0 sends to all others at once; then they send to it."""
  num_bytes = int(num_bytes)
  host = int(os.environ['JAX_PROCESS_ID'])
  others = int(os.environ['JAX_NUM_PROCESSES']) - 1
  before = virtual_network.sent_bytes()
  if host:
    with connect(('10.77.0.1', _PORT)) as peer:
      receive(peer, num_bytes)
      peer.sendall(b'k')
      peer.sendall(bytes(num_bytes))
      receive(peer, 1)
    return {}
  with socket.create_server(('', _PORT)) as server:
    peers = [server.accept()[0] for _ in range(others)]

  def send(peer):
    peer.sendall(bytes(num_bytes))
    receive(peer, 1)

  start = time.perf_counter()
  in_threads(send, peers)
  middle = time.perf_counter()
  in_threads(lambda peer: receive(peer, num_bytes), peers)
  end = time.perf_counter()
  for peer in peers:
    peer.sendall(b'k')
    peer.close()
  return {
    'out_s': middle - start,
    'in_s': end - middle,
    'eth0_sent': virtual_network.sent_bytes() - before,
  }


def name():
  return {
    'address': socket.gethostbyname(socket.gethostname()),
    'process': os.environ['JAX_PROCESS_ID'],
  }


def spin(seconds):
  end = time.monotonic() + float(seconds)
  before = time.process_time()
  while time.monotonic() < end:
    pass
  return {'cpu_s': time.process_time() - before}


def fail(host):
  if os.environ['JAX_PROCESS_ID'] == host:
    print('Oh no', file=sys.stderr)
    sys.exit(3)
  time.sleep(60)


def sleep():
  print('sleeping', flush=True)
  time.sleep(60)


def psum():
  import jax
  import jax.numpy as jnp

  from antjax.jobs import distributed
  from antjax.mesh.mesh import make_mesh

  distributed.initialize()
  mesh = make_mesh(intra=2)
  spec = jax.sharding.PartitionSpec(('inter', 'intra'))
  add = jax.jit(
    jax.shard_map(
      lambda x: jax.lax.psum(x, ('inter', 'intra')),
      mesh=mesh,
      in_specs=spec,
      out_specs=jax.sharding.PartitionSpec(),
    )
  )
  # Device k holds k everywhere: 0 + 1 + 2 + 3.
  x = jax.make_array_from_callback(
    (4, 1_000_000),
    jax.sharding.NamedSharding(mesh, spec),
    lambda index: jnp.full((1, 1_000_000), float(index[0].start or 0)),
  )
  add(x).block_until_ready()
  before, start = virtual_network.sent_bytes(), time.perf_counter()
  total = add(x).block_until_ready()
  return {
    'seconds': time.perf_counter() - start,
    'eth0_sent': virtual_network.sent_bytes() - before,
    'sum': float(total.addressable_data(0)[0, -1]),
  }


if __name__ == '__main__':
  todo = globals()[sys.argv[1]]
  print(json.dumps(todo(*sys.argv[2:])), flush=True)
