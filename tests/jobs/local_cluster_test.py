# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of launch.local_cluster: real processes, most of them without JAX."""

import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.jobs.processes import is_alive

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DEADLINE_S = 60.0


@pytest.fixture
def script(tmp_path):
  """Returns a function that writes a script and gives its path."""

  def write(body: str) -> str:
    path = tmp_path / 'job.py'
    path.write_text(
      'import os, signal, subprocess, sys, time\n'
      "host = int(os.environ['JAX_PROCESS_ID'])\n"
      'here = os.path.dirname(os.path.abspath(__file__))\n'
      'def note(name):\n'
      "  with open(os.path.join(here, name), 'w') as file:\n"
      '    file.write(str(os.getpid()))\n' + body
    )
    return str(path)

  return write


def _command(*arguments: str, hosts: int = 2, grace_s: float = 30) -> list[str]:
  return [
    sys.executable,
    '-m',
    'launch.local_cluster',
    f'--hosts={hosts}',
    f'--grace_s={grace_s}',
    *arguments,
  ]


def _run(*arguments: str, hosts: int = 2, **env: str):
  return subprocess.run(
    _command(*arguments, hosts=hosts),
    cwd=_ROOT,
    env={**os.environ, **env},
    capture_output=True,
    text=True,
    timeout=_DEADLINE_S,
  )


