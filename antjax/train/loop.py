# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop behind `Trainer.fit`."""

from collections.abc import Iterable, Iterator, Sequence
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
from antjax.train.feed import Feed, get_position, set_position
from antjax.train.fit_options import FitOptions, Metrics
from antjax.train.input_position import encode_position
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
  try:
    position = get_position(iterator)
    encode_position(position)
  except TypeError as error:
    raise ValueError(
      'Trainer.fit(checkpoint_dir=...): get_state() of the iterator'
      f' ({type(iterator).__name__}) gives a position that holds what no'
      f' checkpoint can: {error}. Use dicts by text, lists, tuples, numbers,'
      ' texts and bytes, or an iterator without get_state, whose position is'
      ' not saved.'
    ) from error
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
      keys = keys or Keys({}, None)
      keys.set_state(saver.restore_keys(step))
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
  iterator, keys = iter(batches), placer.keys
  with opened(spec, keys, state, iterator, options) as (saver, state):
    start = done = int(state.step)
    # The feed reads a batch before the first step.
    start_position = get_position(iterator)
    feed, reporter = Feed(iterator), Reporter(options)
    has_data = done < num_steps and feed.open()
    save_clock = SaveClock(options, done)
    is_stopping = False
    # Calls not fetched yet: (their first step, metrics).
    pending: list[tuple[int, Any]] = []
    rows: PyTree | None = None  # Rows of the next step, in flight.
    ahead: StepInput | None = None  # The next step's inputs, already read,
    before_ahead: Any = None  # and the position before they were.

    def save(metrics: Metrics | None = None) -> None:
      if saver is not None and saver.latest_step() != int(state.step):
        if done == start:
          position = start_position
        else:
          position = before_ahead if ahead else get_position(iterator)
        with save_clock.saving():
          saver.save(
            int(state.step),
            state,
            input_state=position,
            config=options.config,
            metrics=metrics,
            keys=None if keys is None else keys.state(),
          )

    def read(number: int) -> StepInput | None:
      """Inputs of the step after `number` others; None at the end of data."""
      batch = feed.next()
      if batch is None and jax.process_count() == 1:
        return None
      counts_fn = options.num_micro_batches_fn
      return placer.prepare(
        feed.filler() if batch is None else batch,
        counts=counts_fn(number) if counts_fn else None,
        is_valid=batch is not None,
        is_stopping=options.wants_stop(),
        num_examples=0 if batch is None else options.count(batch),
      )

    def place(number: int) -> StepInput | None:
      """Like `read`, on the devices."""
      inputs = read(number)
      return None if inputs is None else placer.to_devices(inputs)

    def run(state: TrainState, done: int) -> tuple[TrainState, int]:
      """Runs the steps of a call; none at the end of data."""
      num = options.steps_of_call(done, num_steps)
      found: list[StepInput] = []
      while len(found) < num and (inputs := read(done + len(found))):
        found.append(inputs if num == 1 else jax.tree.map(own_copy, inputs))
      stacked = stack(found) if 1 < len(found) == num else None
      if stacked is not None:
        inputs = placer.to_devices(stacked, is_stack=True)
        state, on_device = steps(state, inputs)
        pending.append((done + 1, on_device))
        return state, done + num
      for inputs in found:
        inputs = placer.to_devices(inputs)
        state, on_device = step(placer.with_new_rows(state), inputs)
        done += 1
        pending.append((done, on_device))
      return state, done

    def report(extra: Metrics | None = None, but: int = 0) -> bool:
      """Fetches metrics of all but the last `but` calls; False: stop."""
      nonlocal is_stopping
      goes_on = True
      while len(pending) > but:
        first, on_device = pending.pop(0)
        columns = [
          np.asarray(x, float).ravel().tolist() for x in on_device.values()
        ]
        each: list[Metrics] = [
          dict(zip(on_device, x, strict=True))
          for x in zip(*columns, strict=True)
        ]
        is_stopping |= any(x.pop('is_stopping') > 0 for x in each)
        valid = [x for x in each if x.pop('num_valid') > 0]
        if valid:
          reporter.tell_all(first, valid, None if pending else extra)
        goes_on &= len(valid) == len(each) and not is_stopping
      return goes_on

    while has_data and done < num_steps:
      before = done
      if rows_ahead is None:
        state, done = run(state, done)
      elif inputs := ahead or place(done):
        ahead = None
        if rows is None:
          rows = rows_ahead.fetch(state, inputs)
        if done + 1 < num_steps and not (
          options.is_pause(done + 1) or save_clock.is_look(done + 1)
        ):
          before_ahead = get_position(iterator)
          ahead = place(done + 1)
        state, on_device, rows = rows_ahead.step(
          state, inputs, rows, None if ahead is None else ahead.routing
        )
        done += 1
        pending.append((done, on_device))
      # A call is fetched while the next one runs: devices never wait.
      if done == before or not report(but=1):
        break
      is_pause = options.is_pause(done)
      if done < num_steps and (is_pause or save_clock.is_look(done)):
        extra = reporter.evaluate(done, state)
        # Reported before saving: a diverged state must not be saved.
        goes_on = report(extra)
        if save_clock.look(done) or is_pause:
          save(extra)
        if not goes_on:
          break
    report()
    if is_stopping:
      save()
      raise KeyboardInterrupt(f'stopped at step {int(state.step)}')
    number = int(state.step)
    save(reporter.evaluate_last(number, state) if number > start else None)
  return state
