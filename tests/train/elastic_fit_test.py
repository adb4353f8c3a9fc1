# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`Trainer.fit(elastic=...)`: plans, deadlines, the end of data."""

import jax
import numpy as np
import optax
import pytest

from antjax.train import elastic_loop
from antjax.train.elastic import Plan
from antjax.train.loop import FitOptions
from tests.train.elastic_control import (
  Control,
  fit,
  make_trainer,
  micro_batches,
  new_state,
)


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
    new_state(trainer),
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
  trainer = make_trainer(optimizer=optax.sgd(1e-3))

  def run(plan):
    control = Control()
    control.current = plan  # Known before the first step: used in it.
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
    new_state(trainer),
    slow(),
    3,
    FitOptions(
      on_step=lambda step, values: seen.setdefault(step, values),
      elastic=control,
    ),
    step=trainer.elastic_step(),
    clock=lambda: now[0],
  )
  # One before the step begins, then at 0, 1 and 2 s.
  assert [v['num_micro_batches'] for v in seen.values()] == [4, 4, 4]
  assert sum(v['weight'] for v in seen.values()) == 16 * len(pulled) == 16 * 12


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


def test_evaluation_comes_at_its_steps():
  control, seen = Control(), {}
  trainer = make_trainer()
  trainer.fit(
    new_state(trainer),
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
