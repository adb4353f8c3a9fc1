# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of antjax.jobs.job: what a user of any job sees."""

import dataclasses
import json
import logging
import pathlib
import re
import signal
import sys
import time
import types

import jax
import pytest

from antjax.jobs import distributed, script
from antjax.jobs import job as job_lib
from antjax.jobs.bahe import config as bahe_config
from antjax.jobs.clicks import config as clicks_config
from antjax.jobs.gmeta import config as gmeta_config
from antjax.jobs.llm_rec import config as llm_rec_config
from antjax.jobs.lm import config as lm_config
from tests import warm_python
from tests.cases import first_fast
from tests.jobs.processes import job_of

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DEADLINE_S = 90.0
_JOB = """
import ctypes, dataclasses, logging, os, time
from typing import Annotated
import jax
from antjax.data import output_folder
from antjax.jobs import job as job_lib, run

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(job_lib.JobConfig):
  num_steps: Annotated[int, 'Optimizer steps.'] = 3
  do: Annotated[str, 'What to do.'] = 'report'

  def __post_init__(self):
    super().__post_init__()
    if self.num_steps < 1:
      raise ValueError(f'num_steps must be positive; got {self.num_steps}.')

  def check_inputs(self):
    if self.do == 'open':
      output_folder.open_view('gone', 'tasks')

def main(config):
  job = job_lib.start(config)
  job.save_config()
  if config.do in ('undeferred', 'full'):
    made = run.Run('net', config, job, {}, num_steps=7)
    if config.do == 'full':
      for step, size in ((2, 7_000_000), (4, 3_000_000)):
        os.makedirs(f'run/checkpoints/{step}')
        open(f'run/checkpoints/{step}/array', 'wb').write(bytes(size))
      with made._full_disk_told():
        os.write(os.open('/dev/full', os.O_WRONLY), b'x')
    print('ready', flush=True)
    time.sleep(600)
  if config.do == 'full_log':  # As threads of Orbax and TensorStore say it.
    class Closed:
      def __del__(self):
        raise RuntimeError('Event loop is closed')
    Closed()
    log = logging.getLogger().handlers[-1]
    log.setStream(open('/dev/full', 'w'))
    try:
      os.write(os.open('/dev/full', os.O_WRONLY), b'x')
    except OSError as error:
      logging.exception('A thread raised an exception.')
      raise
  with job.should_stop.deferred():
    work(config, job)

def work(config, job):
  if config.do == 'report':
    print('mesh', dict(job.mesh.shape), job.is_main, job.should_stop())
  if config.do == 'bug' or config.do == f'bug{jax.process_index()}':
    {}['bug']
  if config.do == 'wait' or config.do.startswith('bug'):
    print('ready', flush=True)
    while not job.should_stop():
      time.sleep(0.02)
    print('saved', flush=True)
  if config.do == 'stopped':
    raise KeyboardInterrupt('the checkpoint of step 7 is there')
  if config.do in ('hang', 'stuck'):
    print('ready', flush=True)
    lock, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    while config.do == 'stuck':  # For ever, in C, as a compilation may.
      libc.pthread_mutex_lock(lock)
    time.sleep(600)

if __name__ == '__main__':
  job_lib.run(main, Config(run_dir='run'))
"""

_NO_LEASE = """
from antjax.train import lease

def refuse(self, stamp):
  raise ValueError("FAILED: [os_error_code='{code}']")

lease.Lease._write = refuse
"""


@pytest.fixture
def job(tmp_path):
  (tmp_path / 'job.py').write_text(_JOB)
  return tmp_path


def _env() -> dict[str, str]:
  return warm_python.env_of(4)


def _run(folder, *arguments: str, launcher: tuple[str, ...] = ()):
  return warm_python.run(
    *launcher, 'job.py', *arguments, cwd=folder, env=_env(), timeout=_DEADLINE_S
  )


def _last(text: str) -> str:
  return text.splitlines()[-1]


