# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint whose write was cut off is never restored."""

import dataclasses
import gc
import pathlib
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from antjax.train import checkpoint
from tests.cases import first_fast
from tests.train import save_worker

# Orbax leaves coroutines behind where a read fails; dropped, they complain.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.fixture(autouse=True)
def _drop_coroutines():
  yield
  gc.collect()  # Here, and not in the midst of another module's test.


def restored(folder):
  """The newest step, after a look that its parameters and position are its."""
  trainer = save_worker.make_trainer()
  trainer.init(save_worker.params_at(0))
  with save_worker.checkpointer(str(folder), trainer) as saver:
    step = saver.newest()
    assert step == checkpoint.latest_step(folder)
    state, positions = saver.restore()
  expected = save_worker.params_at(step)['w']
  np.testing.assert_array_equal(state.params['w'], expected)
  assert positions == [{'next': step}]
  return step


def save(folder, steps):
  trainer = save_worker.make_trainer()
  state = trainer.init(save_worker.params_at(0))
  with save_worker.checkpointer(str(folder), trainer) as saver:
    for step in steps:
      params = jax.device_put(save_worker.params_at(step))
      state = dataclasses.replace(state, params=params)
      saver.save(step, state, input_state={'next': step})


@pytest.mark.parametrize('seed', first_fast(0, 1, 2, 3))
def test_a_step_cut_off_at_any_byte_is_not_chosen(tmp_path, seed):
  """Folders as a kill leaves them: some files whole, one cut, some absent."""
  folder = tmp_path / 'run'
  save(folder, [2, 4])
  rng = random.Random(seed)
  files = sorted(p for p in (folder / '4').rglob('*') if p.is_file())
  rng.shuffle(files)
  left = rng.randrange(sum(p.stat().st_size for p in files))
  cut = folder / '6.orbax-checkpoint-tmp'
  for path in files:
    to = cut / path.relative_to(folder / '4')
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(path.read_bytes()[:left])
    left = max(0, left - path.stat().st_size)
  # A later one that was being written beside it, of which nothing is there.
  (folder / '7.orbax-checkpoint-tmp').mkdir()
  assert restored(folder) == 4
  shutil.rmtree(folder / '4')
  assert restored(folder) == 2


# Left by the asyncio loop of TensorStore.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize(
  'part',
  first_fast(
    'meta/metadata', 'params/d', 'params/ocdbt', 'state/d', 'state/_METADATA'
  ),
)
def test_a_damaged_step_is_named_and_what_to_do(tmp_path, part):
  save(tmp_path, [2, 4])
  for path in (tmp_path / '4').rglob('*'):
    if path.is_file() and f'4/{part}' in str(path):
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(ValueError) as info:
    restored(tmp_path)
  message = str(info.value)
  assert message.startswith(
    f'Checkpointer: step 4 of {tmp_path} cannot be read ('
  )
  assert message.endswith(
    f'Older steps there: 2. If step 4 is damaged, move {tmp_path}/4 away: the'
    ' run then resumes from step 2.'
  )
  assert '\n' not in message and len(message) < 700
  (tmp_path / '4').rename(tmp_path.with_suffix('.away'))
  assert restored(tmp_path) == 2


def test_a_damaged_step_without_an_older_one(tmp_path):
  save(tmp_path, [4])
  (tmp_path / '4/meta/metadata').write_text('{')
  with pytest.raises(ValueError, match='4 away: the run then starts over'):
    restored(tmp_path)


def test_no_memory_for_a_step_is_no_damage(tmp_path, monkeypatch):
  save(tmp_path, [4])

  def fail(*args, **kwargs):
    raise MemoryError

  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'restore', fail)
  with pytest.raises(MemoryError):
    restored(tmp_path)


def test_all_processes_restore_what_the_first_one_sees(tmp_path, monkeypatch):
  save(tmp_path, [2, 4])
  # This process's listing is ahead of that of process 0, which decides.
  monkeypatch.setattr(checkpoint, 'gather_json', lambda step: [2, step])
  trainer = save_worker.make_trainer()
  trainer.init(save_worker.params_at(0))
  with save_worker.checkpointer(str(tmp_path), trainer) as saver:
    assert saver.newest() == 2
    state, _ = saver.restore()
  expected = save_worker.params_at(2)['w']
  np.testing.assert_array_equal(state.params['w'], expected)


def test_a_checkpoint_that_could_not_be_written_is_no_commit(tmp_path):
  save(tmp_path, [2])
  trainer = save_worker.make_trainer()
  trainer.init(save_worker.params_at(0))
  with save_worker.checkpointer(str(tmp_path), trainer) as saver:
    assert saver.is_committed(2)
    with pytest.raises(RuntimeError, match='step 3 was not written'):
      saver.is_committed(3)


@pytest.mark.slow
def test_kills_at_random_instants_of_saving_lose_no_committed_step(tmp_path):
  """Whatever instant it is: the test holds at every one."""
  rng = random.Random(0)
  newest = 0
  for _ in range(6):
    worker = subprocess.Popen(
      [sys.executable, '-m', 'tests.train.save_worker', str(tmp_path)],
      cwd=pathlib.Path(__file__).parents[2],
      stdout=subprocess.PIPE,
      text=True,
    )
    try:
      said = [int(worker.stdout.readline())]
      begun = time.monotonic()
      said.append(int(worker.stdout.readline()))
      time.sleep(rng.uniform(0, 1.2) * (time.monotonic() - begun))
    finally:
      worker.kill()
      rest = worker.stdout.read().split()
      worker.wait()
      worker.stdout.close()
    committed = max([*said, *map(int, rest)])
    step = restored(tmp_path)
    # It may have been committed without having been said.
    assert step in (committed, committed + 1)
    assert step > newest
    newest = step
