# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Leased data and `antjax.elastic.watch` in Keras's own `model.fit`.

The position of the data is in the weights file of `BackupAndRestore`.
"""

import collections
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.request

import grain
import numpy as np
import pytest

from antjax.elastic.step_watch import watch
from antjax.shards.dataset import LeasedDataset
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec

ROOT = pathlib.Path(__file__).parents[2]
NUM, BATCH, KILLED_AFTER, SAVE_EVERY = 203, 8, 13, 5

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('keras') is None,
    reason='keras of requirements-dev.txt is missing',
  ),
]


class Numbers:
  """The records 0 to NUM - 1."""

  def __len__(self):
    return NUM

  def read(self, start, stop):
    return [(np.int32(i), np.float32(0)) for i in range(start, stop)]


class Followed(grain.IterDataset):
  """A data set that begins again at the newest element that was trained on.

  Keras makes several iterators and reads ahead of the training.
  """

  def __init__(self, dataset):
    super().__init__()
    self.dataset, self.position = dataset, None
    self.ahead = collections.deque()  # Positions of what is not trained on yet.

  def trained(self):
    """Notes that the next element was trained on."""
    self.position = self.ahead.popleft()

  def __iter__(self):
    return _Following(self)


class _Following(grain.DatasetIterator):
  def __init__(self, followed):
    super().__init__()
    self._followed, self._elements = followed, None

  def __next__(self):
    if self._elements is None:
      self._elements = iter(self._followed.dataset)
      self._followed.ahead.clear()
      if self._followed.position is not None:
        self._elements.set_state(self._followed.position)
    element = next(self._elements)
    self._followed.ahead.append(self._elements.get_state())
    return element

  def get_state(self):
    return {}

  def set_state(self, state):
    raise NotImplementedError('Followed keeps the position.')


def train(folder, is_killed):
  """Counts each record in a weight; prints what the run came to."""
  os.environ['KERAS_BACKEND'] = 'jax'
  import keras

  client = LocalLedgerClient(
    LedgerSpec(NUM, 7, seed=3, num_epochs=1), worker=0, num_workers=1
  )
  data = Followed(LeasedDataset(Numbers(), client).batch(BATCH))

  class Counts(keras.Model):
    """Its gradient of an example is -1 for the weight of its record.

    Its weights file has the position of the data, too.
    """

    def __init__(self):
      super().__init__()
      self.counts = keras.layers.Embedding(NUM, 1, 'zeros')

    def call(self, x):
      return self.counts(x)[:, 0]

    def save_own_variables(self, store):
      text = json.dumps(data.position).encode()
      store['position'] = np.frombuffer(text, np.uint8)

    def load_own_variables(self, store):
      data.position = json.loads(np.asarray(store['position']).tobytes())

  class Follow(keras.callbacks.Callback):
    steps = 0

    def on_train_batch_end(self, batch, logs=None):
      self.steps += 1
      data.trained()

  class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
      if is_killed and batch + 1 == KILLED_AFTER:
        os.kill(os.getpid(), signal.SIGKILL)

  class Sum(keras.losses.Loss):
    def call(self, y_true, y_pred):
      return -y_pred

  model = Counts()
  model(np.zeros(1, np.int32))
  model.compile(keras.optimizers.SGD(1.0), Sum(reduction='sum'))
  model.make_train_function()
  step = watch(model.train_function, num_samples=BATCH, prometheus_port=0)
  model.train_function = step
  follow = Follow()
  backup = keras.callbacks.BackupAndRestore(
    f'{folder}/backup', save_freq=SAVE_EVERY
  )
  model.fit(data, epochs=1, verbose=0, callbacks=[follow, backup, Kill()])
  step.close()
  url = f'http://127.0.0.1:{step.prometheus_port}/metrics'
  with urllib.request.urlopen(url) as page:
    (watched,) = (
      line.split()[1]
      for line in page.read().decode().splitlines()
      if line.startswith('antjax_watch_step_seconds_count')
    )
  counts = np.asarray(model.counts.embeddings)[:, 0].tolist()
  found = {'counts': counts, 'steps': follow.steps, 'watched': float(watched)}
  print('RESULT', json.dumps(found))


def run(folder, is_killed):
  return subprocess.run(
    [sys.executable, '-m', __name__, str(folder), str(int(is_killed))],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_a_killed_fit_resumes_in_mid_epoch_with_each_record_once(tmp_path):
  assert run(tmp_path, True).returncode == -signal.SIGKILL
  done = run(tmp_path, False)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.rpartition('RESULT ')[2])
  assert found['counts'] == [1.0] * NUM
  saved = KILLED_AFTER // SAVE_EVERY * SAVE_EVERY
  assert found['steps'] == -(-NUM // BATCH) - saved
  assert found['watched'] == found['steps'] - 1  # The first one compiles.


if __name__ == '__main__':
  train(sys.argv[1], sys.argv[2] == '1')
