# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of hosts before workers join: who is named, and who is kept out."""

import contextlib
import json
import math
import os
import socket
import statistics
import sys
import time

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import (
  host_check,
  host_sockets,
  metrics_export,
  node_check,
  process_group,
  status,
)
from antjax.elastic.decisions import ActionLog
from antjax.elastic.monitor import Monitor
from antjax.jobs import node_check as program
from tests.elastic.rendezvous_test import Host, World

_Check = pb.NodeCheck
_WELL = {
  'platform': 'gpu',
  'device_kind': 'H100',
  'num_devices': 8,
  'matmul_flops': 4e14,
  'memory_bytes': 2e10,
  'disk_bytes': 1e9,
}


def _checks(**hosts):
  return {
    name: _Check(**{'state': _Check.DONE, **_WELL, **fields})
    for name, fields in hosts.items()
  }


def _named(fraction=0.5, **hosts):
  found = node_check.findings(_checks(**hosts), fraction)
  return {name: one.text for name, one in found.items()}


@pytest.mark.parametrize(
  'fields, text',
  [
    ({'matmul_flops': 1e14}, 'products of matrices at 1e+05 GFLOP/s'),
    ({'memory_bytes': 5e9}, 'memory at 5 GB/s, the others 20'),
    ({'disk_bytes': 1e8}, 'writes to its disk at 100 MB/s, the others 1e+03'),
    ({'is_wrong': True, 'error': '3 entries'}, 'computes wrong: 3 entries'),
    ({'state': _Check.FAILED, 'error': 'it hung'}, 'failed: it hung'),
    ({'num_devices': 7}, 'it has 7 devices, the others 8'),
    ({'platform': 'cpu'}, 'its devices are cpu, the others gpu'),
  ],
)
def test_a_bad_host_is_named_with_what_is_bad(fields, text):
  found = _named(a={}, b=fields, c={}, d={})
  assert list(found) == ['b'] and text in found['b']


def test_hosts_that_are_equally_slow_are_well():
  slow = {'matmul_flops': 1e9, 'memory_bytes': 1e6, 'disk_bytes': 1e3}
  assert not _named(a=slow, b=slow, c=slow)
  failed = {'state': _Check.FAILED, 'error': 'no devices'}
  assert not _named(a=failed, b=failed)


def test_of_two_hosts_the_slow_one_is_named():
  assert list(_named(a={}, b={'matmul_flops': 1e14})) == ['b']
  assert not _named(a={}, b={'matmul_flops': 2.1e14})


def test_other_device_kinds_may_be_there_on_purpose():
  old = {'device_kind': 'V100', 'matmul_flops': 1e13}
  assert not _named(a={}, b={}, c={}, d=old, e=old)
  assert list(_named(a=old, b=old, c={**old, 'matmul_flops': 1e12})) == ['c']


def test_the_worst_comes_first():
  found = _named(
    a={}, b={'disk_bytes': 3e8}, c={'disk_bytes': 1e8}, d={'is_wrong': True},
    e={}, f={}, g={},
  )  # fmt: skip
  assert list(found) == ['d', 'c', 'b']


def _linked(rates):
  """Hosts on a ring that measure the next two; rates of ends, not of pairs."""
  names = list(rates)
  checks = _checks(**dict.fromkeys(names, {}))
  for i, name in enumerate(names):
    for step in range(1, min(node_check.NUM_PEERS + 1, len(names))):
      peer = names[(i + step) % len(names)]
      checks[name].links.add(peer=peer, bytes=min(rates[name], rates[peer]))
  return list(node_check.findings(checks, 0.5))


def test_the_bad_host_of_bad_pairs_is_found():
  assert _linked({'a': 9e9, 'b': 1e9, 'c': 9e9}) == ['b']
  assert _linked({'a': 9e9, 'b': 0.0, 'c': 9e9, 'd': 9e9}) == ['b']
  # Which of two it is nobody can say.
  assert _linked({'a': 9e9, 'b': 1e9}) == []


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(st.floats(1, 1e3), min_size=1, max_size=12))
def test_others_medians_leave_the_host_itself_out(values):
  named = dict(enumerate(values))
  found = {name: middle for name, _, middle in node_check._slow(named, 2.0)}
  for name, middle in found.items():
    others = [v for n, v in named.items() if n != name]
    assert middle == pytest.approx(statistics.median(others))


