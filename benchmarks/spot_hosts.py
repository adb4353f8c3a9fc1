# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The real jobs of `benchmarks.spot_bench`: agents that come and go."""

import contextlib
import dataclasses
import http.server
import json
import os
import pathlib
import signal
import threading
import time
from typing import Any

from antjax.elastic import writer
from antjax.shards.journal import Journal
from benchmarks import chaos_hosts, text_job
from benchmarks.cluster import Process

_JOB = 'spot'
_STEP_S = 0.3  # Mostly waiting, since all hosts share this machine.
_NOTICE_S = 8.0  # Scaled from two minutes in a trace with 300 s per row.
_FLAGS = (
  *('--policy=static', '--node_check=off', '--max_restarts=1000000'),
  *('--agent_timeout_s=4', '--lease_timeout_s=6', '--restart_backoff_s=0'),
  *('--join_wait_s=1', '--grow_after_s=4', '--progress_timeout_s=60'),
)
# Capacity of a host: micro-batches and rows per step.
RECORDS_A_HOST_S = text_job.Job.num_micro_batches * text_job.Job.rows / _STEP_S


class _Metadata(http.server.ThreadingHTTPServer):
  """Compute Engine's metadata of all hosts, at a separate port for each."""

  def __init__(self) -> None:
    outer = self
    self.is_preempted = False

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'TRUE' if outer.is_preempted else b'FALSE')

      def log_message(self, *args: Any) -> None:
        pass

    super().__init__(('127.0.0.1', 0), Handler)
    threading.Thread(target=self.serve_forever, daemon=True).start()


@dataclasses.dataclass
class _Host:
  agent: Process
  metadata: _Metadata


def run(
  out: pathlib.Path,
  rows: list[int],
  gap_s: float,
  min_hosts: int,
  max_hosts: int,
  has_notice: bool,
  text: str,
) -> dict[str, Any]:
  """Runs a job while numbers of hosts are held, row by row.

  Args:
    out: Folder for all files.
    rows: Number of hosts held in each row.
    gap_s: Seconds per row.
    min_hosts: Minimum number of hosts of the job.
    max_hosts: Maximum number of hosts of the job.
    has_notice: Whether hosts get a notice before they are lost.
    text: Folder of prepared text.

  Returns:
    Records in committed steps, generations, and the seconds from the first step
    to the last.
  """
  out.mkdir(parents=True)
  job = text_job.Job(
    data=text_job.prepared(text),
    out=str(out),
    num_sequences=2_000,
    num_epochs=50,
    has_witness=False,
    checkpoint_every=100,  # Half a minute: Young and Daly's, scaled.
    step_s=_STEP_S,
  )
  cache = out.parent / 'cache'
  held: list[_Host] = []
  with chaos_hosts.Hosts(None) as place, contextlib.ExitStack() as stack:

    def note(host: int, line: str) -> None:
      with (out / 'log.txt').open('a') as file:
        file.write(f'{time.time():.2f} [{host}] {line}\n')

    port = place.coordinator.rpartition(':')[2]
    coordinator = place.start(
      -1,
      [
        *('-m', 'launch.coordinator', f'--port={port}', *_FLAGS),
        *(f'--journal={out}/journal.db', f'--min_hosts={min_hosts}'),
        f'--max_hosts={max_hosts}',
      ],
      note,
    )

    def add() -> None:
      metadata = _Metadata()
      stack.callback(metadata.shutdown)
      number = len(held)
      agent = place.start(
        number,
        [
          *('-m', 'launch.agent', f'--coordinator={place.coordinator}'),
          *(f'--job={_JOB}', f'--name=host{number}', '--devices_per_host=1'),
          *(f'--compilation_cache={cache}', '--platform=cpu'),
          *('--preemption=gce', f'--grace_s={_NOTICE_S}'),
          f'--metadata_address=127.0.0.1:{metadata.server_port}',
          *('--', '-m', text_job.WORKER, json.dumps(vars(job))),
        ],
        note,
      )
      held.append(_Host(agent, metadata))

    began = time.monotonic()
    for i, wanted in enumerate(rows):
      while len(held) > wanted:
        lost = held.pop().agent
        with contextlib.suppress(ProcessLookupError):
          os.kill(lost.pid, signal.SIGKILL)
      while len(held) < wanted:
        add()
      ends = began + (i + 1) * gap_s
      if has_notice and i + 1 < len(rows):
        time.sleep(max(0.0, ends - _NOTICE_S - time.monotonic()))
        for host in held[min(rows[i + 1], len(held)) :]:
          host.metadata.is_preempted = True
      time.sleep(max(0.0, ends - time.monotonic()))
    for process in [*(host.agent for host in held), coordinator]:
      process.kill()
      process.join()
  return _result(out)


def _result(out: pathlib.Path) -> dict[str, Any]:
  with Journal(out / 'journal.db') as journal:
    job = writer.load(journal).job(_JOB)
  steps: dict[int, float] = {}
  times: list[float] = []
  path = out / 'progress.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  for line in lines:
    note = json.loads(line)
    steps[note['step']] = note['weight']
    times.append(note['now'])
  committed = [
    weight for step, weight in steps.items() if step <= job.last_step
  ]
  return {
    'records': sum(committed),
    'records_made': sum(steps.values()),
    'steps_again': len(lines) - len(steps),
    'committed_step': job.last_step,
    'num_generations': job.generation,
    'running_s': times[-1] - times[0] if times else 0.0,
  }
