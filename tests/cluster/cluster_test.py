# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The virtual cluster: its links, its quotas, its tidiness, a job on it."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import cluster as cluster_lib
from benchmarks import virtual_network
from benchmarks.cluster import Cluster

_ROOT = pathlib.Path(__file__).parents[2]
_WORKER = str(pathlib.Path(__file__).with_name('cluster_worker.py'))
_WAIT_S = 20
_MISSING = cluster_lib.missing()

needs_hosts = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))


def left_over(name):
  """Everything on this machine that bears the name."""
  return [
    part
    for part in (
      *virtual_network._namespaces(),
      *(p.name for p in pathlib.Path('/etc/netns').glob('*')),
      *(p.name for p in pathlib.Path('/sys/fs/cgroup/cpu').glob('antjax*')),
      *(p.name for p in pathlib.Path('/sys/fs/cgroup').glob('antjax*')),
    )
    if part.startswith(name)
  ]


def wait_until(condition):
  end = time.monotonic() + _WAIT_S
  while not condition():
    assert time.monotonic() < end, 'time is up'
    time.sleep(0.05)


def worker(*args):
  return [sys.executable, _WORKER, *map(str, args)]


def results(outputs):
  return [json.loads(re.findall(r'\{.*\}', text)[-1]) for text in outputs]


@needs_hosts
def test_uplinks_are_limited_in_both_directions():
  num_bytes, mbps = 2_000_000, 80
  with Cluster(3, 1, uplink_mbps=mbps) as hosts:
    got = results(hosts.run(worker('transfer', num_bytes), timeout_s=_WAIT_S))
  least_s = num_bytes * 8 / mbps / 1e6
  burst_s = 2 * 128 * 1024 * 8 / mbps / 1e6
  # Host 0 sends to 1 and 2 at once: its egress is the limit.
  assert got[0]['out_s'] >= 2 * least_s - burst_s
  # Then both send to host 0: what comes in is the limit.
  assert got[0]['in_s'] >= 2 * least_s - burst_s
  # The counters of the interface agree with what was sent.
  assert 2 * num_bytes <= got[0]['eth0_sent'] <= 2.3 * num_bytes


@needs_hosts
def test_host_names_mean_the_hosts_addresses():
  with Cluster(2, 1) as hosts:
    got = results(hosts.run(worker('name'), timeout_s=_WAIT_S))
  assert [g['address'] for g in got] == ['10.77.0.1', '10.77.0.2']
  assert [g['process'] for g in got] == ['0', '1']


@pytest.mark.slow
@needs_hosts
def test_cpu_share_slows_one_host():
  with Cluster(2, 1, cpu_share=[0.1, None]) as hosts:
    got = results(hosts.run(worker('spin', 0.5), timeout_s=_WAIT_S))
    # 0.1 of a core, and a period or two more.
    assert got[0]['cpu_s'] <= 0.15
    hosts.set_cpu_share(0, 0.5)
    process = hosts.start(0, worker('spin', 0.5))
    assert json.loads(process.join())['cpu_s'] > 0.15


@needs_hosts
def test_very_small_shares_of_a_cpu():
  """The kernel takes no quota below a millisecond."""
  with Cluster(1, 1, cpu_share=0.04) as hosts:
    for share in (0.01, 1, 0.02, None):
      hosts.set_cpu_share(0, share)


@needs_hosts
def test_nothing_is_left_after_an_exception_and_a_failed_host():
  with pytest.raises(RuntimeError, match='(?s)host 1 ended with code 3.*Oh no'):
    with Cluster(2, 1, uplink_mbps=100, cpu_share=1) as hosts:
      name = hosts.name
      assert left_over(name)
      env = {'CLUSTER_UNDER_TEST': name}
      hosts.run(worker('fail', 1), env, timeout_s=_WAIT_S)
  assert left_over(name) == []
  assert processes_with(name) == []


@needs_hosts
def test_a_daemon_of_a_job_ends_with_the_cluster():
  began = time.monotonic()
  with Cluster(1, 1) as hosts:
    name = hosts.name
    shell = ['sh', '-c', 'setsid sleep 600 & echo done']
    [said] = hosts.run(shell, {'CLUSTER_UNDER_TEST': name}, timeout_s=_WAIT_S)
  assert said == 'done\n'
  assert left_over(name) == [] and processes_with(name) == []
  assert time.monotonic() - began < 30


