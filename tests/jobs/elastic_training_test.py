# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A real training job under `local_cluster --elastic` loses its workers."""

import os
import pathlib
import random
import re
import signal

import pytest

from tests.jobs import processes
from tests.jobs.processes import ElasticJob, logged_steps

_FLAGS = (
  *('--model.num_layers=1', '--model.embed_dim=16', '--model.mlp_dim=32'),
  *('--seq_len=32', '--batch_size=8', '--shard_size=2', '--evaluate_every=0'),
  *('--checkpoint_every=4', '--sample_tokens=4', '--min_shard_size=64'),
  *('--peak_tflops=0.01', '--num_steps=20'),
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
  processes.run(
    *('-m', 'launch.prepare_text', '--vocab_size=300'),
    *(f'--source={folder / "source"}', f'--out={folder / "data"}'),
    *('--documents=paragraph', '--validation_share=0.1'),
  )
  return folder / 'data'


def _start(data: pathlib.Path, run_dir: pathlib.Path, *launcher: str):
  flags = (*_FLAGS, f'--data={data}', f'--run_dir={run_dir}')
  job = ElasticJob('train_lm', *flags, launcher=launcher)
  job.wait_for(lambda: len(logged_steps(run_dir)) >= 7)
  return job


@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_worker_costs_a_restart_from_the_last_checkpoint(
  data, tmp_path, victim
):
  run_dir = tmp_path / 'run'
  job = _start(data, run_dir)
  checkpoints = run_dir / 'checkpoints'
  os.kill(job.workers()[victim], signal.SIGKILL)
  output = job.ended()
  assert 'generation 2: rank 0 of 2' in output
  assert 'generation 3' not in output
  assert 'Restored step' in output
  assert logged_steps(run_dir) == list(range(20))
  saved = [int(p.name) for p in checkpoints.iterdir() if p.name.isdecimal()]
  assert max(saved) == 20


def test_a_stopped_worker_is_missed_and_replaced(data, tmp_path):
  """SIGSTOP: alive, so that only its silence tells."""
  run_dir = tmp_path / 'run'
  job = _start(data, run_dir, '--lease_timeout_s=5')
  os.kill(job.workers()[1], signal.SIGSTOP)
  output = job.ended()
  assert 'silent or makes no progress' in output
  assert logged_steps(run_dir) == list(range(20))


@pytest.mark.parametrize('flag', ['data', 'pretrained'])
def test_an_input_that_is_not_there_ends_the_job(data, tmp_path, flag):
  run_dir = tmp_path / 'run'
  flags = (*_FLAGS, f'--data={data}', f'--run_dir={run_dir}', f'--{flag}=gone')
  job = ElasticJob('train_lm', *flags)
  output = job.ended(code=1)
  assert re.search(
    'train_lm: error: (data=gone holds no|no model at gone)', output
  )
  assert 'which a restart does not mend' in output
  assert 'generation 2' not in output and not run_dir.exists()