def _start(*arguments: str, **options) -> subprocess.Popen:
  return subprocess.Popen(
    _command(*arguments, **options),
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _wait_for(condition, what: str) -> None:
  end = time.monotonic() + _DEADLINE_S
  while not condition():
    assert time.monotonic() < end, f'waited in vain for {what}'
    time.sleep(0.02)


def _read_pids(folder: pathlib.Path, *names: str) -> list[int]:
  def written() -> bool:
    return all(
      (folder / n).exists() and (folder / n).read_text() for n in names
    )

  _wait_for(written, names)
  return [int((folder / name).read_text()) for name in names]


_MODES = [(), pytest.param(('--elastic',), marks=pytest.mark.slow)]


def _worker_of(pid: int) -> int:
  """The agent that has started a worker."""
  stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  return int(stat.rsplit(')', 1)[1].split()[1])


def test_each_host_gets_its_settings_and_its_prefix(script):
  path = script(
    "names = 'NUM_PROCESSES NUM_CPU_DEVICES PLATFORMS COORDINATOR_ADDRESS'\n"
    "print([os.environ['JAX_' + n] for n in names.split()], sys.argv[1:])\n"
    "print(os.environ['XLA_FLAGS'], os.environ['GLIBC_TUNABLES'])\n"
    'import launch.local_cluster\n'
  )
  done = _run(
    '--devices_per_host=3',
    '--',
    path,
    '--hosts=7',
    'x',
    XLA_FLAGS='--a=1 --xla_force_host_platform_device_count=8',
    PYTHONPATH='',
  )
  assert done.returncode == 0, done.stderr
  lines = sorted(done.stdout.splitlines())
  settings = re.findall(
    r"^\[(\d)\] \['2', '3', 'cpu', '127\.0\.0\.1:(\d+)'\] \['--hosts=7', 'x'\]",
    done.stdout,
    re.M,
  )
  assert sorted(host for host, _ in settings) == ['0', '1']
  assert settings[0][1] == settings[1][1]  # One coordinator for all.
  assert len(lines) == 4
  assert 'force_host' not in done.stdout and done.stdout.count('--a=1') == 2
  assert done.stdout.count('glibc.malloc.hugetlb=1') == 2


def test_runs_a_module(tmp_path):
  done = _run('--', '-m', 'timeit', '-n1', '-r1', 'print("hi")', hosts=1)
  assert done.returncode == 0
  assert done.stdout.startswith('[0] hi\n')


def test_lines_stay_whole_and_carriage_returns_end_lines(script):
  path = script(
    "text = 'x' * 5000\n"
    'for i in range(50):\n'
    "  print(f'{i} {text}', flush=True)\n"
    "sys.stderr.write('bar 1\\rbar 2\\rbar 3\\n')\n"
    "sys.stdout.write('no end')\n"
  )
  done = _run('--', path)
  lines = done.stdout.splitlines()
  assert all(re.fullmatch(r'\[[01]\] .*', line) for line in lines)
  for host in '01':
    own = [line[4:] for line in lines if line.startswith(f'[{host}]')]
    assert own[:50] == [f'{i} {"x" * 5000}' for i in range(50)]
    assert own[50:] == ['bar 1', 'bar 2', 'bar 3', 'no end']


@pytest.mark.parametrize(
  'death, code, reason',
  [
    ('sys.exit(3)', 3, 'host 1 exited with code 3'),
    (
      'os.kill(os.getpid(), signal.SIGKILL)',
      137,
      r'host 1 died of signal 9 \(SIGKILL\)',
    ),
    ('raise ValueError', 1, 'host 1 exited with code 1'),
  ],
)
def test_one_death_stops_all(script, tmp_path, death, code, reason):
  path = script(
    "note(f'pid{host}')\n"
    'if host == 1:\n'
    "  while not os.path.exists(os.path.join(here, 'pid0')): time.sleep(0.01)\n"
    f'  {death}\n'
    'time.sleep(600)\n'
  )
  done = _run('--', path)
  assert done.returncode == code
  assert re.search(rf'{reason}; stopping hosts \[0\]\.', done.stderr)
  assert not is_alive(int((tmp_path / 'pid0').read_text()))


@pytest.mark.slow
def test_a_host_deaf_to_sigterm_is_killed_with_its_children(script, tmp_path):
  path = script(
    'if host == 1:\n'
    "  while not os.path.exists(os.path.join(here, 'up')): time.sleep(0.01)\n"
    '  sys.exit(4)\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    "child = subprocess.Popen(['sleep', '600'])\n"
    "open(os.path.join(here, 'child'), 'w').write(str(child.pid))\n"
    "note('up')\n"
    'child.wait()\n'
  )
  done = _run('--', path)
  assert done.returncode == 4
  assert 'killing hosts [0]' in done.stderr
  assert not any(map(is_alive, _read_pids(tmp_path, 'up', 'child')))


_SAVES_ON_SIGNAL = (
  'def save(number, frame):\n'
  "  note(f'saved{host}')\n"
  "  print('saved', flush=True)\n"
  '  sys.exit(0)\n'
  'signal.signal(signal.{name}, save)\n'
  "note(f'pid{{host}}')\n"
  'while True: time.sleep(0.05)\n'
)


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_a_signal_is_passed_on_and_the_job_may_save(script, tmp_path, name):
  path = script(
    _SAVES_ON_SIGNAL.replace('{name}', name)
    .replace('{{', '{')
    .replace('}}', '}')
  )
  launcher = _start('--', path)
  _read_pids(tmp_path, 'pid0', 'pid1')
  launcher.send_signal(getattr(signal, name))
  out, err = launcher.communicate(timeout=_DEADLINE_S)
  assert launcher.returncode == 128 + getattr(signal, name)
  assert sorted(out.splitlines()) == ['[0] saved', '[1] saved']
  assert f'({name}) on' in err and 'killing' not in err


@pytest.mark.parametrize('mode', _MODES)
def test_second_interrupt_kills(script, tmp_path, mode):
  path = script(
    'def hear(number, frame):\n'
    "  note(f'heard{host}')\n"
    'signal.signal(signal.SIGINT, hear)\n'
    "note(f'pid{host}')\n"
    'while True: time.sleep(0.05)\n'
  )
  launcher = _start(*mode, '--', path)
  pids = _read_pids(tmp_path, 'pid0', 'pid1')
  launcher.send_signal(signal.SIGINT)
  _read_pids(tmp_path, 'heard0', 'heard1')
  assert launcher.poll() is None  # Waits for them, however long it takes.
  launcher.send_signal(signal.SIGINT)
  launcher.communicate(timeout=_DEADLINE_S)
  assert launcher.returncode == 137
  assert not any(map(is_alive, pids))


@pytest.mark.parametrize('mode', _MODES)
def test_sigterm_has_a_time_limit(script, tmp_path, mode):
  path = script(
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    "note(f'pid{host}')\n"
    'while True: time.sleep(0.05)\n'
  )
  launcher = _start(*mode, '--', path, grace_s=0.3)
  pids = _read_pids(tmp_path, 'pid0', 'pid1')
  launcher.send_signal(signal.SIGTERM)
  _, err = launcher.communicate(timeout=_DEADLINE_S)
  assert launcher.returncode == 137
  assert mode or 'killing hosts [0, 1]' in err
  assert not any(map(is_alive, pids))


@pytest.mark.parametrize('mode', _MODES)
def test_kill_9_of_the_launcher_leaves_no_orphans(script, tmp_path, mode):
  path = script(
    "child = subprocess.Popen(['sleep', '600'])\n"
    "open(os.path.join(here, f'child{host}'), 'w').write(str(child.pid))\n"
    "note(f'pid{host}')\n"
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    'child.wait()\n'
  )
  launcher = _start(*mode, '--', path)
  pids = _read_pids(tmp_path, 'pid0', 'pid1', 'child0', 'child1')
  if mode:  # Agents started them.
    pids += [_worker_of(pid) for pid in pids[:2]]
  assert all(map(is_alive, pids))
  launcher.kill()
  launcher.communicate(timeout=_DEADLINE_S)
  _wait_for(lambda: not any(map(is_alive, pids)), 'the end of the orphans')


def test_children_left_behind_end_with_their_host(script, tmp_path):
  path = script(
    "child = subprocess.Popen(['sleep', '600'])\n"
    "open(os.path.join(here, 'child'), 'w').write(str(child.pid))\n"
  )
  assert _run('--', path, hosts=1).returncode == 0
  _wait_for(
    lambda: not any(map(is_alive, _read_pids(tmp_path, 'child'))), 'the child'
  )


def test_on_a_terminal_host_0_draws_on_it_and_noise_is_dropped(script):
  path = script(
    'print(host, sys.stdout.isatty(), sys.stderr.isatty(), flush=True)\n'
    'print("[Gloo] Rank 1 is connected to 3 peer ranks. Expected")\n'
  )
  ours, theirs = pty.openpty()
  launcher = subprocess.Popen(
    _command('--', path), cwd=_ROOT, stdout=theirs, stderr=theirs
  )
  os.close(theirs)
  seen = b''
  while select.select([ours], [], [], _DEADLINE_S)[0]:
    try:
      seen += os.read(ours, 4096)
    except OSError:  # All writers have left.
      break
  os.close(ours)
  assert launcher.wait(_DEADLINE_S) == 0
  assert b'0 False True\r\n' in seen and b'[0]' not in seen
  assert b'\r\x1b[K[1] 1 False False\r\n' in seen
  assert b'Gloo' not in seen


def test_a_reader_that_leaves_ends_the_job(script, tmp_path):
  path = script(
    "note(f'pid{host}')\n"
    'while True:\n'
    "  print('x', flush=True)\n"
    '  time.sleep(0.02)\n'
  )
  launcher = _start('--', path)
  pids = _read_pids(tmp_path, 'pid0', 'pid1')
  launcher.stdout.close()
  launcher.wait(_DEADLINE_S)
  launcher.stderr.close()
  assert not any(map(is_alive, pids))


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], 'nothing to run; give a script'),
    (['--', 'no/such.py'], 'no such script: no/such.py'),
    (
      ['--policy=static', '--journal=j.db', '--', '-c', ''],
      '--policy, --journal: without --elastic nothing heeds this',
    ),
  ],
)
def test_bad_command_is_one_line(arguments, message):
  done = _run(*arguments)
  assert done.returncode == 2
  assert message in done.stderr and done.stderr.count('\n') == 1


