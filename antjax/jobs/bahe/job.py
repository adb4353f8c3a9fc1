# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a click model on long textual behaviour (BAHE), and its baselines.

  python -m launch.prepare_data --views=examples
  python -m launch.fetch_model
  python -m launch.build_behavior_store
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_bahe.py --flagfile=launch/recipes/bahe_ml1m.flags

A behaviour's vector comes from the store; only the language model's high layers
and the head are trained, under any PaRO code. --tower chooses what BAHE is
compared with (docs/bahe.md). The run folder gets checkpoints, metrics.jsonl,
TensorBoard events, results.json, report.html. The same command resumes a
stopped run.
"""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any

import jax

from antjax.ctr import tuning
from antjax.jobs import job as job_lib
from antjax.jobs import memory_table
from antjax.jobs import run as run_lib
from antjax.jobs.bahe import memory as bahe_memory
from antjax.jobs.bahe import model as bahe_model
from antjax.jobs.bahe import report as bahe_report
from antjax.jobs.bahe import users as bahe_users
from antjax.jobs.bahe.config import Config
from antjax.jobs.bahe.data import Clicks
from antjax.jobs.bahe.model import Built
from antjax.metrics import click_metrics
from antjax.train.state import TrainState

Scores = dict[str, float]


def main(config: Config) -> None:
  train(config, job_lib.start(config))


def train(config: Config, job: job_lib.Job) -> dict[str, dict[str, float]]:
  """Trains, scores, exports and reports; returns the scores by split."""
  clicks = Clicks(config, job)
  built = bahe_model.build(config, job, clicks)
  bahe = BaheJob(config, job, clicks, built)
  state = bahe.fit()
  scores = {
    split: bahe.scores(state, split, f'score {split}')
    for split in ('validation', 'test')
  }
  if config.export_users:
    bahe_users.export(job.run_dir, bahe.trainer, state, clicks, built.model)
  if job.is_main:
    bahe_report.write(
      config, job, clicks.description, bahe.trainer, bahe.memory, scores
    )
  return scores


class BaheJob:
  """One run: a model, its trainer, and the loops.

  Attributes:
    num_steps: Steps of the run, if it does not stop early.
    memory: Planned and compiled memory, for the report.
  """

  def __init__(
    self, config: Config, job: job_lib.Job, clicks: Clicks, built: Built
  ):
    self._config, self._job, self._clicks = config, job, clicks
    self._model, self._built = built.model, built
    self.num_steps = config.steps_for(clicks.num_examples('train'))
    self._tables = built.model.tables(job.mesh)
    self._activation_bytes = bahe_memory.activation_bytes(
      config, built.model, clicks
    )
    self.trainer = run_lib.make_trainer(
      config,
      job,
      self._loss,
      config.optimizer.build(self.num_steps, tuning.is_lm),
      built.params,
      compute_dtype=config.compute_dtype,
      trainable=tuning.trainable(config.effective_tuning),
      scanned=run_lib.is_stack,
      activation_bytes=self._activation_bytes,
      tables=self._tables,
      constants=built.constants,
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

  def fit(self) -> TrainState:
    """Trains or resumes; the state is the best one."""
    config = self._config
    run = run_lib.Run(
      'bahe',
      config,
      self._job,
      self._built.made_of,
      num_steps=self.num_steps,
      best_mode=click_metrics.best_mode(config.best_metric),
    )
    state = self.trainer.init(self._built.params, seed=config.seed)
    built, clicks = self._built, self._clicks
    is_checked = config.check_memory and not clicks.is_elastic
    self.memory = memory_table.account(
      self.trainer,
      state,
      activations=self._activation_bytes,
      frozen_share=tuning.frozen_share(
        built.params,
        tuning.trainable(config.effective_tuning),
        built.num_absent,
      ),
      batch_fn=(lambda: clicks.example(self._model.prepare))
      if is_checked
      else None,
      table=built.table_bytes,
      table_level=built.table_level,
      num_absent=built.num_absent,
    )
    if self._job.is_main:
      memory_table.print_table(self.memory)
    batches = self._clicks.training(self._model.prepare)
    return run.fit(self.trainer, state, batches, self.validate)

  # Scores.

  def validate(self, state: TrainState) -> Scores:
    """Scores of the validation examples, named 'validation_auc' and so on."""
    found = self.scores(state, 'validation')
    # A slice without examples has no scores.
    return {
      f'validation_{name}': x for name, x in found.items() if math.isfinite(x)
    }

  def scores(self, state: TrainState, split: str, title: str = '') -> Scores:
    """Scores of a split by name; see `antjax.metrics.click_metrics`.

    Args:
      state: State to score.
      split: Its name.
      title: Title of the progress bar; '': no bar.
    """
    return self.trainer.evaluate(
      state,
      self._clicks.evaluation(split, self._model.prepare, title=title),
      self._predict,
      click_metrics.click_metrics(),
    )
