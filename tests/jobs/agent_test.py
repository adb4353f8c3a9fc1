# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of launch.agent: one host of a job, under a real coordinator."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import host_sockets
from antjax.jobs import agent, worker_env
from tests.elastic import certificates
from tests.elastic.preemption_test import Ec2, metadata
from tests.jobs.processes import is_alive

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DEADLINE_S = 60.0
_PRELUDE = (
  'import os, signal, subprocess, sys, time\n'
  "generation = int(os.environ['ANTJAX_GENERATION'])\n"
  'here = os.path.dirname(os.path.abspath(__file__))\n'
  'def note(name):\n'
  "  path = os.path.join(here, f'{name}.{generation}')\n"
  "  with open(path + '.tmp', 'w') as file: file.write(str(os.getpid()))\n"
  "  os.rename(path + '.tmp', path)\n"
)


@pytest.fixture
def start(tmp_path):
  """Starts a module of launch/; ends it after the test."""
  running = []

  def run(module: str, *arguments: str) -> subprocess.Popen:
    process = subprocess.Popen(
      [sys.executable, '-m', f'launch.{module}', *arguments],
      cwd=_ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    running.append(process)
    return process

  yield run
  for process in running:
    process.kill()
    process.communicate()


@pytest.fixture
def script(tmp_path):
  def write(body: str) -> str:
    path = tmp_path / 'job.py'
    path.write_text(_PRELUDE + body)
    return str(path)

  return write


def _read_pid(path: pathlib.Path) -> int:
  end = time.monotonic() + _DEADLINE_S
  while not path.exists():
    assert time.monotonic() < end, f'waited in vain for {path.name}'
    time.sleep(0.02)
  return int(path.read_text())


def _environment(pid: int) -> dict[str, str]:
  text = pathlib.Path(f'/proc/{pid}/environ').read_text()
  return dict(item.split('=', 1) for item in text.split('\0') if item)


def _end(process: subprocess.Popen) -> tuple[int, str, str]:
  out, err = process.communicate(timeout=_DEADLINE_S)
  return process.returncode, out, err


def test_the_worker_gets_what_jax_and_antjax_need():
  env = agent.worker_environment(
    agent.Config(coordinator='10.0.0.9:7070', job='ctr', token_file='/t'),
    'host-7',
    pb.Assignment(
      generation=3, rank=1, num_hosts=2, jax_coordinator='10.0.0.1:999'
    ),
    '/cache',
    {'HOME': '/home', 'PYTHONPATH': '/own'},
    '/t',
  )
  assert env['HOME'] == '/home'
  assert env['PYTHONPATH'].split(os.pathsep) == [str(_ROOT), '/own']
  names = 'COORDINATOR JOB WORKER GENERATION TOKEN_FILE TLS_DIR'.split()
  assert [env[f'ANTJAX_{name}'] for name in names] == [
    *('10.0.0.9:7070', 'ctr', 'host-7', '3', '/t', '')
  ]
  names = 'COORDINATOR_ADDRESS COORDINATOR_BIND_ADDRESS NUM_PROCESSES'.split()
  assert [env[f'JAX_{name}'] for name in [*names, 'PROCESS_ID']] == [
    *('10.0.0.1:999', '10.0.0.1:999', '2', '1')
  ]
  assert env['JAX_COMPILATION_CACHE_DIR'] == '/cache'
  assert 'JAX_NUM_CPU_DEVICES' not in env and 'JAX_PLATFORMS' not in env


@pytest.mark.parametrize(
  'name', ['antjax-train-clicks', 'launch/train_clicks.py']
)
def test_a_program_that_pip_installed_is_found(tmp_path, monkeypatch, name):
  (tmp_path / 'antjax-train-clicks').write_text('')
  monkeypatch.setattr(sys, 'executable', str(tmp_path / 'python'))
  (tmp_path / 'empty').mkdir()
  monkeypatch.chdir(tmp_path / 'empty')
  assert worker_env.found_command([name, '--data=x']) == [
    str(tmp_path / 'antjax-train-clicks'),
    '--data=x',
  ]


def test_own_address_is_that_towards_the_coordinator():
  assert agent.own_address('127.0.0.1:7070') == '127.0.0.1'
  for wrong in ('somewhere', 'here:99999', 'here:0', 'here:x'):
    with pytest.raises(ValueError, match='must be host:port'):
      agent.own_address(wrong)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--'], 'nothing to run; give a script'),
    (['--', 'no/such.py'], 'no such script: no/such.py'),
    (['--coordinator=x', '--', '-c', ''], 'must be host:port'),
    (
      ['--address=192.0.2.1', '--', '-c', ''],
      'address=192.0.2.1 is none of this host',
    ),
    (['--token_file=/no/such', '--', '-c', ''], '/no/such'),
    (['--tls_dir=/no/such', '--', '-c', ''], '/no/such/ca.pem'),
  ],
)
def test_a_wrong_flag_is_one_line(start, arguments, message):
  code, _, err = _end(start('agent', '--coordinator=127.0.0.1:1', *arguments))
  assert code == 2
  assert message in err and err.count('\n') == 1, err


