# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One training in its folder: fit, progress, log, early stopping, resume."""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import dataclasses
import pathlib
import re
from typing import Any

from absl import logging
import jax.numpy as jnp
import numpy as np
import optax

from antjax.collectives import choose
from antjax.jobs import auto_paro
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.early_stopping import EarlyStopping
from antjax.jobs.training_config import TrainingConfig
from antjax.lm import attention
from antjax.report import progress
from antjax.shards import dataset
from antjax.train import checkpoint
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer


def num_examples(batch: Mapping[str, Any]) -> int:
  """Number of examples of a batch: the sum of its weights."""
  return int(np.sum(batch['weight']))


class Run:
  """One training of a job; a second start with its folder resumes it.

  Attributes:
    num_steps: Steps of the run, if it does not stop early.
    start: Step of the newest checkpoint when the run was made; 0 without one.
  """

  def __init__(
    self,
    name: str,
    config: Any,
    job: job_lib.Job,
    made_of: Mapping[str, Any],
    *,
    num_steps: int,
    best_mode: str = 'min',
    unit: str = 'examples',
    folder: pathlib.Path | None = None,
    models: Iterable[str] = ('.',),
    advice: str = '',
  ):
    """Looks at what the folder holds.

    Args:
      name: Name on the progress bar.
      config: Settings of the job, a dataclass with checkpoint_every; a run that
        validates reads evaluate_every, patience and best_metric too.
      job: The job; its run folder gets the settings and `made_of`.
      made_of: Fingerprints of the run's inputs, see `identity`.
      num_steps: Steps of the run, if it does not stop early.
      best_mode: 'min' or 'max', what better means of `config.best_metric`.
      unit: Unit that the progress bar counts.
      folder: Folder of log and checkpoints; None: the job's.
      models: Folders in the job's run folder that may hold checkpoints.
      advice: See `identity.check`.

    Raises:
      ValueError: The run in the folder was made of something else.
    """
    self._name, self._config, self._job = name, config, job
    self._made_of, self.num_steps = made_of, num_steps
    self._best_mode = best_mode
    self._unit = unit
    self._folder = job.run_dir if folder is None else folder
    self._checkpoints = (self._folder / 'checkpoints').absolute()
    run_identity.check(job.run_dir, made_of, models=models, advice=advice)
    self.start = checkpoint.latest_step(self._checkpoints) or 0

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

    Args:
      trainer: The trainer.
      state: Fresh, from `Trainer.init`.
      batches: Endless batches of this process.
      evaluate_fn: Scores of a state, 'validation_...' by name.
      until: Step to stop at; None: `num_steps`.
      count_examples: See `FitOptions`.
      line_of: Metrics of a step -> its line in the log.
      on_start: Called on process 0 once it is sure that the run can be resumed.
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
    with contextlib.ExitStack() as stack:
      bar = stack.enter_context(
        progress.Progress(
          self.num_steps, start_step=start, name=self._name, unit=self._unit
        )
      )
      stack.enter_context(job.should_stop.deferred())
      log: progress.RunLog | None = None

      def on_step(step: int, values: Mapping[str, float]) -> None:
        nonlocal log
        if log is None:  # The checkpoint, if any, fits: now files may change.
          job.save_config()
          if job.is_main:
            run_identity.save(job.run_dir, self._made_of)
            on_start()
          log = stack.enter_context(
            progress.RunLog(self._folder, resume_step=start)
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
          checkpoint_dir=str(self._checkpoints),
          checkpoint_every=config.checkpoint_every,
          config=dataclasses.asdict(config),
          merge_input_states=dataset.merge_states,
          count_examples=count_examples,
          on_step=on_step,
          should_stop=lambda: job.should_stop() or early.is_over,
          elastic=job.agent,
          **validation,
        )
      except KeyboardInterrupt:
        if job.should_stop() or not early.is_over:
          raise
    if early.best_step is None or not config.patience:
      return state  # Or stopped before the first validation.
    del state  # Its memory is the restored one's.
    return self._best(trainer, early.best_step)

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
      str(self._checkpoints),
      trainer.layout,
      best_metric=metric,
      best_mode=self._best_mode,
    ) as saver:
      logging.info(
        'Early stopping: the best %s is that of step %s.', metric, step
      )
      return saver.restore(step)[0]


def is_stack(name: str) -> bool:
  """Whether a leaf holds a language model's layers, for `scanned`.

  Not the layers of a Flax module, which have numbers and are separate.
  """
  return re.search(r'\.layers\.(?!\d)', name) is not None


def make_trainer(
  config: TrainingConfig,
  job: job_lib.Job,
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  params: Any,
  *,
  compute_dtype: str = 'float32',
  activation_bytes: int = 0,
  compute_s: float = 0.0,
  device_bytes: int | None = None,
  trainable: Callable[[str], bool] | None = None,
  scanned: Callable[[str], bool] | None = None,
  regather: bool = True,
  **options: Any,
) -> Trainer:
  """The trainer that a job's settings ask for.

  Args:
    config: Settings of the job.
    job: The job; under an agent --paro=auto takes elastic codes only.
    loss_fn: See `Trainer`.
    optimizer: See `Trainer`.
    params: Tree of the parameters or of their shapes, for --paro=auto.
    compute_dtype: Name of the dtype; float16 scales the loss.
    activation_bytes: Bytes of activations at the peak of a micro-batch, for
      --paro=auto.
    compute_s: See `auto_paro.choose_paro`.
    device_bytes: See `auto_paro.choose_paro`.
    trainable: See `Trainer`.
    scanned: See `Trainer`.
    regather: See `Trainer`.
    **options: Further ones of `Trainer`.
  """
  dtype = jnp.dtype(compute_dtype)
  shared: dict[str, Any] = {
    'num_micro_batches': config.num_micro_batches,
    'compute_dtype': None if dtype == jnp.float32 else dtype,
    'trainable': trainable,
    'scanned': scanned,
    'regather': regather,
    'min_shard_size': config.min_shard_size,
  }
  links = None
  if config.collectives == 'auto':
    links = auto_paro.links_of(job.mesh, config.links)
  paro = auto_paro.choose_paro(
    config.paro,
    params,
    optimizer,
    job.mesh,
    links_file=config.links,
    activation_bytes=activation_bytes,
    compute_s=compute_s,
    device_bytes=device_bytes,
    # Under agents groups do unequal numbers of micro-batches.
    elastic_only=job.agent is not None,
    **shared,
  )
  return Trainer(
    loss_fn,
    optimizer,
    mesh=job.mesh,
    paro=paro,
    collectives=choose.for_mesh(config.collectives, job.mesh, links=links),
    loss_scale='dynamic' if dtype == jnp.float16 else None,
    # Stacks are those of language models.
    check_vma=scanned is None or attention.check_vma(job.mesh),
    **shared,
    **options,
  )