def test_start_makes_mesh_run_folder_and_log(job):
  done = _run(job, '--intra=2', '--num_steps=7')
  assert done.returncode == 0, done.stderr
  assert done.stdout == "mesh {'inter': 2, 'intra': 2} True False\n"
  assert sorted(p.name for p in (job / 'run').iterdir()) == [
    'config.json',
    'log.0.txt',
  ]
  record = json.loads((job / 'run' / 'config.json').read_text())
  assert record['config'] == {
    'run_dir': 'run',
    'intra': 2,
    'num_steps': 7,
    'do': 'report',
  }
  line = '1 processes, 4 cpu devices: mesh inter=2 x intra=2'
  assert line in (job / 'run' / 'log.0.txt').read_text()
  assert line in done.stderr
  again = _run(job, '--config=run')
  assert again.stdout == done.stdout  # The saved run, repeated.


@pytest.mark.parametrize(
  'level, text, shown',
  [
    ('INFO', "Unable to initialize backend 'tpu': no libtpu.so", False),
    ('WARNING', "Unable to initialize backend 'tpu': in use", True),
    ('INFO', 'Remote TPU is not linked into jax', True),
  ],
)
def test_backends_that_are_not_here_are_no_news(level, text, shown):
  record = logging.makeLogRecord(
    {'levelno': logging.getLevelName(level), 'msg': text}
  )
  assert script.is_news(record) == shown


@pytest.mark.parametrize(
  'arguments, line',
  [
    (['--num_steps=0'], 'flags: num_steps must be positive; got 0.'),
    (['--intra=0'], 'flags: intra must be at least 1 or none; got 0.'),
    (['more'], 'flags: unknown arguments: more'),
    (
      ['--trackers=neptune'],
      'error: trackers=neptune: neptune unknown; use some of tensorboard,'
      ' wandb, mlflow.',
    ),
    (
      ['--profile_steps=5'],
      'error: profile_steps=5: needed: the first step and, after a colon, a'
      ' later one, e.g. 10:15 for the steps 10 to 14.',
    ),
    (
      ['--intra=3'],
      'error: make_mesh(intra=3): 4 devices do not form groups of 3; use one of'
      ' 1, 2, 4.',
    ),
    (
      ['--process_id=1'],
      'error: a job of several processes needs --coordinator_address,'
      ' --num_processes too; give --coordinator_address, --num_processes and'
      ' --process_id, or none.',
    ),
    (
      [
        '--coordinator_address=localhost:1',
        '--num_processes=2',
        '--process_id=2',
      ],
      'error: process_id must be in [0, num_processes); got 2 of 2.',
    ),
  ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(job, arguments, line):
  done = _run(job, *arguments)
  assert done.returncode == 1
  assert done.stderr == f'job: {line}\n'
  assert not (job / 'run').exists()


def test_a_typo_gets_a_hint(job):
  done = _run(job, '--num_step=3')
  assert done.returncode == 1
  assert 'Did you mean: num_steps' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  'flag', ['--num_step=3', '--num_steps=0', 'more', '--do=open']
)
def test_an_agent_hears_that_a_restart_mends_no_flags_or_inputs(
  job, flag, monkeypatch
):
  monkeypatch.setenv('ANTJAX_COORDINATOR', 'localhost:1')
  done = _run(job, flag)
  assert done.returncode == 64
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  'module, names',
  [
    (bahe_config, 'adapter links'),
    (clicks_config, 'image_vectors links text_vectors'),
    (gmeta_config, 'init_from links'),
    (llm_rec_config, 'adapter links'),
    (lm_config, 'init_from links'),
  ],
)
def test_inputs_are_checked_before_there_is_a_run_folder(
  module, names, tmp_path
):
  run_dir = str(tmp_path / 'run')
  for name in names.split():
    tuning = {'tuning': 'lora'} if name == 'adapter' else {}
    config = module.Config(run_dir=run_dir, **{name: 'gone'}, **tuning)
    with pytest.raises(FileNotFoundError, match=f'^{name}=gone does not exist'):
      config.check_inputs()


