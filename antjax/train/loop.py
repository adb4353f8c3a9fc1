# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop behind `Trainer.fit`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import math
import re
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from antjax.train import lease
from antjax.train.batches import BatchPlacer, own_copy, stack
from antjax.train.checkpoint import Checkpointer, latest_step
from antjax.train.feed import (
  check_position,
  Feed,
  get_position,
  set_position,
)
from antjax.train.fit_options import FitOptions, Metrics
from antjax.train.keys import Keys
from antjax.train.rows_ahead import RowsAhead
from antjax.train.save_clock import SaveClock
from antjax.train.state import PyTree, TrainState
from antjax.train.step import Step, StepInput
from antjax.train.step_spec import StepSpec

# Below this, the loss itself is not finite.
_LEAST_LOSS_SCALE = 2.0**-14


@contextlib.contextmanager
def opened(
  spec: StepSpec,
  keys: Keys | None,
  state: TrainState,
  iterator: Iterator[PyTree],
  options: FitOptions,
) -> Iterator[tuple[Checkpointer | None, TrainState]]:
  """Opens the folder; restores state and position of its newest checkpoint."""
  if options.checkpoint_dir is None:
    yield None, state
    return
  position = get_position(iterator)
  check_position(iterator, position)
  if address := re.search('[^"\']* object at 0x[0-9a-f]+', str(position)):
    logging.warning(
      'Trainer.fit(checkpoint_dir=...): the position of the data names %s,'
      ' which is another one in each process: Grain will refuse to resume.'
      ' Give the class a __repr__ that tells its data.',
      address[0],
    )
  # Method of an `antjax.Agent`.
  incarnation = getattr(options.elastic, 'incarnation', ())
  with (
    lease.held(options.checkpoint_dir, *incarnation),
    Checkpointer(
      options.checkpoint_dir,
      spec.layout,
      keep=options.keep,
      best_metric=options.best_metric,
      best_mode=options.best_mode,
    ) as saver,
  ):
    if (step := saver.newest()) is not None:
      state, positions = saver.restore(step)
      set_position(iterator, positions, options.merge_input_states)
      # A Trainer without vocabularies rejects a checkpoint with some.
      saver.restore_keys(step, keys or Keys({}, None))
    yield saver, state


class Reporter:
  """Reports steps to the user, and ends a run that has diverged."""

  def __init__(self, options: FitOptions):
    self._options = options
    self._last: float | None = None

  def tell(
    self, number: int, values: Metrics, extra: Metrics | None = None
  ) -> None:
    """`tell_all` for one step."""
    self.tell_all(number, [values], extra)

  def tell_all(
    self,
    first: int,
    steps: Sequence[Metrics],
    extra: Metrics | None = None,
  ) -> None:
    """Reports the steps of a call, adding examples per second.

    The first call, which compiles, has no such figure. `extra` are results of
    `evaluate_fn` after the last step.

    Raises:
      RuntimeError: The loss or the gradient is not finite.
    """
    now, last = time.perf_counter(), self._last
    self._last = now
    for number, values in enumerate(steps, first):
      values['num_examples'] = values['num_examples'] or values['weight']
      if last is not None:
        step_s = (now - last) / len(steps)
        values['examples_per_s'] = values['num_examples'] / step_s
      is_last = number == first + len(steps) - 1
      self._tell_one(number, values, extra if is_last else None)

  def _tell_one(
    self, number: int, values: Metrics, extra: Metrics | None
  ) -> None:
    if self._options.on_step is not None:
      self._options.on_step(number, values | (extra or {}))
    # A dynamic loss scale handles overflowing gradients.
    is_scaling = values.get('loss_scale', 0) > _LEAST_LOSS_SCALE
    norm = 0 if is_scaling else values['grad_norm']
    if not math.isfinite(values['loss'] + norm):
      folder = self._options.checkpoint_dir
      saved = latest_step(folder) if folder else None
      told = f'Resume from step {saved} in {folder}' if saved else 'Start over'
      raise RuntimeError(
        f'Trainer.fit: the loss of step {number} is {values["loss"]}, the'
        f' norm of its gradient {values["grad_norm"]}: the parameters are'
        f' lost. {told} with a smaller learning rate or gradient clipping, and'
        ' look at the data of that step.'
      )

  def evaluate(self, number: int, state: TrainState) -> Metrics | None:
    """Results of `evaluate_fn` if it is due after this step."""
    if self._options.is_evaluation(number) and self._options.evaluate_fn:
      return self._options.evaluate_fn(state)
    return None

  def evaluate_last(self, number: int, state: TrainState) -> Metrics | None:
    """Results of `evaluate_fn` after the last step; also reports them."""
    if self._options.evaluate_fn is None:
      return None
    final = self._options.evaluate_fn(state)
    if self._options.on_step is not None:
      self._options.on_step(number, final)
    return final


