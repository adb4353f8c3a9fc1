# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The loop behind `Trainer.fit(elastic=...)`: the host-loop form of the step.

A step consists of micro-batches of this process, as many as the plan sets and
the input supplies, and one exchange with all other processes. The first
micro-batch of a step is read and dispatched while the exchange of the previous
step is still running. Only then are the metrics of that step fetched, so the
devices never wait for the host. At most two micro-batches are dispatched ahead.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from antjax.mesh.gather import gather_json
from antjax.train import loop
from antjax.train.batches import check_has_ids
from antjax.train.checkpoint import Checkpointer
from antjax.train.elastic import ElasticControl, Plan
from antjax.train.elastic_step import ElasticStep
from antjax.train.elastic_timer import StepTimer
from antjax.train.feed import (
  check_position,
  describe,
  get_position,
  zeros_of,
)
from antjax.train.fit_options import FitOptions, Metrics
from antjax.train.keys import Keys
from antjax.train.save_clock import SaveClock
from antjax.train.state import PyTree, reset_rows, TrainState

# Pause between reads while no process has data.
_POLL_S = 0.05


def fit(
  state: TrainState,
  batches: Iterable[PyTree],
  num_steps: int,
  options: FitOptions,
  step: ElasticStep,
  keys: Keys | None = None,
  *,
  clock: Callable[[], float] = time.perf_counter,
) -> TrainState:
  """See `Trainer.fit`; the clock gives seconds from any origin."""
  iterator = iter(batches)
  assert options.elastic is not None
  with loop.opened(step.spec, keys, state, iterator, options) as (saver, state):
    run = _Run(step, options.elastic, iterator, saver, options, clock, keys)
    return run.train(state, num_steps)


@dataclasses.dataclass
class _Pending:
  """A dispatched step whose metrics are not fetched yet."""

  number: int
  on_device: dict[str, Any]
  compute_s: float
  done_at: float  # Time at which its micro-batches were done.
  num_micro_batches: int
  num_samples: int


