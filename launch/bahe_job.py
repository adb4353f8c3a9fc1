# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The loops of launch/train_bahe.py: training, early stopping, scores."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import math
from typing import Any, TYPE_CHECKING

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr import evaluate
from antjax.ctr.bahe import tuning
from antjax.input import dataset
from antjax.train import checkpoint, progress
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer
from launch import auto_paro, bahe_memory, common, run_identity
from launch.bahe_data import Clicks
from launch.bahe_model import Built
from launch.early_stopping import EarlyStopping

if TYPE_CHECKING:
  from launch.train_bahe import Config

Scores = dict[str, float]


class BaheJob:
  """One run: a model, its trainer, and the loops.

  Attributes:
    num_steps: Steps of the run, if it does not stop early.
    memory: What was planned and what was compiled, for the report.
  """

  def __init__(
    self, config: 'Config', job: common.Job, clicks: Clicks, built: Built
  ):
    self._config, self._job, self._clicks = config, job, clicks
    self._model, self._built = built.model, built
    num_train = clicks.num_examples('train')
    self.num_steps = config.num_steps or max(
      1, round(config.num_epochs * num_train / config.batch_size)
    )
    is_trained = tuning.trainable(config.effective_tuning)
    self._tables = built.model.tables(job.mesh)
    dtype = jnp.dtype(config.compute_dtype)
    optimizer = config.optimizer.build(self.num_steps, tuning.is_lm)
    options: dict[str, Any] = {
      'num_micro_batches': config.num_micro_batches,
      'compute_dtype': None if dtype == jnp.float32 else dtype,
      'trainable': is_trained,
      'scanned': lambda name: '.layers.' in name,
      'min_shard_size': config.min_shard_size,
    }
    paro = auto_paro.choose_paro(
      config.paro,
      built.params,
      optimizer,
      job.mesh,
      links_file=config.links,
      activation_bytes=bahe_memory.activation_bytes(
        config, built.model, clicks
      ),
      elastic_only=clicks.is_elastic,
      **options,
    )
    self.trainer = Trainer(
      self._loss,
      optimizer,
      mesh=job.mesh,
      paro=paro,
      collectives=config.collectives,
      tables=self._tables,
      constants=built.constants,
      **options,
    )
    self._early = EarlyStopping(
      config.patience,
      config.best_metric,
      evaluate.best_mode(config.best_metric),
    )
    self.memory: dict[str, Any] = {}

  # What the Trainer calls.

  def _vectors(self, rows: Any, batch: Mapping[str, Any]) -> Any:
    assert self._tables is not None
    return self._tables.lookup(rows, batch['ids'])

  def _loss(self, params: Any, *rest: Any) -> tuple[jax.Array, jax.Array]:
    *rows, batch, _ = rest
    vectors = self._vectors(rows[0], batch) if rows else {}
    return self._model.loss(params, vectors, batch)

  @functools.cached_property
  def _predict(self) -> Callable[..., Mapping[str, jax.Array]]:
    """One function for all calls: it is compiled once."""

    def predict(params: Any, *rest: Any) -> dict[str, jax.Array]:
      *rows, batch, _ = rest
      vectors = self._vectors(rows[0], batch) if rows else {}
      return {
        'prediction': self._model.logits(params, vectors, batch),
        'group': batch['user'],
        **{name: batch[name] for name in ('label', 'weight')},
        **{name: batch[name] for name in ('is_new_user', 'is_new_item')},
      }

    return predict

  # Training.

  def fit(self) -> TrainState:
    """Trains, or goes on, in the run folder; the state is the best one."""
    config, run_dir = self._config, self._job.run_dir
    checkpoints = (run_dir / 'checkpoints').absolute()
    run_identity.check(run_dir, self._built.made_of)
    start = checkpoint.latest_step(checkpoints) or 0
    state = self.trainer.init(self._built.params, seed=config.seed)
    self.memory = bahe_memory.account(
      config, self.trainer, state, self._model, self._clicks, self._built
    )
    if self._job.is_main:
      bahe_memory.print_table(self.memory)
    if start:
      lines = progress.read_metrics(run_dir / progress.METRICS_FILE)
      for line in lines:
        if line['step'] < start:
          self._early.see(line['step'] + 1, line)
    num_steps = start if self._early.is_over else self.num_steps
    with contextlib.ExitStack() as stack:
      bar = stack.enter_context(
        progress.Progress(self.num_steps, start_step=start, name='bahe')
      )
      stack.enter_context(self._job.should_stop.deferred())
      log: progress.RunLog | None = None

      def on_step(step: int, values: Mapping[str, float]) -> None:
        nonlocal log
        if log is None:  # The checkpoint, if any, fits: now files may change.
          self._job.save_config()
          if self._job.is_main:
            run_identity.save(run_dir, self._built.made_of)
          log = stack.enter_context(progress.RunLog(run_dir, resume_step=start))
        bar.update(
          step,
          num_examples=values.get('num_examples', 0),  # None with a validation
          loss=values.get('loss'),  # after the last step.
        )
        self._early.see(step, values)
        log.write(step - 1, values)

      try:
        state = self.trainer.fit(
          state,
          self._clicks.training(self._model.prepare),
          num_steps,
          checkpoint_dir=str(checkpoints),
          checkpoint_every=config.checkpoint_every,
          best_metric=config.best_metric if config.patience else None,
          best_mode=evaluate.best_mode(config.best_metric),
          evaluate_fn=self.validate,
          evaluate_every=config.evaluate_every,
          config=dataclasses.asdict(config),
          merge_input_states=dataset.merge_states,
          count_examples=lambda batch: int(np.sum(batch['weight'])),
          on_step=on_step,
          should_stop=self._should_stop,
          elastic=self._job.agent,
        )
      except KeyboardInterrupt:
        if self._job.should_stop() or not self._early.is_over:
          raise
    return self._best(state, checkpoints) if config.patience else state

  def _should_stop(self) -> bool:
    return self._job.should_stop() or self._early.is_over

  def _best(self, state: TrainState, checkpoints: Any) -> TrainState:
    """The state of the best validation, from its checkpoint."""
    step = self._early.best_step
    if step is None:  # Stopped before the first validation.
      return state
    del state  # Its memory is the restored one's.
    with checkpoint.Checkpointer(
      str(checkpoints),
      self.trainer.layout,
      self.trainer.optimizer,
      self._tables,
      best_metric=self._config.best_metric,
      best_mode=evaluate.best_mode(self._config.best_metric),
    ) as saver:
      logging.info(
        'Early stopping: the best %s is that of step %s.',
        self._config.best_metric,
        step,
      )
      return saver.restore(step)[0]

  # Scores.

  def validate(self, state: TrainState) -> Scores:
    """Scores of the validation examples, named 'validation_auc' and so on."""
    found = self.scores(state, 'validation')
    # A slice without examples has no scores.
    return {
      f'validation_{name}': x for name, x in found.items() if math.isfinite(x)
    }

  def scores(self, state: TrainState, split: str, title: str = '') -> Scores:
    """Scores of a split by name; see `antjax.ctr.evaluate`.

    Args:
      state: To score.
      split: Its name.
      title: Of a progress bar; '': none.
    """
    return self.trainer.evaluate(
      state,
      self._clicks.evaluation(split, self._model.prepare, title=title),
      self._predict,
      evaluate.click_metrics(),
    )
