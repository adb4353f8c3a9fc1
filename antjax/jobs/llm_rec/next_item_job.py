# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains SASRec, GRU4Rec and SASRec on frozen texts, best validation kept."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax

from antjax.ctr.llm_rec.next_item import NextItemModel, TrainedNextItem
from antjax.data import sequence_events
from antjax.data.sequence_events import SequenceEvents
from antjax.jobs import job as job_lib
from antjax.jobs import run as run_lib
from antjax.jobs.llm_rec.config import BEST_METRIC, NextItemConfig
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

# Marks a record with its number; see `LeasedDataset`.
_KEY = 'record_key'
_SHARD = 256  # Runs of events in a DataShard.


def train(
  name: str,
  config: NextItemConfig,
  job: job_lib.Job,
  encoder: Any,
  num_items: int,
  events: SequenceEvents,
  validate: Callable[[TrainedNextItem], float],
  *,
  made_of: Mapping[str, Any],
  texts: np.ndarray | None = None,
  num_experts: int = 1,
  has_ids: bool = False,
  paro: str = 'NNN',
  seed: int = 0,
) -> TrainedNextItem:
  """Trains or resumes; returns the model with the best validation score.

  The run's folder inside the job's and its data set have its name. `num_items`
  counts the padding, `texts` are whitened vectors [N, X] in place of ids, or
  beside them with `has_ids`, which `num_experts` adapt, and `made_of` the
  data's fingerprints. The larger `validate`, the better; it is
  the same on all processes.

  Raises:
    ValueError: There is nothing to train on, or the batch does not divide.
  """
  job_lib.check_batch_size(config.batch_size, 1)
  text_dim = 0 if texts is None else texts.shape[1]
  model = NextItemModel(
    encoder,
    num_items,
    text_dim,
    config.row_learning_rate,
    num_experts,
    has_ids,
  )
  trainer = _trainer(model, config, job.mesh, paro, texts)
  trained = _reader(trainer, model, texts)
  batches = _batches(name, config, job, model, events, seed)
  run_dir = job.run_dir / name
  run_dir.mkdir(exist_ok=True)
  run = run_lib.Run(
    name,
    config,
    dataclasses.replace(job, run_dir=run_dir),
    made_of,
    num_steps=config.num_steps,
    best_mode='max',
  )
  state = trainer.init(model.init_params(jax.random.key(seed)), seed=seed)
  return trained(
    run.fit(
      trainer,
      state,
      batches,
      lambda state: {BEST_METRIC: validate(trained(state))},
    )
  )


def _trainer(
  model: NextItemModel,
  config: NextItemConfig,
  mesh: jax.sharding.Mesh,
  paro: str,
  texts: np.ndarray | None,
) -> Trainer:
  tables = model.tables(mesh)

  def loss(params: Any, *rest: Any) -> tuple[jax.Array, jax.Array]:
    *rows, batch, rng = rest
    of_texts = of_rows = None
    if tables is not None:
      ids = batch['ids']
      of_rows = tables.lookup(rows[0], ids)
    if texts is not None:
      ids = {name: batch[name] for name in ('sequence', 'negatives')}
      every = batch['constants']['texts']
      of_texts = {name: every[jnp.maximum(x, 0)] for name, x in ids.items()}
    return model.loss(params, ids, of_rows, rng, of_texts)

  constants = None
  if texts is not None:
    whole = NamedSharding(mesh, PartitionSpec())
    constants = {
      'texts': jax.make_array_from_callback(
        texts.shape, whole, lambda index: texts[index]
      )
    }
  return Trainer(
    loss,
    optax.chain(
      optax.clip_by_global_norm(1.0), optax.adam(config.learning_rate)
    ),
    mesh=mesh,
    paro=paro,
    tables=tables,
    scanned=lambda name: '.layers.' in name,
    constants=constants,
  )


def _reader(
  trainer: Trainer, model: NextItemModel, texts: np.ndarray | None
) -> Callable[[TrainState], TrainedNextItem]:
  """A function that reads the model as it is in a state, to the host."""
  tables = trainer.tables

  def item_rows(state: Any) -> jax.Array:
    assert tables is not None
    return tables.to_canonical(state)['item']['table']

  whole = NamedSharding(trainer.mesh, PartitionSpec())
  rows_fn = jax.jit(item_rows, out_shardings=whole)
  items_fn = jax.jit(model.items)

  def read(state: TrainState) -> TrainedNextItem:
    params = jax.tree.map(np.asarray, trainer.params(state))
    rows = None
    if tables is not None:
      rows = np.asarray(rows_fn(state.tables))[: model.num_items]
    return TrainedNextItem(model, params, items_fn(params, rows, texts))

  return read


def _batches(
  name: str,
  config: NextItemConfig,
  job: job_lib.Job,
  model: NextItemModel,
  events: SequenceEvents,
  seed: int,
) -> Any:
  """Endless batches of this process, a Grain data set."""
  length = model.encoder.max_length
  starts, stops = events.windows(length)
  if not len(starts):
    raise ValueError(
      'training: no user has two events that training sees; nothing to learn.'
    )
  # Rows of other items stay as they began: they are cold.
  counts = events.count_items(model.num_items)
  pool = np.flatnonzero(counts).astype(np.int32)

  def make(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    keys = np.asarray(columns[_KEY])
    rng = np.random.default_rng([seed, *keys[:1]])
    drawn = rng.choice(pool, (len(keys), config.num_negatives))
    sequence = sequence_events.newest(
      events.events, columns['start'], columns['stop'], length + 1
    )
    weight = np.ones(len(keys), np.float32)  # To count them by.
    return model.prepare(sequence, drawn) | {'weight': weight}

  data = job.dataset(
    sequence_events.SpanSource(starts, stops),
    name=name,
    shard_size=_SHARD,
    seed=seed,
    key_field=_KEY,
  )
  return data.batch(config.batch_size // jax.process_count()).map(make)