class _Run:
  """One call of `fit`."""

  def __init__(
    self,
    step: ElasticStep,
    elastic: ElasticControl,
    iterator: Iterator[PyTree],
    saver: Checkpointer | None,
    options: FitOptions,
    clock: Callable[[], float],
    keys: Keys | None,
  ):
    self._step, self._elastic, self._keys = step, elastic, keys
    self._saver, self._options = saver, options
    self._input = _Input(iterator, getattr(elastic, 'may_get_more', None))
    self._timer = StepTimer(clock)
    self._reporter = loop.Reporter(options)
    self._plan = Plan()  # In use; equal on all processes.
    self._newest = Plan()  # Last reported by this process as its newest.
    self._ids_like: PyTree = None
    self._most = step.spec.num_micro_batches
    self._pending: _Pending | None = None
    self._saved: tuple[int, list[Any]] | None = None  # May be uncommitted.
    self._done = self._start = 0
    self._is_over = self._is_stopping = self._is_waiting = False

  def train(self, state: TrainState, num_steps: int) -> TrainState:
    self._done = self._start = int(state.step)
    self._clock = SaveClock(self._options, self._done)
    self._agree_on_first_plan()
    while not self._is_over:
      if self._last_number() == num_steps:
        if self._pending is None:
          break
        self._flush()  # It may show that no process had data.
        continue
      state = self._advance(state)
      self._tell_committed()
      number = self._last_number()
      is_pause = self._options.is_pause(number)
      is_look = self._clock.is_look(number)
      if number < num_steps and (is_pause or is_look):
        if values := self._fetch():
          extra = self._reporter.evaluate(number, state)
          # Reported before saving: a diverged state must not be saved.
          self._reporter.tell(number, values, extra)
          if self._clock.look(number) or is_pause:
            self._save(state, extra)
    self._flush()
    if self._is_stopping:
      self._save(state)
      self._tell_committed(wait=True)
      raise KeyboardInterrupt(f'stopped at step {self._done}')
    final: Metrics | None = None
    if self._done > self._start:
      final = self._reporter.evaluate_last(self._done, state)
    self._save(state, final)
    self._tell_committed(wait=True)
    return state

  def _last_number(self) -> int:
    """Number of the newest step, dispatched or done."""
    return self._done + (self._pending is not None)

  # One step.

  def _advance(self, state: TrainState) -> TrainState:
    """Runs a step and fetches the metrics of the previous one."""
    plan = self._plan
    quota = plan.num_micro_batches.get(
      self._elastic.worker, self._step.spec.num_micro_batches
    )
    if self._is_waiting:
      quota = max(quota, 1)  # No process had data: one with data continues.
    if self._step.spec.tables is None:
      examples, samples = self._do_micro_batches(state, quota, plan)
    else:
      state, examples, samples = self._do_routed(state, quota, plan)
    if self._is_over and not self._is_stopping:
      return state  # The previous step was the end of all data.
    self._newest = Plan.of(self._elastic.plan())
    num = self._step.local.num_micro_batches
    wants_stop = self._elastic.is_stopping() or self._options.wants_stop()
    flags = {
      'num_valid': float(num > 0),
      'is_stopping': float(wants_stop),
      'num_examples': examples,
      'may_get_more': float(not self._input.is_over),
      # A small number, which float32 holds exactly.
      'plan': self._newest.version - plan.version,
    }
    state, on_device = self._step.finish(state, flags, lr_scale=plan.lr_scale)
    compute_s, done_at = self._timer.end()
    self._pending = _Pending(
      self._done + 1, on_device, compute_s, done_at, num, samples
    )
    return state

  def _do_micro_batches(
    self, state: TrainState, quota: int, plan: Plan
  ) -> tuple[float, int]:
    """Pulls and dispatches up to `quota`; returns (examples, samples)."""
    local, timer = self._step.local, self._timer
    self._step.begin(state)
    examples, samples = 0.0, 0
    for i in range(max(quota, 1)):
      if i == 0:
        timer.pulling()
      elif not timer.may_pull(plan.deadline_s):
        break
      batch = self._input.pull() if i < quota else None
      if batch is not None:
        micro = local.place(batch)
        timer.dispatch(lambda: local.add(micro))
        examples += self._options.count(batch)
        samples += _num_rows(batch)
      if i == 0:
        self._flush(is_in_step=True)
      if batch is None or self._is_over:
        break
    return examples, samples

  def _do_routed(
    self, state: TrainState, quota: int, plan: Plan
  ) -> tuple[TrainState, float, int]:
    """Like `_do_micro_batches`, with tables: fetches all rows at once.

    Returns:
      (state with new rows for new keys, examples, samples).
    """
    if plan.deadline_s:
      logging.log_first_n(
        logging.WARNING,
        'Plan %d has deadline_s=%g. This job has embedding tables, whose rows'
        ' of all micro-batches of a step are fetched before the first of them'
        ' runs: there are no deadlines here, only numbers of micro-batches.',
        1,
        plan.version,
        plan.deadline_s,
      )
    batches: list[PyTree] = []
    self._timer.pulling()
    while len(batches) < quota and (b := self._input.pull()) is not None:
      batches.append(self._with_keys(b))
    self._flush(is_in_step=True)
    if self._is_over and not self._is_stopping:
      return state, 0.0, 0
    self._agree_on_ids(batches)
    if self._ids_like is None:
      self._is_over = True
      return state, 0.0, 0
    if self._keys is not None:
      ids, reset = self._keys.ids([b['ids'] for b in batches], is_training=True)
      pairs = zip(batches, ids, strict=True)
      batches = [b | {'ids': new} for b, new in pairs]
      tables = self._step.spec.tables
      if reset and tables is not None:
        state = reset_rows(tables, state, reset)
    # Room for the largest number of any worker, equal on all processes; a new
    # maximum compiles once more.
    while self._most < max(plan.num_micro_batches.values(), default=0):
      self._most *= 2
    (placed,) = self._step.route(state, [batches], self._ids_like, self._most)
    self._timer.begin(is_late=False)
    for micro in placed:
      self._timer.dispatch(lambda: self._step.local.add(micro))
    examples = sum(map(self._options.count, batches))
    return state, examples, sum(map(_num_rows, batches))

  def _with_keys(self, batch: PyTree) -> PyTree:
    check_has_ids(batch)
    if self._keys is None:
      return batch
    return batch | {'ids': self._keys.read(batch['ids'])}

  def _agree_on_ids(self, batches: list[PyTree]) -> None:
    """Determines the shapes of ids, from other processes if without data."""
    while self._ids_like is None:
      filled = [self._step.local.fill(batch)[0] for batch in batches]
      largest = max(filled, key=_num_rows, default=None)
      mine = None if largest is None else describe(largest['ids'])
      said = gather_json([mine, not self._input.is_over])
      known = [shapes for shapes, _ in said if shapes is not None]
      if known:
        trees = [zeros_of(shapes) for shapes in known]
        self._ids_like = jax.tree.map(
          lambda *xs: max(xs, key=lambda x: x.shape[0]), *trees
        )
        if self._keys is not None:
          self._ids_like = jax.tree.map(np.int64, self._ids_like)
      elif not any(may_get_more for _, may_get_more in said):
        return
      else:
        time.sleep(_POLL_S)
        if (batch := self._input.pull()) is not None:
          batches.append(self._with_keys(batch))

  # Reports of all processes in a step.

  def _flush(self, *, is_in_step: bool = False) -> None:
    """Fetches and reports the previous step, if not done yet."""
    values = self._fetch(is_in_step=is_in_step)
    if values:
      self._reporter.tell(self._done, values)

  def _fetch(self, *, is_in_step: bool = False) -> Metrics:
    """Waits for the previous step; its metrics, or {} if there was none.

    `is_in_step`: whether the next step's first micro-batch is dispatched.
    """
    item, self._pending = self._pending, None
    if item is None:
      self._timer.begin(is_late=True)
      return {}
    is_late = is_in_step and item.on_device['loss'].is_ready()
    fetched = jax.device_get(item.on_device)
    ended_at = self._timer.pulling_at if is_late else self._timer.clock()
    if is_in_step:
      self._timer.begin(is_late=is_late)
    least, minus_most = fetched.pop('plans')
    if least == -minus_most and least > 0:
      self._plan = self._newest
    values = {k: float(v) for k, v in fetched.items()}
    has_data = values.pop('num_valid') > 0
    may_get_more = values.pop('may_get_more') > 0
    self._is_stopping |= values.pop('is_stopping') > 0
    self._is_over = self._is_stopping or not (has_data or may_get_more)
    self._is_waiting = not has_data
    if not has_data:
      time.sleep(0 if self._is_over else _POLL_S)
      return {}
    self._done += 1
    if self._done > self._start + 1:
      self._elastic.on_batch_time(
        item.number,
        item.compute_s,
        max(0.0, ended_at - item.done_at),
        item.num_micro_batches,
        item.num_samples,
      )
    if (on_loss := getattr(self._elastic, 'on_loss', None)) is not None:
      on_loss(values['loss'])
    return values

  def _agree_on_first_plan(self) -> None:
    """Before the first step, takes the newest plan of any process."""
    plan = Plan.of(self._elastic.plan())
    said = gather_json(dataclasses.asdict(plan))
    self._plan = Plan(**max(said, key=lambda p: p['version']))

  # Checkpoints.

  def _save(self, state: TrainState, metrics: Metrics | None = None) -> None:
    if self._saver is None or self._saver.latest_step() == self._done:
      return
    with self._clock.saving():
      self._tell_committed(wait=True)
      position = get_position(self._input.iterator)
      check_position(self._input.iterator, position)
      positions = self._saver.save(
        self._done,
        state,
        input_state=position,
        config=self._options.config,
        metrics=metrics,
        keys=None if self._keys is None else self._keys.state(),
        about_keys=None if self._keys is None else self._keys.about(),
      )
    self._saved = self._done, positions

  def _tell_committed(self, *, wait: bool = False) -> None:
    """Reports a checkpoint to the control once it is committed."""
    if self._saver is None or self._saved is None:
      return
    if wait:
      self._saver.wait()
    step, positions = self._saved
    if not self._saver.is_committed(step):
      return
    if jax.process_index() == 0:
      merge = self._options.merge_input_states
      merged = positions[0]
      if merge is not None and any(p is not None for p in positions):
        merged = merge(positions)
      self._elastic.on_commit(step, merged)
    self._saved = None


class _Input:
  """This process's micro-batches, which may continue after an end."""

  def __init__(
    self, iterator: Iterator[PyTree], may_get_more: Callable[[], bool] | None
  ):
    self.iterator = iterator
    self.is_over = False  # Permanently.
    self._may_get_more = may_get_more

  def pull(self) -> PyTree | None:
    """The next micro-batch; None: none available now."""
    if self.is_over:
      return None
    batch = next(self.iterator, None)
    if batch is None:
      may_get_more = self._may_get_more
      self.is_over = may_get_more is None or not may_get_more()
    return batch


def _num_rows(batch: PyTree) -> int:
  return int(np.shape(jax.tree.leaves(batch)[0])[0])
