# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Time from an event to a prediction that reflects it, and requests per second.

  python -m benchmarks.delivery_bench --work=/tmp/delivery

makes a log of clicks, trains a factorization machine on it, whose tables have
`--spare_ids` extra rows for users and for items, and starts two processes:
`antjax-train-clicks --follow` and `antjax-serve --deltas`. One JSON line:

- `event_s`: median and 99th percentile of the seconds from a file's arrival
  (with events of new users only) to the first reply for such a user by a
  version with its delta. Each event counts.
- `retrain_s`: training from scratch and export, in a separate process: the time
  of delivery without deltas, excluding preparation of the data.
- `requests_per_s`, `p50_ms`, `p99_ms`: for `--connections` clients on this
  machine, which send their next request for `--candidates` items when answered,
  to a server of `--processes`; `client_cpu_ms`: their own CPU time per request.
- `grpc`, `grpc_stream`: the same over gRPC, by a call per request, and by one
  call per connection.
- `under_deltas`: that over HTTP while a file arrives every `--every_s` and is
  trained on beside the server; `deltas_applied` meanwhile.
- `in_process_per_s`: the same requests read, scored and written without HTTP
  and clients, on one thread: a bound per process.
- `server_cpu_ms`, `in_process_cpu_ms`: CPU time per request in both, which
  other load affects less; `call_cpu_ms`: that of the compiled function alone,
  and `bound_per_s`: what all cores could call.
"""

from collections.abc import Iterator
import contextlib
import csv
import dataclasses
import http.client
import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from typing import Annotated, Any

import jax
import numpy as np
import orjson
import psutil

from antjax.serving.click_loader import ClickScorer
from antjax.serving.served import ServedClicks
from benchmarks import delivery_load, harness

_SCHEMA = """
columns: {user: string, item: string, price: float32, clicked: int32,
  part: string}
