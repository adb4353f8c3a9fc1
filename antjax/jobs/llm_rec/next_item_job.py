# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains SASRec, GRU4Rec and SASRec on frozen texts, best validation kept."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import grain
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


class NextItemJob:
  """One training run."""

  def __init__(
    self,
    config: NextItemConfig,
    job: job_lib.Job,
    model: NextItemModel,
    events: SequenceEvents,
    *,
    made_of: Mapping[str, Any],
    texts: np.ndarray | None = None,
    paro: str = 'NNN',
    seed: int = 0,
  ):
    """Describes the run.

    Args:
      config: Training configuration.
      job: The job.
      model: The model.
      events: Events that training sees.
      made_of: Fingerprints of the data, see `run_identity`.
      texts: Whitened text vectors [N, X], for models of texts.
      paro: PaRO code.
      seed: Seed of parameters, shuffles and sampled items.

    Raises:
      ValueError: There is nothing to train on, or the batch does not divide.
    """
    job_lib.check_batch_size(config.batch_size, 1)
    self._config, self._job, self._model = config, job, model
    self._events, self._seed = events, seed
    self._made_of = dict(made_of)
    starts, stops = events.windows(model.encoder.max_length)
    if not len(starts):
      raise ValueError(
        'training: no user has two events that training sees; nothing to learn.'
      )
    self._source = sequence_events.SpanSource(starts, stops)
    # Rows of other items stay as they began: they are cold.
    counts = events.count_items(model.num_items)
    self._pool = np.flatnonzero(counts).astype(np.int32)
    self._texts = texts
    self._tables = model.tables(job.mesh)
    self.trainer = Trainer(
      self._loss,
      optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(config.learning_rate)
      ),
      mesh=job.mesh,
      paro=paro,
      tables=self._tables,
      scanned=lambda name: '.layers.' in name,
      constants=self._constants(),
    )

  def _constants(self) -> Any:
    if self._texts is None:
      return None
    texts = self._texts
    whole = NamedSharding(self._job.mesh, PartitionSpec())
    return {
      'texts': jax.make_array_from_callback(
        texts.shape, whole, lambda index: texts[index]
      )
    }

  def _loss(self, params: Any, *rest: Any) -> tuple[jax.Array, jax.Array]:
    *rows, batch, rng = rest
    if rows:
      ids = batch['ids']
      assert self._tables is not None
      vectors = self._tables.lookup(rows[0], ids)
    else:
      ids = {name: batch[name] for name in ('sequence', 'negatives')}
      texts = batch['constants']['texts']
      vectors = {name: texts[jnp.maximum(x, 0)] for name, x in ids.items()}
    return self._model.loss(params, ids, vectors, rng)

  def batches(self, name: str) -> grain.IterDataset:
    """Endless batches of this process.

    Args:
      name: Name of the data set; each training of a job has its own.
    """
    config = self._config
    rows = config.batch_size // jax.process_count()
    length = self._model.encoder.max_length + 1

    def make(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
      keys = np.asarray(columns[_KEY])
      rng = np.random.default_rng([self._seed, *keys[:1]])
      drawn = rng.choice(self._pool, (len(keys), config.num_negatives))
      sequence = sequence_events.newest(
        self._events.events, columns['start'], columns['stop'], length
      )
      weight = np.ones(len(keys), np.float32)  # To count them by.
      return self._model.prepare(sequence, drawn) | {'weight': weight}

    data = self._job.dataset(
      self._source,
      name=name,
      shard_size=_SHARD,
      seed=self._seed,
      key_field=_KEY,
    )
    return data.batch(rows).map(make)

  def trained(self, state: TrainState) -> TrainedNextItem:
    """The model as it is now, on the host."""
    params = jax.tree.map(np.asarray, self.trainer.params(state))
    vectors = self._texts
    if vectors is None:
      vectors = np.asarray(self._rows(state.tables))[: self._model.num_items]
    return TrainedNextItem(self._model, params, vectors)

  @functools.cached_property
  def _rows(self) -> Callable[[Any], jax.Array]:
    """Tables -> rows of the items, in their order."""
    tables = self._tables
    assert tables is not None
    return jax.jit(
      lambda state: tables.to_canonical(state)['item']['table'],
      out_shardings=NamedSharding(self._job.mesh, PartitionSpec()),
    )

  def fit(
    self, name: str, validate: Callable[[TrainedNextItem], float]
  ) -> TrainedNextItem:
    """Trains or resumes; returns the model with the best validation score.

    Args:
      name: Name of the run, and of its folder inside the job's.
      validate: The larger, the better; the same on all processes.
    """

    def evaluate(state: TrainState) -> dict[str, float]:
      return {BEST_METRIC: validate(self.trained(state))}

    run_dir = self._job.run_dir / name
    run_dir.mkdir(exist_ok=True)
    run = run_lib.Run(
      name,
      self._config,
      dataclasses.replace(self._job, run_dir=run_dir),
      self._made_of,
      num_steps=self._config.num_steps,
      best_mode='max',
    )
    params = self._model.init_params(jax.random.key(self._seed))
    state = self.trainer.init(params, seed=self._seed)
    return self.trained(
      run.fit(self.trainer, state, self.batches(name), evaluate)
    )


def model_of(
  encoder: Any, num_items: int, config: NextItemConfig, texts: Any = None
) -> NextItemModel:
  """A model of ids, or of texts where their vectors are given."""
  return NextItemModel(
    encoder,
    num_items,
    0 if texts is None else texts.shape[1],
    config.row_learning_rate,
  )
