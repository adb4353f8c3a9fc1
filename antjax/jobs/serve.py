# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Serves an exported model over HTTP, and over gRPC if it is asked for.

  python -m launch.serve --model=runs/clicks --port=8080
  curl -s localhost:8080/v1/score -H 'Content-Type: application/json' \
    -d '{"rows": {"user": "u1", "item": ["i7", "i9"]}}'

The folder comes from launch/train_clicks.py, launch/export_gmeta.py or
launch/train_llm_rec.py; docs/delivery.md describes their requests. Requests
that arrive together are scored together, in batch sizes that are compiled at
the start. After SIGTERM, it answers all open requests and exits.
"""

import asyncio
import contextlib
import dataclasses
import gc
import multiprocessing
import multiprocessing.connection
from multiprocessing.synchronize import Barrier
import os
import socket
import sys
import tempfile
import threading
from typing import Annotated, Any, NamedTuple

import uvloop

from antjax import paths
from antjax.elastic import security
from antjax.elastic.rotation import Rotating, rotating_tls
from antjax.jobs import script
from antjax.jobs.http_connections import Bounds
from antjax.jobs.llm_rec import export as llm_rec_export
from antjax.jobs.llm_rec.served import ServedTitles
from antjax.jobs.serve_grpc import GrpcFront
from antjax.jobs.serve_http import Front, Metrics
from antjax.serving import exporter, loader
from antjax.serving.batcher import Batcher, Served
from antjax.serving.click_loader import ClickScorer
from antjax.serving.feed import DeltaFeed
from antjax.serving.follower import Follower
from antjax.serving.live import Live
from antjax.serving.served import ServedClicks, ServedUsers

_POSITIVE = (
  *('max_rows', 'batch_rows', 'max_waiting_rows', 'max_body_bytes'),
  *('max_connections', 'client_timeout_s', 'poll_s', 'processes'),
)
_INSIDE = ('', 'export', 'seed_0/export')  # Where a run folder has its model.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What is served, where, and to whom."""

  model: Annotated[
    str, 'Folder of an exported model, or a run folder with one.', paths.URL
  ] = ''
  address: Annotated[str, 'Address to listen on.'] = '127.0.0.1'
  port: Annotated[int, 'Port. 0: a free port, which is printed.'] = 8080
  grpc_port: Annotated[
    int | None,
    'Port for gRPC besides. 0: a free port, which is printed. none: no gRPC.',
  ] = None
  processes: Annotated[
    int, 'Processes that answer on the port. They share mapped tables.'
  ] = 1
  token_file: Annotated[
    str, 'File of lines `role token`, as for the coordinator. Empty: no tokens.'
  ] = ''
  tls_dir: Annotated[
    str, 'Folder with ca.pem, cert.pem, key.pem: mutual TLS. Empty: no TLS.'
  ] = ''
  insecure: Annotated[
    bool, 'Allow listening for other machines without tokens or TLS.'
  ] = False
  max_rows: Annotated[int, 'Maximum number of rows per request.'] = 1_000
  batch_rows: Annotated[int, 'Maximum number of rows scored at once.'] = 2_048
  max_waiting_rows: Annotated[
    int, 'Maximum number of rows in the queue. Further requests get status 503.'
  ] = 16_384
  max_body_bytes: Annotated[int, 'Maximum bytes per request.'] = 1 << 20
  max_connections: Annotated[int, 'Maximum number of connections.'] = 1_000
  client_timeout_s: Annotated[
    float, 'Seconds for a client to send a request, or to read a reply.'
  ] = 10.0
  deltas: Annotated[
    str,
    'Folder of incoming deltas, applied in order while serving. Empty: none.',
    paths.URL,
  ] = ''
  poll_s: Annotated[float, 'Seconds between checks for a delta.'] = 0.5
  stop_timeout_s: Annotated[
    float, 'Seconds to wait for open requests after SIGTERM.'
  ] = 30.0

  def __post_init__(self) -> None:
    if not 0 <= self.port <= 65535:
      raise ValueError(f'port must be 0 to 65535; got {self.port}.')
    if self.grpc_port is not None and not 0 <= self.grpc_port <= 65535:
      raise ValueError(f'grpc_port must be 0 to 65535; got {self.grpc_port}.')
    if self.grpc_port == 0 and self.processes > 1:
      raise ValueError('grpc_port=0: several processes need the same; name it.')
    for name in _POSITIVE:
      if getattr(self, name) <= 0:
        raise ValueError(f'{name} must be positive; got {getattr(self, name)}.')
    security.check_address(
      self.address,
      has_tokens=bool(self.token_file),
      has_tls=bool(self.tls_dir),
      is_insecure=self.insecure,
      risk='read what the model knows',
    )


def main(config: Config) -> None:
  """Serves until SIGINT or SIGTERM."""
  if not config.model:
    raise ValueError('serve: name the folder of the model with --model.')
  if config.processes > 1:
    _serve_together(config)
  else:
    _serve_alone(config)


def _serve_alone(config: Config, ready: Barrier | None = None) -> None:
  # The thread that answers must not wait long for its turn.
  sys.setswitchinterval(5e-4)
  uvloop.run(_serve(config, ready))


