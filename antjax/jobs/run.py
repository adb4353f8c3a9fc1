# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One training run: fit, progress, logs, early stopping, resume."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import math
import pathlib
from typing import Any

from absl import logging
import numpy as np

from antjax import config as config_lib
from antjax import paths
from antjax.jobs import distributed
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.training_config import FitConfig
from antjax.report import progress, watch
from antjax.shards import dataset
from antjax.train import checkpoint, checkpoint_folder
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer


def num_examples(batch: Mapping[str, Any]) -> int:
  """Number of examples of a batch: the sum of its weights."""
  return int(np.sum(batch['weight']))


class EarlyStopping:
  """Ends a run whose validation has not become better for long."""

  def __init__(self, patience: int, metric: str, mode: str):
    """Looks at one metric, 'validation_...'; a patience of 0 never ends."""
    self._patience, self._metric = patience, metric
    self._sign = -1 if mode == 'min' else 1
    self._best, self._num_worse = -math.inf, 0
    self._seen = -1
    self.best_step: int | None = None  # Of the best validation so far.

  @property
  def is_over(self) -> bool:
    return 0 < self._patience <= self._num_worse

  def see(self, step: int, values: Mapping[str, Any]) -> None:
    """Looks at a step's values, of which few have a validation.

    Raises:
      ValueError: The first validation has no such metric.
    """
    value = values.get(self._metric)
    if value is None and self._patience and self.best_step is None:
      found = [name for name in values if name.startswith('validation_')]
      if found:
        raise ValueError(
          f'best_metric={self._metric}: the validation examples give no such'
          f' number, so patience would never end; they give'
          f' {", ".join(found)}.'
        )
    if value is None or step <= self._seen:
      return
    self._seen = step
    value = -math.inf if math.isnan(value) else self._sign * value
    if self.best_step is None or value > self._best:
      self._best, self.best_step, self._num_worse = value, step, 0
      return
    self._num_worse += 1
    if value == self._best:  # On a tie the newest checkpoint is kept.
      self.best_step = step


