# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Leased data and `antjax.elastic.watch` in MaxText's own training loop.

The position of the data is in MaxText's own Orbax checkpoints, which it writes
of the iterators of Grain. `benchmarks/maxtext_lint.py` says what it needs.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from antjax.elastic.step_watch import watch
from antjax.shards.dataset import LeasedDataset
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec

ROOT = pathlib.Path(__file__).parents[2]
MODULE = 'tests.shards.maxtext_test'  # Also under another root of pytest.
NUM, BATCH, LENGTH, KILLED_AT = 96, 4, 16, 14
FLAGS = (
  'run_name=leased hardware=cpu dataset_type=grain enable_checkpointing=true'
  ' async_checkpointing=false checkpoint_period=5 enable_tensorboard=false'
  f' skip_jax_distributed_system=true max_target_length={LENGTH} log_period=1'
  f' per_device_batch_size={BATCH} steps={NUM // BATCH} base_emb_dim=32'
  ' base_num_query_heads=2 base_num_kv_heads=2 head_dim=16 base_mlp_dim=64'
  ' base_num_decoder_layers=1 vocab_size=128 enable_goodput_recording=false'
  ' grain_train_files=unread'
)

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('maxtext') is None,
    reason='MaxText is not installed; see benchmarks/maxtext_lint.py',
  ),
]


class Texts:
  """Record i is a text of the token i."""

  def __len__(self):
    return NUM

  def read(self, start, stop):
    ones = np.ones(LENGTH, np.int32)
    places = np.arange(LENGTH, dtype=np.int32)
    return [
      {
        f'{name}{suffix}': value
        for name in ('inputs', 'targets')
        for suffix, value in (
          *(('', i * ones), ('_position', places), ('_segmentation', ones)),
        )
      }
      for i in range(start, stop)
    ]


def train(folder, is_killed):
  """MaxText's `train_loop`; writes a line of records for each step."""
  os.environ.update(JAX_PLATFORMS='cpu')
  pyconfig, pipeline, loading, utils, trainer = (
    importlib.import_module(f'maxtext.{name}')
    for name in (
      *('configs.pyconfig', 'input_pipeline.input_pipeline_interface'),
      *('input_pipeline.multihost_dataloading', 'utils.train_utils'),
      'trainers.pre_train.train',
    )
  )
  recorder = importlib.import_module('maxtext.common.goodput')
  make_step = utils.jit_train_and_eval_step
  steps = []

  def data(config, mesh):
    spec = LedgerSpec(NUM, 7, seed=3, num_epochs=1)
    client = LocalLedgerClient(spec, worker=0, num_workers=1)
    batches = LeasedDataset(Texts(), client).batch(BATCH)
    return loading.MultiHostDataLoadIterator(batches, mesh), None

  class Step:
    """Notes what is trained on, and dies on request."""

    def __init__(self, step):
      self.step = step

    def __call__(self, state, batch, *rest):
      results = self.step(state, batch, *rest)
      number = int(results[0].optimizer.step[...]) - 1
      if is_killed and number == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)
      with open(f'{folder}/steps.jsonl', 'a') as file:
        line = number, np.asarray(batch['inputs'])[:, 0].tolist()
        file.write(json.dumps(line) + '\n')
      return results

    def __getattr__(self, name):
      return getattr(self.step, name)

  def watched_step(*args, **kwargs):
    step, evaluate = make_step(*args, **kwargs)
    steps.append(watch(Step(step), num_samples=BATCH, prometheus_port=0))
    return steps[-1], evaluate

  pipeline.create_data_iterator = data
  utils.jit_train_and_eval_step = watched_step
  base = pathlib.Path(str(pyconfig.__file__)).parent / 'base.yml'
  config = pyconfig.initialize(
    ['', str(base), f'base_output_directory={folder}', *FLAGS.split()]
  )
  trainer.train_loop(config, recorder.create_goodput_recorder(config))
  steps[0].close()
  url = f'http://127.0.0.1:{steps[0].prometheus_port}/metrics'
  with urllib.request.urlopen(url) as page:
    found = re.search(r'step_seconds_count (\S+)', page.read().decode())
  print('WATCHED', found[1])


def run(folder, is_killed):
  return subprocess.run(
    [sys.executable, '-m', MODULE, str(folder), str(int(is_killed))],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    timeout=600,
  )


def lines(folder):
  text = (folder / 'steps.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_a_killed_loop_resumes_in_mid_epoch_with_each_record_once(tmp_path):
  done = run(tmp_path, True)
  assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
  before = lines(tmp_path)
  assert [step for step, _ in before] == list(range(KILLED_AT))
  done = run(tmp_path, False)
  assert done.returncode == 0, done.stderr[-3000:]
  after = lines(tmp_path)[KILLED_AT:]
  watched = float(done.stdout.rpartition('WATCHED ')[2])
  assert watched == len(after) - 1  # The first one compiles.
  assert 0 < after[0][0] < KILLED_AT  # From a checkpoint.
  assert [step for step, _ in after] == list(range(after[0][0], NUM // BATCH))
  used = [key for step, keys in before if step < after[0][0] for key in keys]
  used += [key for _, keys in after for key in keys]
  assert sorted(used) == list(range(NUM))


if __name__ == '__main__':
  train(sys.argv[1], sys.argv[2] == '1')
