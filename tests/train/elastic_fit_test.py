# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`Trainer.fit(elastic=...)`: plans, deadlines, the end of data, commits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.input.data_shard import ShardLedger
from antjax.input.dataset import LeasedDataset, merge_states
from antjax.input.ledger_client import LocalLedgerClient
from antjax.mesh.mesh import make_mesh
from antjax.train import elastic_loop, loop
from antjax.train.elastic import Plan
from antjax.train.trainer import Trainer

PARAMS = {'w': np.zeros(4, np.float32)}


class Control:
  """An `ElasticControl` whose plan depends on the step that was timed last."""

  worker = 'me'

  def __init__(self, plans=None):
    self.plans = plans or {}
    self.current = Plan()
    self.times = []
    self.commits = []
    self.stop = False

  def plan(self):
    return self.current

  def on_batch_time(
    self, step, compute_s, wait_s, num_micro_batches, num_samples
  ):
    self.times.append((step, compute_s, wait_s, num_micro_batches, num_samples))
    self.current = self.plans.get(step, self.current)

  def on_commit(self, step, input_state):
    self.commits.append((step, input_state))

  def is_stopping(self):
    return self.stop


def loss_fn(params, batch, rng):
  del rng
  return jnp.square(batch['x'] @ params['w'] - batch['y'])


def micro_batches(num=1000, size=16):
  rng = np.random.default_rng(0)
  for _ in range(num):
    x = rng.normal(size=(size, 4)).astype(np.float32)
    yield {'x': x, 'y': (x @ np.arange(4)).astype(np.float32)}


def make_trainer(paro='IIG', optimizer=None, **kwargs):
  return Trainer(
    loss_fn,
    optimizer or optax.sgd(0.1),
    mesh=make_mesh(intra=4),
    paro=paro,
    num_micro_batches=2,
    **kwargs,
  )


def fit(trainer, batches, num_steps, control, **kwargs):
  seen = {}
  state = trainer.fit(
    trainer.init(PARAMS),
    batches,
    num_steps,
    elastic=control,
    on_step=lambda step, values: seen.setdefault(step, values),
    **kwargs,
  )
  return state, seen


def test_fit_learns_and_reports_each_step_once():
  trainer, control = make_trainer(), Control()
  state, seen = fit(trainer, micro_batches(), 60, control)
  assert sorted(seen) == list(range(1, 61))
  assert int(state.step) == 60
  assert seen[60]['loss'] < 0.01 * seen[1]['loss']
  np.testing.assert_allclose(trainer.params(state)['w'], range(4), atol=0.05)
  assert {v['num_micro_batches'] for v in seen.values()} == {2}
  assert {v['weight'] for v in seen.values()} == {32}
  # The first one compiles.
  assert [t[0] for t in control.times] == list(range(2, 61))
  assert all(t[1] > 0 and t[2] >= 0 and t[3:] == (2, 32) for t in control.times)


def test_fit_equals_the_in_graph_loop():
  trainer = make_trainer()
  batches = list(micro_batches(10))

  def joined():
    for a, b in zip(batches[::2], batches[1::2], strict=True):
      yield jax.tree.map(
        lambda x, y: np.stack(
          [x.reshape(8, 2, *x.shape[1:]), y.reshape(8, 2, *y.shape[1:])], axis=1
        ).reshape(32, *x.shape[1:]),
        a,
        b,
      )

  losses = []
  expected = trainer.fit(
    trainer.init(PARAMS),
    joined(),
    5,
    on_step=lambda _, values: losses.append(values['loss']),
  )
  state, seen = fit(trainer, batches, 5, Control())
  np.testing.assert_allclose(
    [seen[i]['loss'] for i in range(1, 6)], losses, rtol=1e-6
  )
  np.testing.assert_allclose(state.params['w'], expected.params['w'], rtol=1e-6)


def test_a_plan_takes_effect_two_steps_after_it_is_known():
  control = Control(
    {
      3: Plan(7, {'me': 5}, lr_scale=0.5),
      6: Plan(9, {'other': 3}),
    }
  )
  trainer = make_trainer()
  _, seen = fit(trainer, micro_batches(), 12, control)
  counts = [seen[i]['num_micro_batches'] for i in range(1, 13)]
  # Said in step 4, agreed when that is fetched in step 5, used in step 6.
  assert counts == [2] * 5 + [5] * 3 + [2] * 4
  step = trainer.elastic_step()
  assert step.local._add._cache_size() == 1
  assert step._finish._cache_size() == 1


