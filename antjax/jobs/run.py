# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training in a run folder: goes on where it stopped, takes the best step."""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import dataclasses
import re
from typing import Any, Protocol

from absl import logging
import jax.numpy as jnp
import numpy as np
import optax

from antjax.embedding.table import EmbeddingTables
from antjax.jobs import auto_paro
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.early_stopping import EarlyStopping
from antjax.jobs.training_config import ExamplesConfig
from antjax.lm import attention
from antjax.report import progress
from antjax.shards import dataset
from antjax.train import checkpoint
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer


class Config(Protocol):
  """What a job's config must have; its class is a dataclass."""

  @property
  def evaluate_every(self) -> int: ...
  @property
  def checkpoint_every(self) -> int: ...
  @property
  def patience(self) -> int: ...
  @property
  def best_metric(self) -> str: ...


class TrainingRun:
  """Of a trainer; the run folder gets checkpoints, metrics and the config."""

  def __init__(
    self,
    name: str,
    config: Config,
    job: job_lib.Job,
    trainer: Trainer,
    *,
    num_steps: int,
    made_of: Mapping[str, Any],
    best_mode: str,
    tables: EmbeddingTables | None = None,
  ):
    """Looks at what the folder holds.

    Args:
      name: Of the progress bar.
      config: The job's.
      job: With the run folder.
      trainer: The trainer.
      num_steps: Steps of the run, if it does not stop early.
      made_of: See `run_identity`.
      best_mode: 'min' or 'max', what better means.
      tables: The trainer's.

    Raises:
      ValueError: The folder's run was made of something else.
    """
    self._name, self._config, self._job = name, config, job
    self._trainer, self._tables = trainer, tables
    self._num_steps, self._made_of = num_steps, made_of
    self._best_mode = best_mode
    self._checkpoints = (job.run_dir / 'checkpoints').absolute()
    run_identity.check(job.run_dir, made_of)
    self._start = checkpoint.latest_step(self._checkpoints) or 0
    self._early = EarlyStopping(config.patience, config.best_metric, best_mode)
    if self._start:
      for line in progress.read_metrics(job.run_dir / progress.METRICS_FILE):
        if line['step'] < self._start:
          self._early.see(line['step'] + 1, line)

  def fit(
    self,
    state: TrainState,
    batches: Iterable[Any],
    evaluate_fn: Callable[[TrainState], dict[str, float]],
  ) -> TrainState:
    """Trains, or goes on; returns the best state where patience asks for it.

    Args:
      state: Fresh, from `Trainer.init`.
      batches: Endless, each with 'weight'.
      evaluate_fn: Scores of a state, 'validation_...' by name.
    """
    config, job, start = self._config, self._job, self._start
    num_steps = start if self._early.is_over else self._num_steps
    with contextlib.ExitStack() as stack:
      bar = stack.enter_context(
        progress.Progress(self._num_steps, start_step=start, name=self._name)
      )
      stack.enter_context(job.should_stop.deferred())
      log: progress.RunLog | None = None

      def on_step(step: int, values: Mapping[str, float]) -> None:
        nonlocal log
        if log is None:  # The checkpoint, if any, fits: now files may change.
          job.save_config()
          if job.is_main:
            run_identity.save(job.run_dir, self._made_of)
          log = stack.enter_context(
            progress.RunLog(job.run_dir, resume_step=start)
          )
        bar.update(
          step,
          num_examples=values.get('num_examples', 0),  # None with a validation
          loss=values.get('loss'),  # after the last step.
        )
        self._early.see(step, values)
        log.write(step - 1, values)

      try:
        state = self._trainer.fit(
          state,
          batches,
          num_steps,
          checkpoint_dir=str(self._checkpoints),
          checkpoint_every=config.checkpoint_every,
          best_metric=config.best_metric if config.patience else None,
          best_mode=self._best_mode,
          evaluate_fn=evaluate_fn,
          evaluate_every=config.evaluate_every,
          config=dataclasses.asdict(config),  # type: ignore[call-overload]
          merge_input_states=dataset.merge_states,
          count_examples=lambda batch: int(np.sum(batch['weight'])),
          on_step=on_step,
          should_stop=lambda: job.should_stop() or self._early.is_over,
          elastic=job.agent,
        )
      except KeyboardInterrupt:
        if job.should_stop() or not self._early.is_over:
          raise
    return self._best(state) if config.patience else state

  def _best(self, state: TrainState) -> TrainState:
    """The state of the best validation, from its checkpoint."""
    step = self._early.best_step
    if step is None:  # Stopped before the first validation.
      return state
    del state  # Its memory is the restored one's.
    metric = self._config.best_metric
    with checkpoint.Checkpointer(
      str(self._checkpoints),
      self._trainer.layout,
      self._trainer.optimizer,
      self._tables,
      best_metric=metric,
      best_mode=self._best_mode,
    ) as saver:
      logging.info(
        'Early stopping: the best %s is that of step %s.', metric, step
      )
      return saver.restore(step)[0]


def is_stack(name: str) -> bool:
  """Whether a leaf holds a language model's layers, for `scanned`.

  Not the layers of a Flax module, which have numbers and stand apart.
  """
  return re.search(r'\.layers\.(?!\d)', name) is not None


def make_trainer(
  config: ExamplesConfig,
  job: job_lib.Job,
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  params: Any,
  *,
  trainable: Callable[[str], bool] | None = None,
  scanned: Callable[[str], bool] | None = None,
  activation_bytes: int,
  tables: EmbeddingTables | None = None,
  constants: Any = None,
) -> Trainer:
  """The trainer that a config asks for.

  Args:
    config: The job's.
    job: With the mesh; under an agent --paro=auto takes elastic codes only.
    loss_fn: See `Trainer`.
    optimizer: See `Trainer`.
    params: Tree of the parameters, for --paro=auto.
    trainable: See `Trainer`.
    scanned: See `Trainer`.
    activation_bytes: At the peak of a micro-batch, for --paro=auto.
    tables: See `Trainer`.
    constants: See `Trainer`.
  """
  dtype = jnp.dtype(config.compute_dtype)
  options: dict[str, Any] = {
    'num_micro_batches': config.num_micro_batches,
    'compute_dtype': None if dtype == jnp.float32 else dtype,
    'trainable': trainable,
    'scanned': scanned,
    'min_shard_size': config.min_shard_size,
  }
  paro = auto_paro.choose_paro(
    config.paro,
    params,
    optimizer,
    job.mesh,
    links_file=config.links,
    activation_bytes=activation_bytes,
    elastic_only=job.agent is not None,
    **options,
  )
  return Trainer(
    loss_fn,
    optimizer,
    mesh=job.mesh,
    paro=paro,
    collectives=config.collectives,
    tables=tables,
    constants=constants,
    # Stacks are those of language models.
    check_vma=scanned is None or attention.check_vma(job.mesh),
    **options,
  )