def processes_with(name):
  """Processes that carry the name of a cluster in their environment."""
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
    try:
      if f'CLUSTER_UNDER_TEST={name}'.encode() in path.read_bytes():
        found.append(path.parent.name)
    except OSError:
      pass
  return found


@pytest.mark.slow
@needs_hosts
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_after_the_owner_was_ended(how):
  env = os.environ | {'CLUSTER_UNDER_TEST': f'{how}'}
  # A shell starts what runs in the background with this signal ignored.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  owner = subprocess.Popen(
    [
      *(sys.executable, '-m', 'benchmarks.cluster', '--hosts=2'),
      *('--cpu_share=1', '--', *worker('sleep')),
    ],
    cwd=_ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  signal.signal(signal.SIGINT, before)
  name = f'antjax{owner.pid}x'
  assert 'sleeping' in owner.stdout.readline()
  assert left_over(name)
  owner.send_signal(how)
  owner.communicate(timeout=_WAIT_S)
  assert (
    owner.returncode
    == {
      signal.SIGKILL: -9,
      signal.SIGTERM: 143,
      signal.SIGINT: 130,
    }[how]
  )
  # After kill -9 the guard does it, soon.
  wait_until(lambda: not left_over(name) and not processes_with(how))


@needs_hosts
def test_a_start_sweeps_what_a_dead_owner_left():
  code = (
    'import os\n'
    'from benchmarks import virtual_network\n'
    'name = virtual_network.new_name()\n'
    'virtual_network.create(name, 1, None)\n'
    'virtual_network.cpu_cgroup(name, 0)\n'
    'print(name, flush=True)\n'
    'os.kill(os.getpid(), 9)\n'
  )
  dead = subprocess.run(
    [sys.executable, '-c', code], cwd=_ROOT, capture_output=True, text=True
  )
  name = dead.stdout.strip()
  assert left_over(name)
  with Cluster(1, 1) as mine, Cluster(1, 1) as other:
    assert left_over(name) == []
    # What belongs to the living stays.
    assert left_over(mine.name) and left_over(other.name)


@needs_hosts
def test_a_process_that_took_over_a_dead_owners_number_is_no_owner():
  name = f'antjax{os.getpid()}x77'
  virtual_network.create(name, 1, None)
  assert virtual_network.sweep() == []
  hosts = pathlib.Path('/etc/netns', f'{name}h0', 'hosts')
  text = hosts.read_text()
  hosts.write_text(re.sub(r'started at \d+', 'started at 1', text))
  assert virtual_network.sweep() == [name]
  assert left_over(name) == []


def test_without_the_tools_one_line_says_what_is_missing(monkeypatch):
  monkeypatch.setattr(virtual_network.shutil, 'which', lambda name: None)
  monkeypatch.setattr(virtual_network.os, 'geteuid', lambda: 0)
  with pytest.raises(RuntimeError, match='need the program `ip`'):
    with Cluster(1, 1):
      pass
  monkeypatch.setattr(virtual_network.os, 'geteuid', lambda: 1000)
  assert 'need root' in cluster_lib.missing()


@pytest.mark.parametrize(
  ('kwargs', 'what'),
  [
    ({'num_hosts': 0}, 'num_hosts=0'),
    ({'devices_per_host': 0}, 'devices_per_host=0'),
    ({'uplink_mbps': 0}, 'uplink_mbps=0'),
    ({'uplink_mbps': float('nan')}, 'uplink_mbps=nan'),
    ({'uplink_mbps': 1e9}, r'uplink_mbps=1000000000.0\) must be from'),
    ({'cpu_share': float('nan')}, r'cpu_share=\[nan, nan\]\) must be'),
    ({'cpu_share': [1.0]}, r'cpu_share=\[1.0\]'),
  ],
)
def test_numbers_out_of_range_are_named(kwargs, what):
  with pytest.raises(ValueError, match=what):
    Cluster(**{'num_hosts': 2, 'devices_per_host': 1} | kwargs)


@needs_hosts
@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_jax_job_sums_over_hosts():
  with Cluster(2, 2, uplink_mbps=200) as hosts:
    got = results(hosts.run(worker('psum'), timeout_s=120))
  assert [g['sum'] for g in got] == [6.0, 6.0]
  # 4 MB must cross each uplink at 25 MB/s.
  assert all(g['seconds'] > 0.14 for g in got)
  assert all(g['eth0_sent'] >= 4_000_000 for g in got)
