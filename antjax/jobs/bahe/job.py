# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a click model on long textual behavior (BAHE), and its baselines.

  python -m launch.prepare_data --views=examples
  python -m launch.fetch_model
  python -m launch.build_behavior_store
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_bahe.py --flagfile=launch/recipes/bahe_ml1m.flags

The vector of a behavior comes from the store. Only the high layers of the
language model and the head are trained, under any PaRO code. --tower selects
BAHE or a baseline (docs/bahe.md). The run folder contains checkpoints,
metrics.jsonl, TensorBoard events, results.json and report.html. The same
command resumes a stopped run.
"""

from collections.abc import Mapping
import functools
import math
from typing import Any

import jax

from antjax.ctr import tuning
from antjax.embedding.table import EmbeddingTables
from antjax.jobs import job as job_lib
from antjax.jobs import run as run_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.bahe import export as bahe_export
from antjax.jobs.bahe import means as bahe_means
from antjax.jobs.bahe import model as bahe_model
from antjax.jobs.bahe import report as bahe_report
from antjax.jobs.bahe import users as bahe_users
from antjax.jobs.bahe.config import Config
from antjax.jobs.bahe.data import Clicks
from antjax.metrics import click_metrics
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

Scores = dict[str, float]


def main(config: Config) -> None:
  train(config, job_lib.start(config))


def train(config: Config, job: job_lib.Job) -> dict[str, Scores]:
  """Trains, scores, exports and reports; returns the scores by split."""
  clicks = Clicks(config, job)
  built = bahe_model.build(config, job, clicks)
  num_steps = config.steps_for(len(clicks.splits['train']))
  is_trained = tuning.trainable(config.effective_tuning)
  network = _Network(built, built.model.tables(job.mesh))
  trainer = trainer_lib.make_trainer(
    config,
    job,
    network.loss,
    config.optimizer.build(num_steps, tuning.is_lm),
    built.params,
    compute_dtype=config.compute_dtype,
    trainable=is_trained,
    scanned=trainer_lib.is_stack,
    **config.layer_options(),
    activation_bytes=built.activation_bytes,
    tables=network.tables,
    constants=built.constants,
  )
  if config.export_users:
    job.check_shared('export_users')
  run = run_lib.Run(
    'bahe',
    config,
    job,
    built.made_of,
    num_steps=num_steps,
    best_mode=click_metrics.best_mode(config.best_metric),
  )
  state = trainer.init(built.params, seed=config.seed)
  account = _account(config, job, clicks, built, trainer, state)
  prepare = built.model.prepare

  def score(state: TrainState, split: str, title: str = '') -> Scores:
    batches = clicks.evaluation(split, prepare, title=title)
    metrics = click_metrics.click_metrics()
    return trainer.evaluate(state, batches, network.predict, metrics)

  def validate(state: TrainState) -> Scores:
    found = score(state, 'validation')
    # A slice without examples has no scores.
    return {f'validation_{k}': x for k, x in found.items() if math.isfinite(x)}

  state = run.fit(trainer, state, clicks.training(prepare), validate)
  scores = {
    split: score(state, split, f'score {split}')
    for split in ('validation', 'test')
  }
  _export(config, job, clicks, built, trainer, state, network.tables)
  means = bahe_means.scores(clicks, 'test')
  if job.is_main:
    bahe_report.write(
      config, job, clicks.description, trainer, account, scores, means
    )
  return scores


class _Network:
  """What the trainer differentiates, and what it scores."""

  def __init__(
    self, built: bahe_model.BuiltClickModel, tables: EmbeddingTables | None
  ):
    self.tables, self._built = tables, built

  def loss(self, params: Any, *rest: Any) -> tuple[jax.Array, jax.Array]:
    *rows, batch, _ = rest
    return self._built.merge(params).loss(batch, self._vectors(rows, batch))

  def predict(self, params: Any, *rest: Any) -> dict[str, jax.Array]:
    *rows, batch, _ = rest
    kept = ('label', 'weight', 'is_new_user', 'is_new_item')
    return {
      'prediction': self._built.merge(params).logits(
        batch, self._vectors(rows, batch)
      ),
      'group': batch['user'],
      **{name: batch[name] for name in kept},
    }

  def _vectors(self, rows: list[Any], batch: Mapping[str, Any]) -> Any:
    if self.tables is None:
      return {}
    return self.tables.lookup(rows[0], batch['ids'])


def _account(
  config: Config,
  job: job_lib.Job,
  clicks: Clicks,
  built: bahe_model.BuiltClickModel,
  trainer: Trainer,
  state: TrainState,
) -> dict[str, Any]:
  """The memory that the run takes, for the report."""
  is_trained = tuning.trainable(config.effective_tuning)
  return trainer_lib.account(
    trainer,
    state,
    job,
    activations=built.activation_bytes,
    frozen_share=tuning.frozen_share(
      built.params, is_trained, built.num_absent
    ),
    batch_fn=functools.partial(clicks.example, built.model.prepare)
    if config.check_memory
    else None,
    table=built.table_bytes,
    table_level=built.table_level,
    num_absent=built.num_absent,
  )


def _export(
  config: Config,
  job: job_lib.Job,
  clicks: Clicks,
  built: bahe_model.BuiltClickModel,
  trainer: Trainer,
  state: TrainState,
  tables: EmbeddingTables | None,
) -> None:
  """Writes the adapter, the vectors of users and the model, as asked for."""
  if config.effective_tuning == 'lora':
    trained = built.merge(trainer.params(state))
    if job.is_main:
      tuning.save_adapter(job.run_dir / 'adapter', trained, config.model)
  if config.export_users:
    bahe_users.export(job.run_dir, trainer, state, clicks, built)
  if config.export:
    bahe_export.write(config, job, clicks, built, trainer, state, tables)