class Run:
  """One training of a job; a second start with its folder resumes it.

  Attributes:
    num_steps: Steps of the run, if it does not stop early.
    start: Step of the newest checkpoint when the run was made; 0 without one.
  """

  def __init__(
    self,
    name: str,
    config: FitConfig,
    job: job_lib.Job,
    made_of: Mapping[str, Any],
    *,
    num_steps: int,
    best_mode: str = 'min',
    unit: str = 'examples',
    folder: pathlib.Path | None = None,
    models: Iterable[str] = ('.',),
    advice: str = '',
    free: Collection[str] = (),
  ):
    """Looks at what the folder holds.

    The progress bar shows `name` and counts in `unit`. The job's run folder
    gets the settings and `made_of`, the fingerprints of the inputs (see
    `identity`); `folder`, by default the same, gets log and checkpoints. A run
    that validates reads evaluate_every, patience and best_metric of the config
    too; `best_mode` is 'min' or 'max'. For `models`, `advice` and `free` see
    `identity`.

    Raises:
      ValueError: The run in the folder was made of something else, or with
        other settings.
    """
    self._name, self._job = name, job
    self._config: Any = config
    self._made_of, self.num_steps = made_of, num_steps
    self._best_mode = best_mode
    self._unit = unit
    self._folder = job.run_dir if folder is None else folder
    self._checkpoints = paths.origin(self._folder / paths.CHECKPOINTS)
    run_identity.check(job.run_dir, made_of, models=models, advice=advice)
    self.start = checkpoint.latest_step(self._checkpoints) or 0
    if self.start:
      run_identity.check_settings(job.run_dir, config, self.start, free)
    job.should_stop.how_to_resume = self._how_to_resume

  def fit(
    self,
    trainer: Trainer,
    state: TrainState,
    batches: Iterable[Any],
    evaluate_fn: Callable[[TrainState], dict[str, float]] | None = None,
    *,
    until: int | None = None,
    count_examples: Callable[[Any], int] = num_examples,
    line_of: Callable[[Mapping[str, float]], Mapping[str, float]] = dict,
    on_start: Callable[[], None] = lambda: None,
  ) -> TrainState:
    """Trains or resumes; returns the best state where patience asks for it.

    The state is fresh, from `Trainer.init`, and the batches of this process are
    endless. `evaluate_fn` scores a state, 'validation_...' by name; `until` is
    the step to stop at, None: `num_steps`; `line_of` makes a line of the log of
    a step's metrics; `on_start` is called on process 0 once the run is known to
    be resumable.

    Raises:
      KeyboardInterrupt: It was asked to stop; says how to resume it.
    """
    config, job = self._config, self._job
    start = checkpoint.latest_step(self._checkpoints) or 0
    early, validation = EarlyStopping(0, '', 'min'), dict[str, Any]()
    if evaluate_fn is not None:
      early = self._early_stopping(start)
      validation = {
        'evaluate_fn': evaluate_fn,
        'evaluate_every': config.evaluate_every,
        'best_metric': config.best_metric if config.patience else None,
        'best_mode': self._best_mode,
      }
    with self._full_disk_told(), contextlib.ExitStack() as stack:
      bar = stack.enter_context(
        progress.Progress(
          self.num_steps, start_step=start, name=self._name, unit=self._unit
        )
      )
      profile = stack.enter_context(
        watch.Profile(self._folder, job.watched.profile_steps)
      )
      profile.see(start)
      stack.enter_context(job.should_stop.deferred())
      log: progress.RunLog | None = None

      def on_step(step: int, values: Mapping[str, float]) -> None:
        nonlocal log
        profile.see(step)
        if log is None:  # The checkpoint, if any, fits: now files may change.
          job.save_config()
          if job.is_main:
            run_identity.save(job.run_dir, self._made_of)
            on_start()
          log = stack.enter_context(
            progress.RunLog(
              self._folder,
              resume_step=start,
              trackers=job.watched.trackers,
              config=config_lib.to_dict(config),
            )
          )
        bar.update(
          step,
          num_examples=values.get('num_examples', 0),  # None with a validation
          loss=values.get('loss'),  # after the last step.
        )
        early.see(step, values)
        log.write(step - 1, line_of(values))

      try:
        state = trainer.fit(
          state,
          batches,
          start if early.is_over else until or self.num_steps,
          checkpoint_dir=self._checkpoints,
          checkpoint_every=config.checkpoint_every,
          checkpoint_every_s=config.checkpoint_every_s,
          before_save=job.sync,  # Then no line of it is lost.
          steps_per_call=config.steps_per_call,
          config=dataclasses.asdict(config),
          merge_input_states=dataset.merge_states,
          count_examples=count_examples,
          on_step=on_step,
          should_stop=lambda: job.should_stop() or early.is_over,
          elastic=job.agent,
          **validation,
        )
      except KeyboardInterrupt as stop:
        if job.should_stop() or not early.is_over:
          raise KeyboardInterrupt(self._how_to_resume()) from stop
    if early.best_step is None or not config.patience:
      return state  # Or stopped before the first validation.
    del state  # Its memory is the restored one's.
    return self._best(trainer, early.best_step)

  @contextlib.contextmanager
  def _full_disk_told(self) -> Iterator[None]:
    """An error of a full disk names the disk, and what a checkpoint takes."""
    try:
      yield
    except Exception as error:
      if not paths.is_full(error) or 'make room' in str(error):
        raise
      newest = checkpoint.latest_step(self._checkpoints)
      size = 0
      if newest is not None and not paths.is_url(self._checkpoints):
        files = pathlib.Path(self._checkpoints, str(newest)).rglob('*')
        size = sum(file.stat().st_size for file in files)
      room = checkpoint_folder.room(self._folder, size)
      raise RuntimeError(f'{self._folder}: the disk is full. {room}') from error

  def _how_to_resume(self) -> str:
    """What a user who stopped the run wants to know."""
    step = checkpoint.latest_step(self._checkpoints)
    if step is None:
      text = (
        f'there is no checkpoint in {self._checkpoints} yet; the same command'
        f' starts {self._name} from its first step'
      )
    else:
      text = (
        f'the checkpoint of step {step} of {self.num_steps} is'
        f' {self._checkpoints}/{step}; the same command resumes from it'
      )
    return distributed.with_command(text)

  def _early_stopping(self, start: int) -> EarlyStopping:
    """With what the run so far has seen."""
    config = self._config
    early = EarlyStopping(config.patience, config.best_metric, self._best_mode)
    if start:
      for line in progress.read_metrics(self._folder / progress.METRICS_FILE):
        if line['step'] < start:
          early.see(line['step'] + 1, line)
    return early

  def _best(self, trainer: Trainer, step: int) -> TrainState:
    """The state of the best validation, from its checkpoint."""
    metric = self._config.best_metric
    with checkpoint.Checkpointer(
      self._checkpoints,
      trainer.layout,
      best_metric=metric,
      best_mode=self._best_mode,
    ) as saver:
      logging.info(
        'Early stopping: the best %s is that of step %s.', metric, step
      )
      return saver.restore(step)[0]
