# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of launch/train_llm_rec.py: sequences of users to batches of texts."""

from collections.abc import Mapping
from typing import Any

import grain
import jax
import numpy as np

from antjax.ctr.llm_rec.inputs import TrainingInputs
from antjax.ctr.texts import TextMaker
from antjax.data import shuffled_index
from antjax.data.sequence_data import SequenceData
from antjax.data.sequence_events import ExampleSource
from antjax.jobs import job as job_lib
from antjax.jobs.llm_rec.config import Config
from antjax.mesh import mesh as mesh_lib

# Marks a record with its number; see `LeasedDataset`.
_KEY = 'record_key'
_NUM_SAMPLES = 128  # Micro-batches that shapes are made for.


class TrainingSequences:
  """The training examples of one run.

  Attributes:
    data: The data folder.
    events: Events that training sees.
    rows: Examples of this process in one element of its batches.
    num_parts: Runs of an element that are worked off apart.
  """

  def __init__(self, config: Config, job: job_lib.Job):
    self._config, self._job = config, job
    self.data = SequenceData.open(config.data, split=config.split)
    self.events = self.data.training(
      only=config.only_domain,
      without=config.without_domain,
      num_users=config.train_users,
      seed=config.train_users_seed,
    )
    self.source = ExampleSource(self.events)
    if not len(self.source):
      raise ValueError(
        f'data={config.data}: no training example is left (only_domain='
        f'{config.only_domain!r}, without_domain={config.without_domain!r},'
        f' train_users={config.train_users}).'
      )
    self.rows, self.num_parts = job.batch_shape(
      config.batch_size, config.num_micro_batches
    )
    self._inputs: TrainingInputs | None = None

  def make_inputs(self, texts: TextMaker) -> TrainingInputs:
    """Chooses the shapes of texts, the same on all processes."""
    config, mesh = self._config, self._job.mesh
    per_part = self.rows // self.num_parts
    pool_parts = {
      'device': 1,
      'group': mesh.shape[mesh_lib.INTRA],
      'all': mesh.size,
    }
    # Processes that run one program must agree on the shape of each step.
    in_step = jax.process_count() > 1 and self._job.agent is None
    self._inputs = TrainingInputs(
      texts,
      config.loss,
      self.data.domains,
      self.events.count_items(self.data.num_items),
      examples_per_part=per_part,
      pool_parts=pool_parts[config.loss.across],
      num_shapes=1 if in_step else config.num_shapes,
      num_chunks=config.num_chunks,
      seed=config.seed,
    )
    rng = np.random.default_rng(config.seed)
    shape = (_NUM_SAMPLES, per_part)
    self._inputs.fit(
      [self._batch(x, len(x)) for x in rng.integers(0, len(self.source), shape)]
    )
    return self._inputs

  @property
  def inputs(self) -> TrainingInputs:
    """From `make_inputs`."""
    assert self._inputs is not None
    return self._inputs

  def training(self) -> grain.IterDataset:
    """Endless batches of this process, ready for a step: a Grain data set."""
    data = self._job.dataset(
      self.source,
      shard_size=self._config.shard_size,
      seed=self._config.seed,
      key_field=_KEY,
    )

    # Neighbors are of one user: a batch of them would be of few.
    order = shuffled_index.Order(len(self.source), self._config.seed)

    def make(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
      keys = np.asarray(columns[_KEY])
      places = keys % len(self.source)
      batch = self._batch(keys - places + order(places), self.rows)
      return self.inputs(batch, self.num_parts)

    return data.batch(self.rows).map(make)

  def example(self) -> dict[str, Any]:
    """A batch like those of `training`."""
    index = np.arange(self.rows) % len(self.source)
    return self.inputs(self._batch(index, self.rows), self.num_parts)

  def _batch(self, keys: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Examples by their keys, filled up by the first with weight 0."""
    weight = (np.arange(size) < len(keys)).astype(np.float32)
    keys = np.concatenate([keys, np.repeat(keys[:1], size - len(keys))])
    user, position = self.events.examples(keys % len(self.source))
    target = self.events.targets(user, position)
    return {
      'history': self.events.histories(
        user, position, self._config.max_history
      ),
      'seen': self.events.histories(user, position, self._config.max_seen),
      'target': target,
      'domain': self.data.domains[target],
      'key': keys.astype(np.int64),
      'weight': weight,
    }