def test_lr_scale_of_a_plan_scales_the_updates():
  def run(plan):
    control = Control()
    control.current = plan  # Known before the first step: used in it.
    trainer = make_trainer(optimizer=optax.sgd(1e-3))
    state, _ = fit(trainer, micro_batches(), 1, control)
    return np.asarray(trainer.params(state)['w'])

  np.testing.assert_allclose(
    run(Plan(1, lr_scale=0.25)), 0.25 * run(Plan()), rtol=1e-6
  )


def test_a_deadline_ends_a_step_and_loses_nothing():
  """On a clock that only the input turns, a second a micro-batch."""
  now = [0.0]
  pulled = []

  def slow():
    for batch in micro_batches(20):
      now[0] += 1.0
      pulled.append(batch)
      yield batch

  control = Control()
  control.current = Plan(1, {'me': 10}, deadline_s=2.5)
  trainer, seen = make_trainer(), {}
  elastic_loop.fit(
    trainer,
    trainer.init(PARAMS),
    slow(),
    3,
    options(on_step=lambda step, values: seen.setdefault(step, values)),
    control,
    clock=lambda: now[0],
  )
  # One before the step begins, then at 0, 1 and 2 s.
  assert [v['num_micro_batches'] for v in seen.values()] == [4, 4, 4]
  assert sum(v['weight'] for v in seen.values()) == 16 * len(pulled) == 16 * 12


def options(**kwargs):
  fields = dict.fromkeys(
    f.name for f in dataclasses.fields(loop.FitOptions)
  ) | {'checkpoint_every': 1000, 'keep': 3, 'best_mode': 'min'}
  return loop.FitOptions(**fields | {'evaluate_every': 0} | kwargs)


def test_the_end_of_data_is_a_smaller_step_and_then_the_end():
  control = Control()
  trainer = make_trainer()
  state, seen = fit(trainer, micro_batches(5), 10, control)
  assert [v['num_micro_batches'] for v in seen.values()] == [2, 2, 1]
  assert int(state.step) == 3
  state, seen = fit(trainer, micro_batches(0), 10, control)
  assert int(state.step) == 0
  assert not seen


class Growing:
  """An input that has nothing now and then, and something later."""

  def __init__(self, elements):
    self._elements = list(elements)  # None: nothing now.

  def __iter__(self):
    return self

  def __next__(self):
    element = self._elements.pop(0) if self._elements else None
    if element is None:
      raise StopIteration
    return element

  def may_get_more(self):
    return bool(self._elements)


def test_a_stream_that_may_grow_is_asked_again(monkeypatch):
  monkeypatch.setattr(elastic_loop, '_POLL_S', 0)
  a, b, c = micro_batches(3)
  stream = Growing([a, None, None, None, b, c, None])
  control = Control()
  control.may_get_more = stream.may_get_more
  state, seen = fit(make_trainer(), stream, 10, control)
  # Steps without any data are none: they have no number.
  assert [(i, v['num_micro_batches']) for i, v in seen.items()] == [
    (1, 1),
    (2, 2),
  ]
  assert int(state.step) == 2


def test_without_data_elsewhere_a_quota_of_none_is_one():
  """Else data that only an idle worker has would be waited for for ever."""
  control = Control()
  control.current = Plan(1, {'me': 0})
  _, seen = fit(make_trainer(), micro_batches(3), 10, control)
  assert sum(v['num_micro_batches'] for v in seen.values()) == 3


class Positioned:
  """Micro-batches whose position is their number."""

  def __init__(self, num=1000):
    self._all, self._next = list(micro_batches(num)), 0

  def __iter__(self):
    return self

  def __next__(self):
    if self._next == len(self._all):
      raise StopIteration
    self._next += 1
    return self._all[self._next - 1]

  def get_state(self):
    return {'next': self._next}

  def set_state(self, state):
    self._next = state['next']


def test_a_commit_is_told_with_the_position_once_it_is_whole(tmp_path):
  class Looking(Control):
    def on_commit(self, step, input_state):
      super().on_commit(step, input_state)
      assert (tmp_path / str(step) / '_CHECKPOINT_METADATA').exists()

  control = Looking()
  fit(
    make_trainer(),
    Positioned(),
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
      trainer.init(PARAMS),
      Positioned(),
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
    trainer, Positioned(), 12, control, checkpoint_dir=str(tmp_path)
  )
  assert sorted(more) == list(range(step + 1, 13))
  assert int(state.step) == 12


