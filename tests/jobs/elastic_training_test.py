# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A real training job under `local_cluster --elastic` loses its workers."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_DEADLINE_S = 400.0
_FLAGS = (
  '--model.num_layers=1',
  '--model.embed_dim=16',
  '--model.mlp_dim=32',
  '--seq_len=32',
  '--batch_size=8',
  '--shard_size=2',
  '--evaluate_every=0',
  '--checkpoint_every=4',
  '--sample_tokens=4',
  '--min_shard_size=64',
  '--peak_tflops=0.01',
  '--num_steps=20',
)

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('texts')
  words = 'zero one two three four five six seven eight nine'.split()
  rng = random.Random(0)
  (folder / 'source').mkdir()
  (folder / 'source' / 'a.txt').write_text(
    '\n\n'.join(' '.join(rng.choices(words, k=12)) for _ in range(200))
  )
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'launch.prepare_text', '--vocab_size=300'),
      *(f'--source={folder / "source"}', f'--out={folder / "data"}'),
      *('--documents=paragraph', '--validation_share=0.1'),
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return folder / 'data'


def _start(data: pathlib.Path, run_dir: pathlib.Path, *flags: str):
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'launch.local_cluster', '--elastic', '--hosts=2'),
      *('--devices_per_host=2', *flags, '--', 'launch/train_lm.py', *_FLAGS),
      *(f'--data={data}', f'--run_dir={run_dir}'),
    ],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _steps(run_dir: pathlib.Path) -> list[int]:
  path = run_dir / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  lines = [json.loads(line) for line in lines if line.endswith('}')]
  return [line['step'] for line in lines if 'loss' in line]


def _children(pid: int) -> list[int]:
  path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
  return [int(child) for child in path.read_text().split()]


def _workers(launcher: int) -> list[int]:
  """Processes that train, by rank."""
  found = [
    worker
    for agent in _children(launcher)
    for worker in _children(agent)
    if b'train_lm' in pathlib.Path(f'/proc/{worker}/cmdline').read_bytes()
  ]
  assert len(found) == 2
  return found


def _wait_for(condition, job: subprocess.Popen) -> None:
  end = time.monotonic() + _DEADLINE_S
  while not condition():
    if job.poll() is not None or time.monotonic() > end:
      job.kill()
      raise AssertionError(job.communicate()[0])
    time.sleep(0.05)


@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_worker_costs_a_restart_from_the_last_checkpoint(
  data, tmp_path, victim
):
  run_dir = tmp_path / 'run'
  job = _start(data, run_dir)
  checkpoints = run_dir / 'checkpoints'
  _wait_for(lambda: len(_steps(run_dir)) >= 7, job)
  os.kill(_workers(job.pid)[victim], signal.SIGKILL)
  output, _ = job.communicate(timeout=_DEADLINE_S)
  assert job.returncode == 0, output
  assert 'generation 2: rank 0 of 2' in output
  assert 'generation 3' not in output
  assert 'Restored step' in output
  assert _steps(run_dir) == list(range(20))
  saved = [int(p.name) for p in checkpoints.iterdir() if p.name.isdecimal()]
  assert max(saved) == 20


def test_a_stopped_worker_is_missed_and_replaced(data, tmp_path):
  """SIGSTOP: alive, so that only its silence tells."""
  run_dir = tmp_path / 'run'
  job = _start(data, run_dir, '--lease_timeout_s=5')
  _wait_for(lambda: len(_steps(run_dir)) >= 7, job)
  os.kill(_workers(job.pid)[1], signal.SIGSTOP)
  output, _ = job.communicate(timeout=_DEADLINE_S)
  assert job.returncode == 0, output
  assert 'silent or makes no progress' in output
  assert _steps(run_dir) == list(range(20))


if __name__ == '__main__':
  raise SystemExit(pytest.main([__file__]))
