# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop behind `Trainer.fit`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import math
import time
from typing import Any, TYPE_CHECKING

import jax

from antjax.train.batches import Feed, get_position, set_position
from antjax.train.checkpoint import Checkpointer
from antjax.train.state import PyTree, TrainState

if TYPE_CHECKING:
  from antjax.train.trainer import Trainer

Metrics = dict[str, float]
# Halved so often, the loss itself must be at fault.
_LEAST_LOSS_SCALE = 2.0**-14


def fit(
  trainer: 'Trainer',
  state: TrainState,
  batches: Iterable[PyTree],
  num_steps: int,
  *,
  checkpoint_dir: str | None,
  checkpoint_every: int,
  keep: int,
  best_metric: str | None,
  best_mode: str,
  evaluate_fn: Callable[[TrainState], Metrics] | None,
  evaluate_every: int,
  config: Mapping[str, Any] | None,
  merge_input_states: Callable[[list[Any]], Any] | None,
  num_micro_batches_fn: Callable[[int], Sequence[int]] | None,
  count_examples: Callable[[PyTree], int] | None,
  on_step: Callable[[int, Metrics], None] | None,
  should_stop: Callable[[], bool] | None,
) -> TrainState:
  """See `Trainer.fit`."""
  if best_metric is not None and evaluate_fn is None:
    raise ValueError(
      f'Trainer.fit(best_metric={best_metric!r}) needs an evaluate_fn that'
      ' gives it.'
    )
  iterator = iter(batches)
  with contextlib.ExitStack() as stack:
    saver = None
    if checkpoint_dir is not None:
      saver = stack.enter_context(
        Checkpointer(
          checkpoint_dir,
          trainer.layout,
          trainer.optimizer,
          trainer.tables,
          keep=keep,
          best_metric=best_metric,
          best_mode=best_mode,
        )
      )
      if saver.latest_step() is not None:
        state, positions = saver.restore()
        set_position(iterator, positions, merge_input_states)
    start = done = int(state.step)
    # The feed reads a batch ahead of the first step.
    start_position = get_position(iterator)
    feed, clock = Feed(iterator), _Clock()
    has_data = done < num_steps and feed.open()
    is_stopping = False
    pending: tuple[int, Any] | None = None  # Dispatched, not yet fetched.

    def save(metrics: Metrics | None = None) -> None:
      if saver is not None and saver.latest_step() != int(state.step):
        saver.save(
          int(state.step),
          state,
          input_state=start_position
          if done == start
          else get_position(iterator),
          config=config,
          metrics=metrics,
        )

    def report(item: tuple[int, Any], extra: Metrics | None = None) -> bool:
      """Fetches a step's metrics; False if training is to end here."""
      nonlocal is_stopping
      number, on_device = item
      values = {k: float(v) for k, v in jax.device_get(on_device).items()}
      is_stopping = values.pop('is_stopping') > 0
      has_data = values.pop('num_valid') > 0
      values['num_examples'] = values['num_examples'] or values['weight']
      values |= clock.tick(values['num_examples'])
      if has_data and on_step is not None:
        on_step(number, values | (extra or {}))
      # A gradient that overflows is what a dynamic loss scale is for.
      is_scaling = values.get('loss_scale', 0) > _LEAST_LOSS_SCALE
      norm = 0 if is_scaling else values['grad_norm']
      if not math.isfinite(values['loss'] + norm):
        raise RuntimeError(
          f'Trainer.fit: the loss of step {number} is {values["loss"]}, the'
          f' norm of its gradient {values["grad_norm"]}: the parameters are'
          ' lost. Go on from the newest checkpoint'
          f' ({checkpoint_dir}) with a smaller learning rate or gradient'
          ' clipping, and look at the data of that step.'
        )
      return has_data and not is_stopping

    while has_data and done < num_steps:
      batch = feed.next()
      if batch is None and jax.process_count() == 1:
        break
      inputs = trainer.placer.place(
        feed.filler() if batch is None else batch,
        counts=num_micro_batches_fn(done) if num_micro_batches_fn else None,
        is_valid=batch is not None,
        is_stopping=should_stop is not None and should_stop(),
        num_examples=0
        if batch is None or count_examples is None
        else count_examples(batch),
      )
      state, on_device = trainer.compiled_step()(state, inputs)
      done += 1
      # Step n - 1 is fetched while step n runs: the devices never wait.
      older, pending = pending, (done, on_device)
      if older is not None and not report(older):
        break
      is_evaluation = evaluate_every and done % evaluate_every == 0
      if done < num_steps and (is_evaluation or done % checkpoint_every == 0):
        extra = evaluate_fn(state) if is_evaluation and evaluate_fn else None
        # Reported before it is saved: a lost state must not be.
        goes_on, pending = report(pending, extra), None
        save(extra)
        if not goes_on:
          break
    if pending is not None:
      report(pending)
    if is_stopping:
      save()
      raise KeyboardInterrupt(f'stopped at step {int(state.step)}')
    final: Metrics | None = None
    if evaluate_fn and int(state.step) > start:
      final = evaluate_fn(state)
      if on_step is not None:
        on_step(int(state.step), final)
    save(final)
  return state


class _Clock:
  """Examples per second between reports; silent on the first (compilation)."""

  def __init__(self) -> None:
    self._last: float | None = None

  def tick(self, num_examples: float) -> Metrics:
    now, last = time.perf_counter(), self._last
    self._last = now
    if last is None:
      return {}
    return {'examples_per_s': num_examples / (now - last)}