user: user
item: item
label: clicked
split: part
numeric: [price]
"""
_PYTHON = (sys.executable, '-m', 'antjax.jobs.console')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  work: Annotated[str, 'Folder to work in; what is there is used again.'] = ''
  rows: Annotated[int, 'Rows of the log.'] = 100_000
  ids: Annotated[int, 'Users, and items, of it.'] = 20_000
  spare_ids: Annotated[int, 'Rows of tables beside them, each.'] = 100_000
  num_steps: Annotated[int, 'Steps of the training.'] = 200
  files: Annotated[int, 'Files that arrive. 0: only the load.'] = 20
  file_rows: Annotated[int, 'Events of a file.'] = 500
  every_s: Annotated[float, 'Seconds between two files.'] = 2.0
  candidates: Annotated[int, 'Items of a request.'] = 100
  connections: Annotated[int, 'Clients.'] = 32
  processes: Annotated[int, 'Processes of the server.'] = 1
  seconds: Annotated[float, 'Time of the load.'] = 10.0
  port: Annotated[int, 'Port of the server; the next is for gRPC.'] = 18_181


def _log(path: pathlib.Path, config: Config) -> None:
  rng = np.random.default_rng(0)
  users, items = rng.integers(0, config.ids, (2, config.rows))
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['user', 'item', 'price', 'clicked', 'part'])
    for i in range(config.rows):
      part = 'train' if i % 20 else 'test'
      row = f'u{users[i]}', f'i{items[i]}', i % 90 / 10
      writer.writerow([*row, int((users[i] + items[i]) % 3 == 0), part])


def _training(work: pathlib.Path, config: Config) -> list[str]:
  flags = {
    'data': work / 'data',
    'run_dir': work / 'run',
    'model': 'fm',
    'num_steps': config.num_steps,
    'spare_ids': config.spare_ids,
    'batch_size': 512,
    'fields.embedding_dim': 16,
    'norates': '',
    'checkpoint_every': config.num_steps,
  }
  return [*_PYTHON, 'train-clicks'] + [
    f'--{n}={x}' if x != '' else f'--{n}' for n, x in flags.items()
  ]


def _prepare(work: pathlib.Path, config: Config) -> dict[str, float]:
  """Makes data, model and export; returns their times."""
  took = work / 'took.json'
  if took.exists():
    return json.loads(took.read_text())
  work.mkdir(parents=True, exist_ok=True)
  _log(work / 'log.csv', config)
  (work / 'clicks.yaml').write_text(_SCHEMA)
  files = f'--schema={work / "clicks.yaml"}', f'--source={work / "log.csv"}'
  command = [*_PYTHON, 'prepare-data', *files, f'--out={work / "data"}']
  subprocess.run([*command, '--views=examples'], check=True, stdout=sys.stderr)
  start = time.perf_counter()
  subprocess.run(_training(work, config), check=True, stdout=sys.stderr)
  found = {'retrain_s': time.perf_counter() - start}
  took.write_text(json.dumps(found))
  return found


def _asked(config: Config, user: str, seed: int) -> bytes:
  rng = np.random.default_rng(seed)
  items = [f'i{i}' for i in rng.integers(0, config.ids, config.candidates)]
  prices = (rng.integers(0, 90, config.candidates) / 10).tolist()
  rows = {'user': user, 'item': items, 'price': prices}
  return json.dumps({'rows': rows}).encode()


def _ask(port: int, body: bytes) -> dict[str, Any] | None:
  """The reply, or None while there is no server."""
  try:
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
    headers = {'Content-Type': 'application/json'}
    connection.request('POST', '/v1/score', body, headers)
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    return content if reply.status == 200 else None
  except OSError:
    return None


def _arrive(
  work: pathlib.Path, config: Config, stamp: int, number: int
) -> None:
  """Writes a file of events of a new user."""
  path = work / 'in' / f'.{stamp}_{number:05}.csv'
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['user', 'item', 'price', 'clicked'])
    for i in range(config.file_rows):
      writer.writerow([f'new{stamp}_{number}', f'i{i}', i % 90 / 10, i % 2])
  path.rename(path.with_name(path.name[1:]))


@contextlib.contextmanager
def _arriving(work: pathlib.Path, config: Config) -> Iterator[dict[str, int]]:
  """Files arrive meanwhile; how many deltas the server has applied then."""
  ended, stamp, found = threading.Event(), int(time.time()) + 1, {}

  def write() -> None:
    for number in itertools.count():
      _arrive(work, config, stamp, number)
      if ended.wait(config.every_s):
        return

  def sequence() -> int:
    reply = _ask(config.port, _asked(config, 'u1', 0))
    return (reply or {})['version']['sequence']

  before, writer = sequence(), threading.Thread(target=write)
  writer.start()
  try:
    yield found
  finally:
    ended.set()
    writer.join()
    found['deltas_applied'] = sequence() - before


def _events(work: pathlib.Path, config: Config) -> list[float]:
  """Seconds from each file's arrival to a reply that reflects it."""
  arrived: dict[int, float] = {}
  waits, known = dict[int, float](), 0
  (work / 'in').mkdir(exist_ok=True)
  first = (_ask(config.port, _asked(config, 'u1', 0)) or {})['version']
  base, start = first['sequence'], time.time()
  told: dict[str, int] = {}  # File -> number of its delta.
  deltas, seen = work / 'deltas', set[str]()
  stamp = int(start)
  while len(waits) < config.files:
    now = time.time()
    due = start + len(arrived) * config.every_s
    if len(arrived) < config.files and now >= due:
      number = len(arrived)
      _arrive(work, config, stamp, number)
      arrived[number] = time.time()
    for path in sorted(deltas.glob('*.delta')) if deltas.is_dir() else ():
      if path.name not in seen:
        with path.open('rb') as lines:
          head = json.loads(lines.readline())
        told |= dict.fromkeys(head['info']['files'], head['sequence'])
        seen.add(path.name)
    reply = _ask(config.port, _asked(config, f'new{stamp}_0', 1))
    known = max(
      known, (reply or {'version': {'sequence': base}})['version']['sequence']
    )
    for number, at in arrived.items():
      name = f'{stamp}_{number:05}.csv'
      if number not in waits and told.get(name, known + 1) <= known:
        waits[number] = time.time() - at
    time.sleep(0.02)
  return [waits[n] for n in sorted(waits)]


def _load(
  config: Config,
  server: psutil.Process,
  kind: type[delivery_load.Client] = delivery_load.Http,
) -> dict[str, float]:
  return delivery_load.run(
    kind,
    [_asked(config, f'u{i}', i) for i in range(500)],
    config.port + (kind is not delivery_load.Http),
    *(config.connections, config.seconds, server),
  )