def test_bad_number_of_hosts():
  done = _run('--', 'x', hosts=0)
  assert done.returncode == 1
  assert 'hosts' in done.stderr and 'Traceback' not in done.stderr


# --- Elastic: a coordinator, and an agent a host. -----------------------------

_GENERATION = "generation = int(os.environ['ANTJAX_GENERATION'])\n"


def _run_elastic(*arguments: str):
  return _run('--elastic', *arguments)


@pytest.mark.slow
def test_elastic_a_dead_worker_starts_all_again(script, tmp_path):
  path = script(
    _GENERATION + "print('generation', generation, os.environ['ANTJAX_WORKER'],"
    " os.environ['JAX_NUM_PROCESSES'])\n"
    'if generation == 1:\n'
    "  note(f'pid{host}')\n"
    '  if host == 1: os.kill(os.getpid(), signal.SIGKILL)\n'
    '  time.sleep(600)\n'
  )
  done = _run_elastic('--', path)
  assert done.returncode == 0, done.stderr
  lines = [
    line for line in done.stdout.splitlines() if 'coordinator' not in line
  ]
  assert sorted(lines) == [
    '[0] generation 1 host-0 2',
    '[0] generation 2 host-0 2',
    '[1] generation 1 host-1 2',
    '[1] generation 2 host-1 2',
  ]
  assert re.search(
    r'^\[coordinator\] status: http://127\.0\.0\.1:\d+/', done.stdout, re.M
  )
  assert 'the worker died of signal 9 (SIGKILL)' in done.stderr
  assert not any(map(is_alive, _read_pids(tmp_path, 'pid0', 'pid1')))


