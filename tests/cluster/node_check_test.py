# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Slow hosts, and hosts of slow links, are found before their workers join."""

import pathlib
import sys

import pytest

from antjax.elastic import writer
from antjax.shards.journal import Journal
from benchmarks import cluster as cluster_lib
from benchmarks import virtual_network

_MISSING = cluster_lib.missing()
_HOSTS = 4


def _members(
  cluster: cluster_lib.Cluster, out: pathlib.Path
) -> tuple[list[str], str]:
  """Runs a job of toy workers; its members, and what the coordinator said."""
  said: list[str] = []
  address = virtual_network.address(_HOSTS)
  coordinator = cluster.start(
    _HOSTS,
    [
      *(sys.executable, '-m', 'launch.coordinator', '--insecure'),
      *(f'--address={address}', '--port=8476', f'--journal={out}/journal.db'),
      *('--node_check=exclude', '--min_hosts=2', f'--max_hosts={_HOSTS}'),
    ],
    on_line=lambda host, line: said.append(line),
  )
  worker = out / 'worker.py'
  worker.write_text('import time\ntime.sleep(2)\n')
  agents = [
    cluster.start(
      host,
      [
        *(sys.executable, '-m', 'launch.agent', f'--name=host-{host}'),
        *(f'--coordinator={address}:8476', '--platform=cpu'),
        *(f'--compilation_cache={out}/cache', '--', str(worker)),
      ],
    )
    for host in range(_HOSTS)
  ]
  try:
    for agent in agents:
      agent.join()
  finally:
    for process in [*agents, coordinator]:
      process.kill()
    coordinator.join()
  with Journal(out / 'journal.db') as journal:
    job = writer.load(journal).job('job')
  assert job.is_success
  return job.history[-1].members, '\n'.join(said)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))
def test_a_host_with_a_slow_processor_is_kept_out(tmp_path):
  shares = [0.4, 0.1, 0.4, 0.4, None]
  with cluster_lib.Cluster(_HOSTS + 1, 1, cpu_share=shares) as cluster:
    members, said = _members(cluster, tmp_path)
  assert members == ['host-0', 'host-2', 'host-3'], said
  assert 'host-1 is kept out' in said


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))
def test_a_host_with_a_slow_link_is_kept_out(tmp_path):
  with cluster_lib.Cluster(_HOSTS + 1, 1, uplink_mbps=400) as cluster:
    slow = virtual_network.namespace(cluster.name, 2)
    virtual_network._limit(slow, 'eth0', 60)
    members, said = _members(cluster, tmp_path)
  assert members == ['host-0', 'host-1', 'host-3'], said
  assert 'host-2: links at' in said