def test_evaluation_comes_at_its_steps():
  control, seen = Control(), {}
  trainer = make_trainer()
  trainer.fit(
    trainer.init(PARAMS),
    micro_batches(),
    5,
    elastic=control,
    evaluate_fn=lambda state: {'mae': float(state.step)},
    evaluate_every=2,
    on_step=lambda step, values: seen.setdefault(step, {}).update(values),
  )
  assert {s: v['mae'] for s, v in seen.items() if 'mae' in v} == {
    2: 2.0,
    4: 4.0,
    5: 5.0,
  }


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


def test_resume_uses_each_record_exactly_once(tmp_path):
  """Two workers' ledgers, then three; record ids are in the batches."""
  num_records, used = 96, []
  source = Records(num_records)

  def run(num_workers, num_steps):
    """Workers of one process take turns at one trainer: equal steps."""
    ledger = ShardLedger(num_records, 8, seed=1, num_epochs=1)
    datasets = [
      LeasedDataset(
        source, LocalLedgerClient(ledger, worker=i, num_workers=num_workers)
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


# What is refused.


def test_counts_from_two_sides_are_refused():
  with pytest.raises(ValueError, match='num_micro_batches_fn'):
    fit(
      make_trainer(),
      micro_batches(),
      3,
      Control(),
      num_micro_batches_fn=lambda step: [1, 1],
    )


def test_a_code_that_is_not_elastic_is_refused():
  with pytest.raises(ValueError, match='code GGG .* Elastic codes are NNN'):
    fit(make_trainer('GGG'), micro_batches(), 3, Control())


@pytest.mark.parametrize(
  ('plan', 'message'),
  [
    (Plan(1, {'me': -1}), 'at least 0'),
    (Plan(1, lr_scale=0.0), 'lr_scale=0.0 must be positive'),
    (Plan(1, deadline_s=-1.0), 'deadline_s=-1.0'),
  ],
)
def test_a_plan_that_cannot_be_is_refused(plan, message):
  control = Control()
  control.current = plan
  with pytest.raises(ValueError, match=message):
    fit(make_trainer(), micro_batches(), 3, control)


# Tables.


def make_table_trainer():
  mesh = make_mesh(intra=4)
  tables = EmbeddingTables(
    [TableSpec('item', 97, 4, 'global', Adam(0.1), init_scale=1.0)],
    {'item': 'item'},
    mesh=mesh,
  )

  def loss_fn(params, rows, batch, rng):
    del rng
    x = tables.lookup(rows, batch['ids'])['item']
    return jnp.square(x @ params['w'] - batch['y'])

  return Trainer(
    loss_fn,
    optax.adam(0.1),
    mesh=mesh,
    paro='IIG',
    tables=tables,
    num_micro_batches=2,
  )


def table_batches(num, last=16):
  rng = np.random.default_rng(0)
  for i in range(num):
    size = 16 if i < num - 1 else last
    yield {
      'ids': {'item': rng.integers(0, 97, size)},
      'y': rng.normal(size=size).astype(np.float32),
    }


def test_tables_follow_a_plan_beyond_the_trainers_number():
  control = Control({2: Plan(1, {'me': 3}), 5: Plan(2, {'me': 1})})
  trainer, seen = make_table_trainer(), {}
  state = trainer.fit(
    trainer.init({'w': np.ones(4, np.float32)}),
    table_batches(22, last=8),  # The last one is smaller.
    100,
    elastic=control,
    on_step=lambda step, values: seen.setdefault(step, values),
  )
  counts = [v['num_micro_batches'] for v in seen.values()]
  assert counts == [2, 2, 2, 2, 3, 3, 3, 1, 1, 1, 1, 1]
  assert int(state.step) == len(counts)
  assert seen[12]['weight'] == 8
  assert seen[12]['loss'] < seen[1]['loss']


def test_no_data_at_all_for_tables_is_the_end():
  trainer = make_table_trainer()
  state = trainer.fit(
    trainer.init({'w': np.ones(4, np.float32)}),
    table_batches(0),
    100,
    elastic=Control(),
  )
  assert int(state.step) == 0


def test_a_deadline_with_tables_is_refused():
  control = Control()
  control.current = Plan(3, deadline_s=1.0)
  trainer = make_table_trainer()
  with pytest.raises(ValueError, match='Plan 3 has deadline_s=1.0.* tables'):
    trainer.fit(
      trainer.init({'w': np.ones(4, np.float32)}),
      table_batches(4),
      100,
      elastic=control,
    )