def test_a_begun_run_needs_no_first_weights(tmp_path):
  config = lm_config.Config(run_dir=str(tmp_path), init_from='gone', data='no')
  with pytest.raises(FileNotFoundError, match='data=no holds no'):
    config.check_inputs()


def test_verbosity_adds_the_traceback(job):
  done = _run(job, '--intra=3', '--verbosity=1')
  assert 'Traceback' in done.stderr
  assert '\njob: error: make_mesh(intra=3)' in done.stderr


def test_a_bug_keeps_its_traceback_also_in_the_log(job):
  done = _run(job, '--do=bug')
  assert done.returncode == 1
  assert 'in main\n' in done.stderr
  assert _last(done.stderr) == "job: error: 'bug'"
  assert 'Traceback' in (job / 'run' / 'log.0.txt').read_text()


def _start(folder, *arguments: str):
  process = warm_python.start('job.py', *arguments, cwd=folder, env=_env())
  line = ''
  while not line.endswith('\n'):  # A file may have only a part of it yet.
    line += process.stdout.readline()
    assert line or process.poll() is None, process.communicate()
    time.sleep(0.01)
  assert line == 'ready\n'
  return process


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_job_save(job, number):
  process = _start(job, '--do=wait')
  second = _run(job)  # On the same run folder.
  assert second.returncode == 1
  assert f'run is in use: process {process.pid} on ' in _last(second.stderr)
  process.send_signal(number)
  out, err = process.communicate(timeout=_DEADLINE_S)
  assert process.returncode == 128 + number
  assert out == 'saved\n'
  assert _last(err) == 'job: stopped as asked.'


def test_a_stopped_job_says_how_to_resume(job):
  done = _run(job, '--do=stopped')
  assert done.returncode == 130
  told = 'job: interrupted: the checkpoint of step 7 is there'
  assert _last(done.stderr) == told and 'Traceback' not in done.stderr


def test_a_signal_outside_of_a_loop_ends_at_once(job):
  process = _start(job, '--do=undeferred')
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=_DEADLINE_S)
  assert process.returncode == 128 + signal.SIGINT
  assert re.fullmatch(
    'job: interrupted: there is no checkpoint in .*run/checkpoints yet; the'
    ' same command starts net from its first step: .*job.py --do=undeferred',
    _last(err),
  )


def test_a_full_disk_is_one_line_that_says_how_to_resume(job):
  done = _run(job, '--do=full')
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert re.fullmatch(
    'job: error: run: the disk is full. [0-9,.]* MB are free on the disk'
    ' of run, and a checkpoint of this model takes about 3.0: if that is'
    ' too little, make room or keep fewer checkpoints; the checkpoint of step 4'
    ' of 7 is .*run/checkpoints/4; the same command resumes from it: .*',
    _last(done.stderr),
  )


@pytest.mark.parametrize(
  'code, told',
  [
    (28, 'the disk is full.* make room or keep fewer checkpoints'),
    (30, 'cannot write.* Make it writable, or use another run folder'),
  ],
)
def test_a_run_that_cannot_begin_names_its_checkpoint(job, code, told):
  for step in (4, 6):
    (job / 'run' / 'net' / 'checkpoints' / str(step)).mkdir(parents=True)
  (job / 'job.py').write_text(_NO_LEASE.format(code=code) + _JOB)
  done = _run(job)
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert re.search(
    f'job: error: .*{told}; the checkpoint of step 6 is'
    f' {job}/run/net/checkpoints/6; the same command resumes from it: ',
    _last(done.stderr),
  )
  assert _last(done.stderr).lower().count('make room') == (code == 28)


def test_messages_about_a_full_disk_are_not_shown(job):
  done = _run(job, '--do=full_log')
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr and 'Logging error' not in done.stderr


@pytest.mark.parametrize('do', first_fast('hang', 'stuck'))
def test_a_second_signal_ends_at_once(job, do):
  process = _start(job, f'--do={do}')
  process.send_signal(signal.SIGINT)
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=_DEADLINE_S)
  assert process.returncode == 130
  assert _last(err) == 'job: interrupted.' and 'Traceback' not in err