class _OneHost:
  """A coordinator of jobs of one host, and what starts that host's agent."""

  def __init__(self, start, folder: pathlib.Path, *flags: str):
    self._start, self._port = start, host_sockets.free_port('127.0.0.1')
    self._flags = (
      *(f'--port={self._port}', f'--journal={folder / "journal"}'),
      *('--min_hosts=1', '--max_hosts=1', *flags),
    )
    self.coordinate()

  def coordinate(self):
    self.coordinator = self._start('coordinator', *self._flags)

  def agent(self, path: str, *flags: str) -> subprocess.Popen:
    address = f'--coordinator=127.0.0.1:{self._port}'
    return self._start('agent', address, '--name=a', *flags, '--', path)


@pytest.mark.slow
def test_kill_9_of_the_agent_ends_its_worker_and_a_new_one_goes_on(
  start, script, tmp_path
):
  host = _OneHost(start, tmp_path)
  path = script(
    'if generation > 1: sys.exit(0)\n'
    "child = subprocess.Popen(['sleep', '600'])\n"
    "open(os.path.join(here, 'child'), 'w').write(str(child.pid))\n"
    "note('up')\n"
    'child.wait()\n'
  )
  first = host.agent(path)
  pid = _read_pid(tmp_path / 'up.1')
  child = int((tmp_path / 'child').read_text())
  cache = _environment(pid)['JAX_COMPILATION_CACHE_DIR']
  first.kill()
  code, _, err = _end(host.agent(path))
  assert code == 0, err
  assert 'generation 2' in err
  assert not os.path.exists(cache)
  assert not is_alive(pid) and not is_alive(child)


@pytest.mark.slow
def test_a_killed_coordinator_is_waited_for(start, script, tmp_path):
  host = _OneHost(start, tmp_path)
  path = script(
    "note('up')\n"
    "while not os.path.exists(os.path.join(here, 'go')): time.sleep(0.02)\n"
    "print('done', generation)\n"
  )
  running = host.agent(path)
  _read_pid(tmp_path / 'up.1')
  host.coordinator.kill()
  host.coordinator.wait()
  (tmp_path / 'go').touch()  # It even ends while nobody is there.
  time.sleep(0.5)
  host.coordinate()
  code, out, err = _end(running)
  assert code == 0, err
  assert out == '[0] done 1\n'


@pytest.mark.slow
def test_a_hung_worker_is_found_by_its_lack_of_progress(
  start, script, tmp_path
):
  host = _OneHost(start, tmp_path, '--progress_timeout_s=1')
  path = script(
    "note('up')\nif generation == 1: os.kill(os.getpid(), signal.SIGSTOP)\n"
  )
  code, _, err = _end(host.agent(path))
  assert code == 0, err
  assert 'generation 2' in err
  assert not is_alive(_read_pid(tmp_path / 'up.1'))


@pytest.mark.slow
def test_a_hung_worker_shows_where_it_hangs(start, script, tmp_path):
  host = _OneHost(start, tmp_path, '--progress_timeout_s=1')
  path = script(
    'import time\n'
    'def hangs_here():\n  time.sleep(300)\n'
    'if generation == 1: hangs_here()\n'
  )
  code, out, err = _end(host.agent(path))
  assert code == 0, err
  assert 'its threads are at' in err and 'hangs_here' in out + err


