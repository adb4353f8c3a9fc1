# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The loops of launch/train_llm_rec.py: training, early stopping, scores."""

from collections.abc import Mapping
import contextlib
import dataclasses
import time
from typing import Any, TYPE_CHECKING

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr.llm_rec import evaluation, rank_metrics, tuning
from antjax.ctr.llm_rec.vectors import VectorEncoder
from antjax.input import dataset
from antjax.train import checkpoint, progress
from antjax.train.batches import gather_bytes
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer
from launch import (
  auto_paro,
  common,
  llm_rec_held_out,
  llm_rec_memory,
  run_identity,
)
from launch.early_stopping import EarlyStopping
from launch.llm_rec_data import Sequences
from launch.llm_rec_held_out import HeldOut
from launch.llm_rec_model import Built

if TYPE_CHECKING:
  from launch.train_llm_rec import Config

BEST_MODE = 'max'  # Of recall and NDCG.
Ranks = dict[str, np.ndarray]


class LLMRecJob:
  """One run: a model, its trainer, and the loops.

  Attributes:
    num_steps: Steps of the run, if it does not stop early.
    memory: What was planned and what was compiled, for the report.
    speed: Rates of evaluation, for the report.
  """

  def __init__(
    self,
    config: 'Config',
    job: common.Job,
    sequences: Sequences,
    built: Built,
  ):
    self._config, self._job = config, job
    self._sequences, self._built = sequences, built
    num_train = len(sequences.source)
    self.num_steps = config.num_steps or max(
      1, round(config.num_epochs * num_train / config.batch_size)
    )
    optimizer = config.optimizer.build(self.num_steps, tuning.is_lm)
    dtype = jnp.dtype(config.compute_dtype)
    shared: dict[str, Any] = {
      'num_micro_batches': config.num_micro_batches,
      'compute_dtype': None if dtype == jnp.float32 else dtype,
      'trainable': tuning.trainable(config.tuning),
      'scanned': lambda name: '.layers.' in name,
      'min_shard_size': config.min_shard_size,
    }
    self._activation_bytes = llm_rec_memory.activation_bytes(
      config, built.model, sequences.inputs
    )
    paro = auto_paro.choose_paro(
      config.paro,
      built.params,
      optimizer,
      job.mesh,
      links_file=config.links,
      activation_bytes=self._activation_bytes,
      elastic_only=job.agent is not None,
      **shared,
    )
    self.trainer = Trainer(
      lambda params, batch, rng: built.model.loss(params, batch),
      optimizer,
      mesh=job.mesh,
      paro=paro,
      collectives=config.collectives,
      **shared,
    )
    self._early = EarlyStopping(config.patience, config.best_metric, BEST_MODE)
    self._encoder: VectorEncoder | None = None
    validation = dataclasses.replace(
      config.held_out, num_examples=config.validation_examples, num_cold=0
    )
    self._validation, _ = llm_rec_held_out.held_out(
      sequences.data, 'validation', validation
    )
    self.memory: dict[str, Any] = {}
    self.speed: dict[str, float] = {}

  # Training.

  def fit(self) -> TrainState:
    """Trains, or goes on, in the run folder; the state is the best one."""
    config, run_dir = self._config, self._job.run_dir
    checkpoints = (run_dir / 'checkpoints').absolute()
    run_identity.check(run_dir, self._built.made_of)
    start = checkpoint.latest_step(checkpoints) or 0
    state = self.trainer.init(self._built.params, seed=config.seed)
    self.memory = llm_rec_memory.account(
      config,
      self.trainer,
      state,
      self._sequences,
      self._built,
      self._activation_bytes,
    )
    if self._job.is_main:
      llm_rec_memory.print_table(self.memory)
    if start:
      for line in progress.read_metrics(run_dir / progress.METRICS_FILE):
        if line['step'] < start:
          self._early.see(line['step'] + 1, line)
    num_steps = start if self._early.is_over else self.num_steps
    with contextlib.ExitStack() as stack:
      bar = stack.enter_context(
        progress.Progress(self.num_steps, start_step=start, name='llm_rec')
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
          num_examples=values.get('num_examples', 0),
          loss=values.get('loss'),
        )
        self._early.see(step, values)
        log.write(step - 1, values)

      try:
        state = self.trainer.fit(
          state,
          self._sequences.training(),
          num_steps,
          checkpoint_dir=str(checkpoints),
          checkpoint_every=config.checkpoint_every,
          best_metric=config.best_metric if config.patience else None,
          best_mode=BEST_MODE,
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
      None,
      best_metric=self._config.best_metric,
      best_mode=BEST_MODE,
    ) as saver:
      logging.info(
        'Early stopping: the best %s is that of step %s.',
        self._config.best_metric,
        step,
      )
      return saver.restore(step)[0]

  # Scores.

  def vectors(self, state: TrainState) -> VectorEncoder:
    """The model of a state with the vectors of all items.

    Each process encodes its share of the items, once; all get all of them.
    """
    params = jax.tree.map(_host, self.trainer.params(state))
    if self._encoder is None:
      self._encoder = VectorEncoder(
        self._built.model,
        params,
        self._built.texts,
        max_history=self._config.max_history,
        compute_dtype=jnp.dtype(self._config.compute_dtype),
      )
    else:
      self._encoder.hold(params)
    num_items = self._sequences.data.num_items
    start = time.perf_counter()
    mine = np.arange(jax.process_index(), num_items, jax.process_count())
    found = self._encoder.items(mine)
    vectors = np.zeros((num_items, self._encoder.dim), np.float32)
    for i, part in enumerate(gather_bytes(found.tobytes())):
      rows = np.frombuffer(part, np.float32).reshape(-1, self._encoder.dim)
      vectors[i :: jax.process_count()] = rows
    self._encoder.hold_items(vectors)
    self.speed['items/s'] = num_items / (time.perf_counter() - start)
    return self._encoder

  def validate(self, state: TrainState) -> dict[str, float]:
    """Scores among drawn items, named 'validation_ndcg@10' and so on."""
    ranks = self.ranks(self.vectors(state), self._validation, with_full=False)
    parts = rank_metrics.scores(
      ranks[evaluation.SAMPLED], self._validation.parts
    )
    return {
      f'validation_{name}': value
      for name, value in parts[rank_metrics.ALL].items()
      if '@' in name and not name.endswith(rank_metrics.ERROR)
    }

  def ranks(
    self, model: VectorEncoder, held_out: HeldOut, *, with_full: bool = True
  ) -> Ranks:
    """Ranks of all examples; each process ranks its share of them."""
    start = time.perf_counter()
    index, count = jax.process_index(), jax.process_count()
    mine = np.arange(index, len(held_out), count)
    found = evaluation.ranks(
      model, held_out.examples.take(mine), with_full=with_full
    )
    whole = {}
    for kind, values in found.items():
      whole[kind] = np.zeros(len(held_out), np.int32)
      for i, part in enumerate(gather_bytes(values.tobytes())):
        whole[kind][i::count] = np.frombuffer(part, np.int32)
    self.speed['ranked users/s'] = len(held_out) / (time.perf_counter() - start)
    return whole


def _host(x: jax.Array) -> np.ndarray:
  """An array that every device has whole."""
  return np.asarray(x.addressable_data(0))