def _serve_together(config: Config) -> None:
  """Starts processes that share a port; if one ends, all of them do.

  Raises:
    RuntimeError: The port is taken, or a process has failed.
  """
  script.stop_request.install()
  family = socket.AF_INET6 if ':' in config.address else socket.AF_INET
  with socket.socket(family) as holder, tempfile.TemporaryDirectory() as counts:
    # It holds the port until they listen, and takes no connection. It shares
    # once it has the port: not with the processes of another server.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      holder.bind((config.address, config.port))
    except OSError as error:
      where = f'{config.address}:{config.port}'
      raise RuntimeError(
        f'serve: cannot listen on {where}: {error}.'
      ) from error
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    config = dataclasses.replace(config, port=holder.getsockname()[1])
    os.environ['PROMETHEUS_MULTIPROC_DIR'] = counts  # Of prometheus_client.
    spawned = multiprocessing.get_context('spawn')
    ready = spawned.Barrier(config.processes)
    all_of = [
      spawned.Process(target=_serve_alone, args=(config, ready), daemon=True)
      for _ in range(config.processes)
    ]
    try:
      for one in all_of:
        one.start()
      multiprocessing.connection.wait([one.sentinel for one in all_of])
    except KeyboardInterrupt:  # A signal to stop.
      pass
    finally:
      started = [one for one in all_of if one.pid]
      for one in started:
        one.terminate()
      for one in started:
        one.join()
    if any(one.exitcode for one in all_of) and not script.stop_request():
      codes = ', '.join(str(one.exitcode) for one in all_of)
      raise RuntimeError(f'serve: processes ended with the codes {codes}.')


class Opened(NamedTuple):
  """A model, what deltas change of it, digest and number of its base."""

  served: Served
  live: Live | None
  digest: str
  number: int


def load(config: Config) -> Opened:
  """Opens a folder; its own files say of what kind it is."""
  folder = paths.fetched(config.model, 'model')
  for inside in _INSIDE:
    path = folder / inside
    served: Served
    if (path / llm_rec_export.FILE).is_file():
      if config.deltas:
        raise ValueError('deltas: none are written for an LLM-Rec; leave it.')
      served = ServedTitles(str(path))
      digest = exporter.sha256(path / llm_rec_export.FILE)
      return Opened(served, None, digest, 0)
    if (path / loader.MANIFEST).is_file():
      model: loader.Model
      is_live, (digest, number) = bool(config.deltas), exporter.state_of(path)
      if 'clicks' in loader.read_manifest(path):
        model = clicks = ClickScorer(path, is_live)
        served = ServedClicks(clicks, config.max_rows)
      else:
        model = loader.Model(path, is_live)
        served = ServedUsers(model, config.max_rows)
      live = Live(model, digest, number) if is_live else None
      return Opened(served, live, digest, number)
  raise FileNotFoundError(
    f'{config.model} holds no exported model; launch/train_clicks.py,'
    ' launch/export_gmeta.py and launch/train_llm_rec.py write one.'
  )


async def _serve(config: Config, ready: Barrier | None) -> None:
  stop, metrics = script.stop_event(), Metrics()
  if parent := multiprocessing.parent_process() if ready else None:
    asyncio.get_running_loop().add_reader(parent.sentinel, stop.set)
  served, live, digest, number = await asyncio.to_thread(load, config)
  version = {'sequence': number, 'digest': digest}
  follower = None
  if live is not None:
    follower = Follower(
      DeltaFeed(config.deltas, digest, number),
      live,
      config.poll_s,
      lambda: metrics.see(follower) if follower else None,
    )

  def state() -> dict[str, Any]:
    if follower is None:
      return {'version': version}
    return {'version': follower.live.version, 'deltas': follower.state}

  batcher = Batcher(
    served,
    batch_rows=config.batch_rows,
    max_waiting_rows=config.max_waiting_rows,
    between=follower.between if follower else lambda: None,
    version=lambda: follower.live.version if follower else version,
    observe=lambda rows: metrics.take(rows, batcher.waiting_rows),
  )
  front = Front(
    served,
    batcher,
    metrics,
    address=config.address,
    port=config.port,
    limits=Bounds(
      config.max_connections, config.max_body_bytes, config.client_timeout_s
    ),
    is_shared=ready is not None,
    tokens=Rotating(lambda: security.read_tokens(file), [file])
    if (file := config.token_file)
    else security.RoleTokens,
    tls=security.page_tls(config.tls_dir, is_mutual=True)
    if config.tls_dir
    else None,
    is_insecure=config.insecure,
    state=state,
  )
  await front.start()
  print(f'serve: {front.url}', flush=True)
  rpc = None
  if config.grpc_port is not None:
    tls = rotating_tls(config.tls_dir) if config.tls_dir else None
    rpc = GrpcFront(front, port=config.grpc_port, tls=tls)
    await rpc.start()
    print(f'serve: gRPC on port {rpc.port}', flush=True)
  warm = asyncio.create_task(
    asyncio.to_thread(_prepare, served, follower, ready)
  )
  stopped = asyncio.create_task(stop.wait())
  await asyncio.wait([warm, stopped], return_when=asyncio.FIRST_COMPLETED)
  if not stop.is_set():
    await warm
    batcher.start()
    if follower is not None:
      follower.start()
    front.trouble = ''
    print('ready', flush=True)
    await stopped
  elif ready is not None:
    ready.abort()
  if follower is not None:
    follower.stop()
  closing = [front.close(config.stop_timeout_s)]
  if rpc is not None:
    closing.append(rpc.close(config.stop_timeout_s))
  await asyncio.gather(*closing)
  batcher.close()


def _prepare(
  served: Served, follower: Follower | None, ready: Barrier | None
) -> None:
  """All that comes before the first request."""
  served.warm()
  if follower is not None:
    follower.catch_up()
  gc.freeze()  # What is there stays: each collection would look through it.
  if ready is not None:  # Else a client would find one that is not.
    with contextlib.suppress(threading.BrokenBarrierError):
      ready.wait()