def _secrets(folder: pathlib.Path) -> None:
  """Tokens and a certificate."""
  roles = {'worker': 'w' * 20, 'agent': 'a' * 20, 'operator': 'o' * 20}
  lines = [f'{role} {token}\n' for role, token in roles.items()]
  for name, chosen in (('tokens', lines), ('host-tokens', lines[:2])):
    (folder / name).write_text(''.join(chosen))
    (folder / name).chmod(0o600)
  certificates.make(folder, 'tls')


@pytest.mark.slow
def test_with_tokens_and_tls(start, script, tmp_path):
  _secrets(tmp_path)
  tls = f'--tls_dir={tmp_path / "tls"}'
  host = _OneHost(start, tmp_path, f'--token_file={tmp_path / "tokens"}', tls)
  # The worker gets its own token, not the agent's.
  path = script("print(open(os.environ['ANTJAX_TOKEN_FILE']).read())\n")
  wrong = tmp_path / 'wrong'
  wrong.write_text('agent ' + 'x' * 20 + '\n')
  wrong.chmod(0o600)
  code, _, err = _end(host.agent(path, tls, f'--token_file={wrong}'))
  assert code == 2 and 'has no line for the role worker' in err, err
  right = tmp_path / 'host-tokens'
  code, out, err = _end(host.agent(path, tls, f'--token_file={right}'))
  assert code == 0, err
  assert 'worker' in out and 'agent' not in out


_SAVES_AT_SIGTERM = """
def save(number, frame):
  print('saved', flush=True)
  sys.exit(143)
signal.signal(signal.SIGTERM, save)
note('up')
while True: time.sleep(0.02)
"""


@pytest.mark.slow
def test_sigterm_saves_and_leaves(start, script, tmp_path):
  host = _OneHost(start, tmp_path)
  running = host.agent(script(_SAVES_AT_SIGTERM))
  _read_pid(tmp_path / 'up.1')
  running.send_signal(signal.SIGTERM)
  code, out, err = _end(running)
  assert code == 143
  assert out == '[0] saved\n'
  assert re.search(r'passing signal 15 \(SIGTERM\) on', err)


@pytest.mark.slow
def test_a_notice_of_preemption_saves_and_leaves(start, script, tmp_path):
  host, cloud = _OneHost(start, tmp_path), Ec2()
  path = script(_SAVES_AT_SIGTERM)
  with metadata(cloud) as address:
    flags = ('--preemption=ec2', f'--metadata_address={address}')
    running = host.agent(path, *flags)
    _read_pid(tmp_path / 'up.1')
    cloud.action = '{"action": "stop", "time": "2026-12-02T03:00:00Z"}'
    code, out, err = _end(running)
  assert (code, out) == (76, '[0] saved\n')
  assert 'this host is preempted: EC2: stop at 2026-12-02T03:00:00Z.' in err


@pytest.mark.slow
def test_hosts_are_checked_before_their_workers_start(start, script, tmp_path):
  port, status = (
    host_sockets.free_port('127.0.0.1'),
    host_sockets.free_port('127.0.0.1'),
  )
  start(
    'coordinator',
    *(f'--port={port}', f'--status_port={status}', '--min_hosts=2'),
    *(f'--journal={tmp_path}/journal', '--node_check=exclude'),
    '--node_check_fraction=0',
  )
  path = script("note('up.' + os.environ['ANTJAX_WORKER'])\ntime.sleep(3)\n")
  agents = [
    start(
      'agent',
      *(f'--coordinator=127.0.0.1:{port}', f'--name={name}'),
      *('--platform=cpu', f'--check_folder={tmp_path}', '--', path),
    )
    for name in 'ab'
  ]
  _read_pid(tmp_path / 'up.a.1')
  url = f'http://127.0.0.1:{status}/status.json'
  with urllib.request.urlopen(url, timeout=30) as reply:
    (job,) = json.load(reply)['jobs']
  for agent_json in job['agents']:
    check = agent_json['check']
    assert (check['state'], check['finding']) == ('done', '')
    assert check['matmul_flops'] > 1e8 and check['disk_bytes'] > 1e5
    assert check['memory_bytes'] > 1e7 and check['link_bytes'] > 1e6
  for one in agents:
    code, _, err = _end(one)
    assert code == 0 and 'checked 1 cpu' in err, err