_LAUNCHER = ('-m', 'launch.local_cluster', '--devices_per_host=2', '--')


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_make_one_mesh_and_one_config(job):
  done = _run(job, launcher=_LAUNCHER)
  assert done.returncode == 0, done.stderr
  lines = [line for line in done.stdout.splitlines() if 'mesh {' in line]
  assert sorted(lines) == [
    "[0] mesh {'inter': 2, 'intra': 2} True False",
    "[1] mesh {'inter': 2, 'intra': 2} False False",
  ]
  assert '[1] 2 processes' not in done.stdout  # Told once, by process 0.
  assert sorted(p.name for p in (job / 'run').iterdir()) == [
    'config.json',
    'log.0.txt',
    'log.1.txt',
  ]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_bug_in_one_process_ends_the_job_soon(job):
  start = time.monotonic()
  done = _run(job, '--do=bug1', launcher=_LAUNCHER)
  assert done.returncode == 1
  assert "[1] job: error: 'bug'" in done.stdout
  assert 'host 1 exited with code 1; stopping hosts [0].' in done.stderr
  assert time.monotonic() - start < 45  # JAX's barrier alone would take 300 s.


def test_num_processes_in_the_environment_must_be_a_number(monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'localhost:1')
  monkeypatch.setenv('JAX_NUM_PROCESSES', 'two')
  monkeypatch.setenv('JAX_PROCESS_ID', '0')
  with pytest.raises(ValueError, match="JAX_NUM_PROCESSES must be .* 'two'"):
    distributed.initialize()


def test_an_installed_command_is_told_without_its_python(monkeypatch):
  argv = ['bin/antjax-train-lm', '--data=a']
  monkeypatch.setattr(sys, 'argv', argv)
  monkeypatch.setattr(sys, 'orig_argv', ['python', *argv])
  assert distributed.with_command('run') == f'run: {argv[0]} --data=a'


def test_job_config_needs_a_folder():
  with pytest.raises(ValueError, match='run_dir must name a folder'):
    job_lib.JobConfig(run_dir='')


def test_a_run_of_a_few_steps_says_so(caplog):
  config = clicks_config.Config(run_dir='run', batch_size=2048)
  with caplog.at_level(logging.WARNING):
    assert config.steps_for(4_500) == 2
    assert '4500 examples in batches of 2048: 2 optimizer steps' in caplog.text
    caplog.clear()
    assert config.steps_for(2048 * 100) == 100
    assert dataclasses.replace(config, num_steps=3).steps_for(4_500) == 3
    assert not caplog.text


def test_rows_of_a_micro_batch_are_those_of_the_first_hosts(
  tmp_path, monkeypatch
):
  config = job_lib.JobConfig(run_dir=str(tmp_path))
  mesh = types.SimpleNamespace(local_devices=[0, 1])
  stop = script.StopRequest()
  job = job_lib.Job(mesh, tmp_path, stop, config, agent=object())
  monkeypatch.setattr(
    job_lib.multihost_utils, 'sync_global_devices', lambda name: None
  )

  def hosts(number):
    monkeypatch.setattr(jax, 'process_count', lambda: number)
    monkeypatch.setattr(jax, 'device_count', lambda: 2 * number)

  hosts(3)
  with pytest.raises(ValueError, match='batch_size=16 must be a multiple of 6'):
    job.batch_shape(16, 1)
  assert job.batch_shape(18, 1).rows == 6
  hosts(2)  # One has gone: 18 is no multiple of 4, and need not be.
  assert job.batch_shape(18, 1).rows == 6


class Numbers:
  """A source of ten records."""

  def __len__(self):
    return 10

  def read(self, start, stop):
    return [*range(start, stop)]


def test_a_jobs_data_do_not_end_with_an_epoch(tmp_path):
  job = job_of(job_lib.JobConfig(run_dir=str(tmp_path)))
  found = iter(job.dataset(Numbers(), shard_size=5))
  epochs = [[next(found) for _ in range(10)] for _ in range(3)]
  assert [sorted(epoch) for epoch in epochs] == [[*range(10)]] * 3
