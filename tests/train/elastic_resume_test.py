# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of `Trainer.fit(elastic=...)`: commits, stops, exactness."""

import numpy as np
import pytest

from antjax.shards.dataset import LeasedDataset, merge_states
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec
from antjax.train.elastic import Plan
from tests.train.elastic_control import (
  Control,
  fit,
  make_trainer,
  micro_batches,
  new_state,
)
from tests.train.positioned import Positioned


def positioned():
  return Positioned(list(micro_batches(1000)).__getitem__, 1000)


def test_a_commit_is_told_with_the_position_once_it_is_whole(tmp_path):
  class Looking(Control):
    def on_commit(self, step, input_state):
      super().on_commit(step, input_state)
      assert (tmp_path / str(step) / '_CHECKPOINT_METADATA').exists()

  control = Looking()
  fit(
    make_trainer(),
    positioned(),
    7,
    control,
    checkpoint_dir=str(tmp_path),
    checkpoint_every=3,
  )
  assert control.commits == [(step, {'next': 2 * step}) for step in (3, 6, 7)]


def test_stopping_saves_and_tells_and_resumes(tmp_path):
  control, seen = Control(), []

  def on_step(step, _):
    seen.append(step)
    control.stop = step >= 3

  trainer = make_trainer()
  with pytest.raises(KeyboardInterrupt, match='stopped at step'):
    trainer.fit(
      new_state(trainer),
      positioned(),
      100,
      elastic=control,
      checkpoint_dir=str(tmp_path),
      on_step=on_step,
    )
  ((step, position),) = control.commits
  assert step == seen[-1] < 8
  # The last one may have ended early; all that was pulled is in it.
  assert 2 * step - 2 <= position['next'] <= 2 * step
  control.stop = False
  state, more = fit(
    trainer, positioned(), 12, control, checkpoint_dir=str(tmp_path)
  )
  assert sorted(more) == list(range(step + 1, 13))
  assert int(state.step) == 12


def test_a_lost_loss_ends_the_run_unsaved(tmp_path):
  def some():
    for i, batch in enumerate(micro_batches(20)):
      yield batch if i < 7 else batch | {'y': np.full(16, np.nan, np.float32)}

  with pytest.raises(RuntimeError, match='loss of step 4 is nan'):
    fit(
      make_trainer(),
      some(),
      6,
      Control(),
      checkpoint_dir=str(tmp_path),
      checkpoint_every=2,
    )
  kept = [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]
  assert kept == [2]


def test_dlrover_defect_6_the_ledgers_are_in_the_checkpoint(tmp_path):
  """Two workers, then three: each record once; its ids are in the batches.

  DLRover's TensorFlow trainer writes its checkpoints without the shards.
  """
  num_records, used = 96, []
  source = Records(num_records)

  def run(num_workers, num_steps):
    """Workers of one process take turns at one trainer: equal steps."""
    spec = LedgerSpec(num_records, 8, seed=1, num_epochs=1)
    datasets = [
      LeasedDataset(
        source, LocalLedgerClient(spec, worker=i, num_workers=num_workers)
      ).batch(8)
      for i in range(num_workers)
    ]
    workers = Workers([iter(d) for d in datasets], used)
    control = Control()
    control.current = Plan(1, {'me': num_workers})
    trainer = make_trainer()
    return fit(
      trainer,
      workers,
      num_steps,
      control,
      checkpoint_dir=str(tmp_path),
      checkpoint_every=2,
      merge_input_states=lambda states: merge_states(states[0]),
    ), control

  _, control = run(2, 3)
  assert [step for step, _ in control.commits] == [2, 3]
  first, used[:] = list(used), []
  assert len(first) == 2 * 3 * 8
  run(3, 100)
  assert sorted(first + used) == list(range(num_records))


class Records:
  """Record i is the dict of a row that carries i."""

  def __init__(self, num):
    self._num = num

  def __len__(self):
    return self._num

  def read(self, start, stop):
    return [
      {
        'id': np.int64(i),
        'x': np.full(4, i / 100, np.float32),
        'y': np.float32(1),
      }
      for i in range(start, stop)
    ]


class Workers:
  """Micro-batches of several workers in turn; its state is all of theirs."""

  def __init__(self, iterators, used):
    self._iterators, self._used, self._turn = iterators, used, 0

  def __iter__(self):
    return self

  def __next__(self):
    for _ in self._iterators:
      self._turn = (self._turn + 1) % len(self._iterators)
      batch = next(self._iterators[self._turn], None)
      if batch is not None:
        self._used.extend(batch['id'].tolist())
        return batch
    raise StopIteration

  def get_state(self):
    return [iterator.get_state() for iterator in self._iterators]

  def set_state(self, state):
    for iterator in self._iterators:
      iterator.set_state(state)