@pytest.mark.slow
def test_elastic_the_budget_ends_the_job(script):
  path = script("print('no such table')\nsys.exit(5)\n")
  done = _run_elastic('--max_restarts=1', '--', path)
  assert done.returncode == 1
  assert 'restart budget of 1 is used up' in done.stderr
  assert re.search(r'host-\d: its worker exited with code 5', done.stderr)
  assert 'Its last lines:\nno such table' in done.stderr


@pytest.mark.slow
def test_elastic_dead_agents_and_coordinators_start_again(script, tmp_path):
  path = script(
    _GENERATION + "note(f'pid{host}.{generation}')\n"
    "while not os.path.exists(os.path.join(here, 'go')): time.sleep(0.02)\n"
  )
  launcher = _start('--elastic', '--', path)
  pids = _read_pids(tmp_path, 'pid0.1', 'pid1.1')
  os.kill(_worker_of(pids[0]), signal.SIGKILL)
  again = _read_pids(tmp_path, 'pid0.2', 'pid1.2')
  assert not any(map(is_alive, pids))
  children = pathlib.Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children')
  (coordinator,) = [
    int(pid)
    for pid in children.read_text().split()
    if b'\0coordinator\0' in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
  ]
  os.kill(coordinator, signal.SIGKILL)
  (tmp_path / 'go').touch()
  _, err = launcher.communicate(timeout=_DEADLINE_S)
  assert launcher.returncode == 0, err
  assert 'agent 0 died of signal 9 (SIGKILL); starting it again' in err
  assert 'the coordinator died of signal 9 (SIGKILL); starting it again' in err
  assert not any(map(is_alive, again))
  assert not (tmp_path / 'pid0.3').exists()


@pytest.mark.slow
def test_elastic_ctrl_c_saves_and_the_journal_goes_on(script, tmp_path):
  path = script(
    _GENERATION + 'def save(number, frame):\n'
    "  print('saved', flush=True)\n"
    '  sys.exit(130)\n'
    'signal.signal(signal.SIGINT, save)\n'
    "print('generation', generation)\n"
    'if generation == 1:\n'
    "  note(f'pid{host}')\n"
    '  time.sleep(600)\n'
  )
  journal = f'--journal={tmp_path / "journal"}'
  launcher = _start('--elastic', journal, '--', path)
  _read_pids(tmp_path, 'pid0', 'pid1')
  launcher.send_signal(signal.SIGINT)
  out, err = launcher.communicate(timeout=_DEADLINE_S)
  assert launcher.returncode == 130, err
  assert '[0] saved' in out and '[1] saved' in out
  done = _run_elastic(journal, '--', path)
  assert done.returncode == 0, done.stderr
  assert '[0] generation 2' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('code', [0, 3])
def test_elastic_an_ended_job_goes_on_as_a_new_start(script, tmp_path, code):
  path = script(
    _GENERATION + "print('generation', generation)\n"
    f'sys.exit({code} if generation < 2 else 0)\n'
  )
  flags = [f'--journal={tmp_path / "journal"}', '--max_restarts=0', '--', path]
  assert _run_elastic(*flags).returncode == bool(code)
  again = _run_elastic(*flags)
  assert again.returncode == 0, again.stderr
  assert '[0] generation 2' in again.stdout


@pytest.mark.slow
def test_elastic_a_wrong_policy_ends_it_all(script):
  done = _run_elastic('--policy=nonsense', '--', script(''))
  assert done.returncode == 1
  assert 'nonsense' in done.stderr
  assert 'the coordinator exited with code 1' in done.stderr


@pytest.mark.multiprocess
def test_psum_over_two_hosts_of_four_devices(script):
  path = script(
    'import jax\n'
    'import jax.numpy as jnp\n'
    'from jax.sharding import PartitionSpec as P\n'
    'from antjax.jobs import distributed\n'
    'distributed.initialize()\n'
    'assert jax.process_count() == 2 and jax.local_device_count() == 4\n'
    "mesh = jax.make_mesh((8,), ('d',))\n"
    "f = jax.shard_map(lambda x: jax.lax.psum(x, 'd'), mesh=mesh,\n"
    "                  in_specs=P('d'), out_specs=P())\n"
    'x = jax.make_array_from_callback((8,), jax.NamedSharding(mesh,\n'
    "    P('d')), lambda i: jnp.arange(8.0)[i])\n"
    "print('sum', float(jax.jit(f)(x)[0]), jax.process_index())\n"
  )
  done = _run('--devices_per_host=4', '--', path)
  assert done.returncode == 0, done.stdout + done.stderr
  assert '[0] sum 28.0 0' in done.stdout
  assert '[1] sum 28.0 1' in done.stdout
