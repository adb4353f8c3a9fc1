# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A job whose texts and run folder are in a bucket, killed and resumed."""

import signal

from etils import epath
import pytest

from antjax.train import checkpoint
from tests import bucket, warm_python
from tests.data import movielens_fixture
from tests.jobs.gmeta_delivery_test import TRAIN
from tests.jobs.processes import logged, Program

FLAGS = (
  *('--model.num_layers=2', '--model.embed_dim=16', '--model.mlp_dim=32'),
  *('--seq_len=32', '--batch_size=8', '--shard_size=2', '--evaluate_every=8'),
  *('--checkpoint_every=6', '--num_steps=24', '--sample_tokens=8'),
  *('--min_shard_size=64', '--peak_tflops=0.01', '--intra=2'),
)

pytestmark = [
  pytest.mark.multiprocess,
  pytest.mark.slow,
]


@pytest.fixture(scope='module', params=bucket.SCHEMES)
def url(request):
  with bucket.used(request.param) as url:
    yield url


def start(folder, *command):
  env = warm_python.env_of(4) | {'TMPDIR': str(folder)}
  return Program(*command, cwd=folder, env=env)


def run(folder, *command):
  program = start(folder, *command)
  assert program.end() == 0, program.output
  return program.output


@pytest.mark.parametrize('hosts', [1, 2])
def test_a_killed_job_resumes_from_its_bucket(url, tmp_path, hosts):
  cluster = ('--hosts=2', '--devices_per_host=2', '--', '-m')
  launcher = ('launch.local_cluster', *cluster) if hosts > 1 else ()
  url = f'{url}/of-{hosts}'
  source = tmp_path / 'source.txt'
  source.write_text('\n\n'.join(f'{i} and {i + 1}' * 9 for i in range(300)))
  run(
    tmp_path,
    *('-m', 'launch.prepare_text', f'--source={source}'),
    *(f'--out={url}/texts', '--documents=paragraph', '--vocab_size=300'),
  )
  flags = ('launch.train_lm', *FLAGS, f'--data={url}/texts')
  command = ['-m', *launcher, *flags]
  run(tmp_path, *command, f'--run_dir={url}/whole')
  killed = start(tmp_path, *command, f'--run_dir={url}/run')
  killed.wait_for(
    lambda: (checkpoint.latest_step(f'{url}/run/checkpoints') or 0) >= 6
  )
  assert killed.end(signal.SIGKILL) == -signal.SIGKILL
  output = run(tmp_path, *command, f'--run_dir={url}/run')
  assert 'Restored step' in output
  expected = logged(f'{url}/whole')
  assert [step for step, _ in expected] == list(range(24))
  assert logged(f'{url}/run') == expected
  assert checkpoint.latest_step(f'{url}/run/checkpoints') == 24
  names = {path.name for path in epath.Path(f'{url}/run').iterdir()}
  assert {'config.json', 'log.0.txt', 'report.html', 'results.json'} <= names
  assert {'samples.txt', 'tensorboard', 'tokenizer.json'} <= names
  # Another run starts from its weights.
  tuned = f'--run_dir={tmp_path}/tuned'
  run(tmp_path, *command, tuned, f'--init_from={url}/run', '--num_steps=2')
  ((_, first), _) = logged(tmp_path / 'tuned')
  assert first < min(loss for _, loss in expected[:12])
  assert not (tmp_path / url.partition('/')[0]).exists()


def test_a_model_is_delivered_through_a_bucket(url, tmp_path):
  source = movielens_fixture.Fixture(num_users=60).write_original(tmp_path)
  run(
    tmp_path,
    *('-m', 'launch.prepare_data', f'--source={source}', f'--out={url}/data'),
    *('--allow_other_counts', '--split.query_size=4', '--split.min_ratings=7'),
  )
  trained = f'--run_dir={url}/gmeta'
  run(
    tmp_path,
    *('-m', 'launch.train_gmeta', *TRAIN, f'--data={url}/data', trained),
    '--validation_tasks=4',
  )
  export = ['-m', 'launch.export_gmeta', trained]
  run(tmp_path, *export, '--step=2', f'--out={url}/old')
  run(tmp_path, *export, f'--out={url}/new')
  changes = (f'--base={url}/old', f'--deltas={url}/deltas')
  run(tmp_path, *export, *changes)
  made = f'--out={url}/made'
  run(tmp_path, '-m', 'launch.apply_delta', *changes, made)
  for name in ('new', 'made'):
    run(
      tmp_path,
      *('-m', 'launch.score_gmeta', f'--model={url}/{name}'),
      f'--input={url}/data/tasks/warm.arrow',
      f'--out={url}/{name}.parquet',
    )
  new, made = (
    (epath.Path(url) / f'{name}.parquet').read_bytes()
    for name in ('new', 'made')
  )
  assert new == made
  assert not (tmp_path / url.partition('/')[0]).exists()