# --- Under a coordinator. -----------------------------------------------------


class _Host(Host):
  """A host whose check finds what a test says; None: its agent cannot check."""

  def __init__(self, name, found):
    super().__init__(name, '10.0.0.1')
    self.found, self.check = found, None if found is None else _Check()

  def obey(self, reply):
    super().obey(reply)
    self.reply = reply
    if reply.is_to_check:
      fields = {'state': _Check.DONE, **_WELL, **self.found}
      self.check = _Check(link_port=1, link_key=7, **fields)
    if reply.HasField('link'):
      assert (reply.link.port, reply.link.key) == (1, 7)
      self.check.links.add(peer=reply.link.peer, bytes=1e9)


def _world(mode, found, **config):
  world = World(node_check=mode, grow_after_s=0, join_wait_s=0, **config)
  world.hosts = {name: _Host(name, one) for name, one in found.items()}
  return world


def _snapshot(world):
  parts = world.jobs, Monitor(), world.rendezvous, ActionLog()
  return status.Snapshots(*parts).take(world.now, world.now, more_names=['job'])


_SLOW = {'matmul_flops': 1e13}


def test_a_bad_host_is_kept_out_while_there_are_enough(caplog):
  fields = {'a': {}, 'b': _SLOW, 'c': {}, 'd': {}}
  world = _world('exclude', fields, min_hosts=3, max_hosts=4)
  world.tick(6)
  assert world.job.members == ['a', 'c', 'd']
  assert 'Job job: b is kept out' in caplog.text
  assert 'products of matrices' in world.hosts['b'].reply.reason
  (job,) = _snapshot(world)['jobs']
  by_name = {agent['name']: agent for agent in job['agents']}
  assert by_name['b']['state'] == 'kept out'
  assert 'products' in by_name['b']['check']['finding']
  assert by_name['a']['check']['link_bytes'] == 1e9
  metrics = metrics_export.render(_snapshot(world)).decode()
  assert 'antjax_job_bad_hosts{job_name="job"} 1.0' in metrics
  assert 'antjax_agent_matmul_flops{agent="b",job_name="job"} 1e+13' in metrics


def test_a_bad_host_is_admitted_where_it_is_needed(caplog):
  fields = {'a': {}, 'b': _SLOW, 'c': {'is_wrong': True}}
  world = _world('exclude', fields, min_hosts=2)
  world.tick(6)
  assert world.job.members == ['a', 'b']  # The one that computes wrong is not.
  assert 'b takes part all the same: the job needs 2 hosts' in caplog.text


def test_by_default_it_is_only_named(caplog):
  world = _world('warn', {'a': {}, 'b': _SLOW, 'c': {}}, min_hosts=3)
  world.tick(6)
  assert world.job.members == ['a', 'b', 'c']
  assert 'Job job: b: products of matrices' in caplog.text


def test_every_host_measures_two_links_before_the_start():
  names = 'abcde'
  world = _world('warn', dict.fromkeys(names, {}), min_hosts=5)
  world.tick()
  assert all(world.hosts[name].reply.is_to_check for name in names)
  world.tick(5)
  assert world.job.phase == 'running'
  peers = {n: [x.peer for x in h.check.links] for n, h in world.hosts.items()}
  assert peers['a'] == ['b', 'c'] and peers['e'] == ['a', 'b']


def test_agents_that_cannot_check_take_part():
  world = _world('exclude', {'a': None, 'b': None}, min_hosts=2)
  world.tick()
  assert world.job.members == ['a', 'b']
  assert not world.hosts['a'].reply.is_to_check


def test_a_check_that_never_ends_is_not_waited_for():
  world = _world('warn', {'a': {}, 'b': {'state': _Check.RUNNING}}, min_hosts=2)
  world.tick(10)
  assert world.job.phase == 'waiting'
  world.tick(200)
  assert world.job.members == ['a', 'b']


@pytest.mark.parametrize('mode, most', [('off', 0), ('warn', 1)])
def test_nobody_checks_where_it_is_off_or_there_is_one_host(mode, most):
  world = _world(mode, {'a': {}}, max_hosts=most)
  world.tick()
  assert not world.hosts['a'].reply.is_to_check
  assert world.job.members == ['a']