def _in_process(folder: pathlib.Path, config: Config) -> dict[str, float]:
  served = ServedClicks(ClickScorer(folder), 1_000)
  served.warm()
  bodies = [_asked(config, f'u{i}', i) for i in range(500)]
  together, done = 20, 0
  start, cpu = time.perf_counter(), time.process_time()
  while time.perf_counter() - start < config.seconds / 2:
    some = [bodies[(done + i) % len(bodies)] for i in range(together)]
    answers = served.score([served.read(orjson.loads(body)) for body in some])
    for answer in answers:
      orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    done += together
  found = {
    'in_process_per_s': done / (time.perf_counter() - start),
    'in_process_cpu_ms': 1e3 * (time.process_time() - cpu) / done,
  }
  found['call_cpu_ms'] = _call_cpu_ms(served.model, config)
  found['bound_per_s'] = 1e3 * (os.cpu_count() or 1) / found['call_cpu_ms']
  return found


def _call_cpu_ms(model: ClickScorer, config: Config) -> float:
  """CPU time per request of the compiled function alone, at 2,048 rows."""
  size = max(n for n in model.clicks['sizes'] if n <= 2_048)
  row = json.loads(_asked(config, 'u1', 0))['rows']
  count = config.candidates
  rows = row | {'user': [row['user']] * count}
  batch, _ = model.batch(rows)
  batch = jax.tree.map(lambda x: x[np.arange(size) % count], batch)
  batch['weight'] = np.ones(size, np.float32)
  vectors = {n: model._vectors(n, ids) for n, ids in batch['ids'].items()}
  call = model._functions[f'scores_{size}']
  jax.block_until_ready(call(model.params, vectors, batch))
  cpu, times = time.process_time(), 100
  for _ in range(times):
    jax.block_until_ready(call(model.params, vectors, batch))
  return 1e3 * (time.process_time() - cpu) / times * count / size


def main(config: Config) -> None:
  if not config.work:
    sys.exit('delivery_bench: --work is needed.')
  facts = harness.start()
  work = pathlib.Path(config.work).absolute()
  found: dict[str, Any] = _prepare(work, config)
  export = work / 'run' / 'seed_0' / 'export'
  serve = [*_PYTHON, 'serve', f'--model={export}', f'--port={config.port}']
  serve += [f'--grpc_port={config.port + 1}']
  commands = [[*serve, f'--processes={config.processes}']]
  if config.files:
    (work / 'deltas').mkdir(exist_ok=True)
    deltas = f'--deltas={work / "deltas"}'
    commands[0] += [deltas, '--poll_s=.2']
    trainer = [*_training(work, config), f'--follow={work / "in"}', deltas]
    commands.append([*trainer, '--follow_poll_s=.2'])
  with (work / 'processes.log').open('w') as out:
    processes = [
      subprocess.Popen(one, stdout=out, stderr=subprocess.STDOUT)
      for one in commands
    ]
  log = pathlib.Path(out.name)
  try:
    while _ask(config.port, _asked(config, 'u1', 0)) is None or (
      config.files and 'Following' not in log.read_text()
    ):
      if any(one.poll() is not None for one in processes):
        sys.exit(f'delivery_bench: a process has ended; see {log}.')
      time.sleep(0.2)
    if config.files:
      found |= _delivery(_events(work, config), config, found['retrain_s'])
      with _arriving(work, config) as applied:
        under = _load(config, psutil.Process(processes[0].pid))
      found['under_deltas'] = under | applied
      processes[1].terminate()
      processes[1].wait(60)
    server = psutil.Process(processes[0].pid)
    found |= _load(config, server)
    found['grpc'] = _load(config, server, delivery_load.Grpc)
    found['grpc_stream'] = _load(config, server, delivery_load.GrpcStream)
  finally:
    for one in processes:
      one.terminate()
      one.wait(60)
  found |= {
    **_in_process(export, config),
    'table_rows': 2 * (config.ids + config.spare_ids),
    'cores': os.cpu_count(),
    'processes': config.processes,
  }
  harness.emit(facts | {'bench': 'delivery'} | found)


def _delivery(
  waits: list[float], config: Config, retrain_s: float
) -> dict[str, Any]:
  median, p99 = np.percentile(waits, [50, 99])
  return {
    'event_s': {'p50': float(median), 'p99': float(p99), 'max': max(waits)},
    'times_faster': retrain_s / float(p99),
    'num_events': config.files * config.file_rows,
  }


if __name__ == '__main__':
  harness.run(main, Config())