def fit(
  state: TrainState,
  batches: Iterable[PyTree],
  num_steps: int,
  options: FitOptions,
  *,
  spec: StepSpec,
  step: Step,
  steps: Step,
  placer: BatchPlacer,
  rows_ahead: RowsAhead | None = None,
) -> TrainState:
  """See `Trainer.fit`.

  `steps` runs several steps per call. If given, `rows_ahead` is the step to use
  instead.
  """
  iterator = iter(batches)
  with opened(spec, placer.keys, state, iterator, options) as (saver, state):
    run = _Run(iterator, saver, num_steps, options, placer)
    if rows_ahead is None:
      return run.train(state, lambda state: run.call(state, step, steps))
    return run.train(state, lambda state: run.step_ahead(state, rows_ahead))


class _Run:
  """One call of `fit`."""

  def __init__(
    self,
    iterator: Iterator[PyTree],
    saver: Checkpointer | None,
    num_steps: int,
    options: FitOptions,
    placer: BatchPlacer,
  ):
    self._iterator, self._saver, self._placer = iterator, saver, placer
    self._num_steps, self._options = num_steps, options
    # The feed reads a batch before the first step.
    self._start_position = get_position(iterator)
    num_ahead = 0
    if placer.home is not None:
      placer.home.forget_ahead()
      num_ahead = placer.home.config.lookahead
    self._feed = Feed(iterator, num_ahead, placer.see)
    self._reporter = Reporter(options)
    self._done = self._start = 0  # Steps dispatched.
    self._is_stopping = False
    # Calls not fetched yet: (their first step, metrics).
    self._pending: list[tuple[int, Any]] = []
    self._rows: PyTree | None = None  # Rows of the next step, in flight.
    self._ahead: StepInput | None = None  # The next step's inputs, already
    self._before_ahead: Any = None  # read, and the position before they were.

  def train(
    self, state: TrainState, advance: Callable[[TrainState], TrainState]
  ) -> TrainState:
    """Trains up to the last step, the end of data, or a stop.

    `advance` dispatches one call, or none at the end of data.
    """
    self._done = self._start = int(state.step)
    self._clock = SaveClock(self._options, self._done)
    has_data = self._done < self._num_steps and self._feed.open()
    while has_data and self._done < self._num_steps:
      before = self._done
      state = advance(state)
      # A call is fetched while the next one runs: devices never wait.
      if self._done == before or not self._report(but=1):
        break
      if self._is_pause(self._done) and not self._pause(state):
        break
    self._report()
    if self._is_stopping:
      self._save(state)
      raise KeyboardInterrupt(f'stopped at step {int(state.step)}')
    final: Metrics | None = None
    number = int(state.step)
    if number < self._num_steps:
      told = 'Trainer.fit: the data ended after step %d of %d.'
      logging.warning(told, number, self._num_steps)
    if number > self._start:
      final = self._reporter.evaluate_last(number, state)
    self._save(state, final)
    return state

  # One call.

  def call(self, state: TrainState, step: Step, steps: Step) -> TrainState:
    """Runs the steps of a call: `steps` for several, or `step` for each."""
    num = self._options.steps_of_call(self._done, self._num_steps)
    found: list[StepInput] = []
    while len(found) < num and (inputs := self._read(self._done + len(found))):
      found.append(inputs if num == 1 else jax.tree.map(own_copy, inputs))
    stacked = stack(found) if 1 < len(found) == num else None
    if stacked is not None:
      inputs = self._placer.to_devices(stacked, is_stack=True)
      state, on_device = steps(state, inputs)
      self._dispatched(num, on_device)
      return state
    for inputs in found:
      inputs = self._placer.to_devices(inputs)
      state, on_device = step(self._placer.with_new_rows(state), inputs)
      self._dispatched(1, on_device)
    return state

  def step_ahead(self, state: TrainState, step: RowsAhead) -> TrainState:
    """Runs one step, which fetches the rows of the next one if it may."""
    inputs, self._ahead = self._ahead or self._place(self._done), None
    if inputs is None:
      return state
    if self._rows is None:
      self._rows = step.fetch(state, inputs)
    following = self._done + 1
    if following < self._num_steps and not self._is_pause(following):
      self._before_ahead = get_position(self._iterator)
      self._ahead = self._place(following)
    state, on_device, self._rows = step.step(
      state,
      inputs,
      self._rows,
      None if self._ahead is None else self._ahead.routing,
    )
    self._dispatched(1, on_device)
    return state

  def _read(self, number: int) -> StepInput | None:
    """Inputs of the step after `number` others; None at the end of data."""
    batch, options = self._feed.next(), self._options
    if batch is None and jax.process_count() == 1:
      return None
    counts_fn = options.num_micro_batches_fn
    return self._placer.prepare(
      self._feed.filler() if batch is None else batch,
      counts=counts_fn(number) if counts_fn else None,
      is_valid=batch is not None,
      is_stopping=options.wants_stop(),
      num_examples=0 if batch is None else options.count(batch),
    )

  def _place(self, number: int) -> StepInput | None:
    """Like `_read`, on the devices."""
    inputs = self._read(number)
    return None if inputs is None else self._placer.to_devices(inputs)

  def _dispatched(self, num_steps: int, on_device: Any) -> None:
    self._pending.append((self._done + 1, on_device))
    self._done += num_steps

  # Between calls.

  def _report(self, extra: Metrics | None = None, but: int = 0) -> bool:
    """Fetches metrics of all but the last `but` calls; False: stop."""
    goes_on = True
    while len(self._pending) > but:
      first, on_device = self._pending.pop(0)
      columns = [
        np.asarray(x, float).ravel().tolist() for x in on_device.values()
      ]
      each: list[Metrics] = [
        dict(zip(on_device, x, strict=True)) for x in zip(*columns, strict=True)
      ]
      self._is_stopping |= any(x.pop('is_stopping') > 0 for x in each)
      valid = [x for x in each if x.pop('num_valid') > 0]
      if valid:
        self._reporter.tell_all(first, valid, None if self._pending else extra)
      goes_on &= len(valid) == len(each) and not self._is_stopping
    return goes_on

  def _is_pause(self, number: int) -> bool:
    """Whether something happens between this step and the next."""
    return number < self._num_steps and (
      self._options.is_pause(number) or self._clock.is_look(number)
    )

  def _pause(self, state: TrainState) -> bool:
    """Evaluates and saves if due; False: stop."""
    extra = self._reporter.evaluate(self._done, state)
    # Reported before saving: a diverged state must not be saved.
    goes_on = self._report(extra)
    if self._clock.look(self._done) or self._options.is_pause(self._done):
      self._save(state, extra)
    return goes_on

  def _save(self, state: TrainState, metrics: Metrics | None = None) -> None:
    number, saver = int(state.step), self._saver
    if saver is None or saver.latest_step() == number:
      return
    if self._done == self._start:
      position = self._start_position
    else:
      position = self._before_ahead if self._ahead else self._feed.position
    check_position(self._iterator, position)
    keys = self._placer.keys
    with self._clock.saving():
      saver.save(
        number,
        state,
        input_state=position,
        config=self._options.config,
        metrics=metrics,
        keys=None if keys is None else keys.state(),
        about_keys=None if keys is None else keys.about(),
      )