# --- On a host. ---------------------------------------------------------------


@pytest.fixture
def checked(monkeypatch):
  """Runs a program in place of the check, and returns what the agent has."""
  guard = process_group.Guard()
  monkeypatch.setattr(host_sockets, 'NUM_BYTES', 1 << 20)
  made = []

  def run(code, timeout_s=20.0):
    said = []
    one = host_check.HostCheck(
      [sys.executable, '-I', '-S', '-c', code],
      os.environ,
      guard,
      '127.0.0.1',
      say=said.append,
      timeout_s=timeout_s,
    )
    made.append(one)
    assert one.message().state == _Check.NONE
    one.obey(pb.AgentBeatReply(is_to_check=True))
    end = time.monotonic() + 30
    while one.message().state in (_Check.NONE, _Check.RUNNING):
      assert time.monotonic() < end
      time.sleep(0.01)
    return one, said

  yield run
  for one in made:
    one.close()
  guard.close()


def _printing(**fields):
  found = json.dumps({**_WELL, 'error': '', **fields})
  return f"print('checked: ' + {found!r})"


def test_two_hosts_measure_their_link(checked):
  (a, said), (b, _) = (checked(_printing()) for _ in range(2))
  assert a.message().state == _Check.DONE and 'checked 8 H100' in said[0]
  to = b.message()
  link = pb.LinkTask(
    peer='b', address='127.0.0.1', port=to.link_port, key=to.link_key
  )
  a.obey(pb.AgentBeatReply(link=link))
  end = time.monotonic() + 30
  while not a.message().links:
    assert time.monotonic() < end
    time.sleep(0.01)
  (found,) = a.message().links
  assert found.peer == 'b' and found.bytes > 1e6
  a.forget()
  assert a.message().state == _Check.NONE
  # A stranger gets nothing.
  assert host_sockets.measure('127.0.0.1', to.link_port, to.link_key ^ 1) == 0.0
  with socket.create_connection(('127.0.0.1', to.link_port)) as stranger:
    stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
    with contextlib.suppress(ConnectionResetError):
      assert stranger.recv(1) == b''


def test_a_host_that_computes_wrong_says_so(checked):
  one, said = checked(_printing(error='3 wrong entries in products on gpu:1'))
  assert one.message().is_wrong and 'gpu:1' in said[0]


def test_a_check_that_hangs_ends_with_where_it_hung(checked):
  one, said = checked(
    "import time; print('check: products on gpu:3', flush=True);"
    ' time.sleep(600)',
    timeout_s=0.3,
  )
  assert one.message().state == _Check.FAILED
  assert 'it hung, or was killed, in products on gpu:3' in said[0]


@pytest.mark.parametrize(
  'code, error',
  [
    ('import sys; sys.exit(3)', 'it exited with code 3 in its start'),
    ("print('checked: [1]')", 'its result cannot be read'),
    (_printing(matmul_flops=math.nan), 'its result cannot be read'),
    ('', 'its result cannot be read'),
  ],
)
def test_a_check_that_fails_says_how(checked, code, error):
  one, _ = checked(code)
  assert one.message().state == _Check.FAILED
  assert error in one.message().error


def test_devices_are_measured_and_wrong_products_counted(monkeypatch):
  monkeypatch.setattr(program, '_ROWS_ON_CPU', 64)
  monkeypatch.setattr(program, '_MAX_DEVICES_S', 0.01)
  found = program.check_devices()
  assert found['matmul_flops'] > 1e6 and found['error'] == ''
  found = program.check_devices(lambda *data: np.int32(data[-1] == 2))
  assert '1 wrong entries in products on' in found['error']


def test_the_disk_and_memory_are_measured(tmp_path, monkeypatch):
  monkeypatch.setattr(program, '_DISK_BYTES', 1 << 16)
  monkeypatch.setattr(program, '_MEMORY_BYTES', 1 << 16)
  assert program.disk_bytes(str(tmp_path / 'new')) > 0
  assert program.memory_bytes() > 0
  assert program.disk_bytes('') == 0
  assert not list((tmp_path / 'new').iterdir())
