# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of launch/train_llm_rec.py: sequences of users to batches of texts."""

from collections.abc import Mapping
import copy
from typing import Any

import grain
import jax
import numpy as np

from antjax.ctr.llm_rec.inputs import TrainingInputs
from antjax.ctr.llm_rec.stored_inputs import StoredInputs
from antjax.ctr.texts import TextMaker
from antjax.data import sequence_events, shuffled_index
from antjax.data.sequence_data import SequenceData
from antjax.data.sequence_events import ExampleSource, SpanSource
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
    self.source = self._source()
    if not len(self.source):
      raise ValueError(
        f'data={config.data}: no training example is left (only_domain='
        f'{config.only_domain!r}, without_domain={config.without_domain!r},'
        f' train_users={config.train_users}).'
      )
    self.rows, self.num_parts = job.batch_shape(
      config.batch_size, config.num_micro_batches
    )
    self._inputs: Any = None

  def _source(self) -> Any:
    """Records of examples."""
    return ExampleSource(self.events)

  def make_inputs(self, texts: TextMaker) -> TrainingInputs:
    """Chooses the shapes of texts, the same on all processes."""
    config, per_part = self._config, self.rows // self.num_parts
    # Processes that run one program must agree on the shape of each step.
    in_step = jax.process_count() > 1 and self._job.agent is None
    self._inputs = TrainingInputs(
      texts,
      config.loss,
      self.data.domains,
      self.events.count_items(self.data.num_items),
      examples_per_part=per_part,
      pool_parts=self._pool_parts,
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
  def _pool_parts(self) -> int:
    """Parts whose items make one pool."""
    mesh = self._job.mesh
    return {
      'device': 1,
      'group': mesh.shape[mesh_lib.INTRA],
      'all': mesh.size,
    }[self._config.loss.across]

  @property
  def inputs(self) -> Any:
    """From `make_inputs`."""
    assert self._inputs is not None
    return self._inputs

  def training(self, name: str = 'train') -> grain.IterDataset:
    """Endless batches of this process, ready for a step: a Grain data set."""
    data = self._job.dataset(
      self.source,
      name=name,
      shard_size=self._config.shard_size,
      seed=self._config.seed,
      key_field=_KEY,
    )

    # Neighbors are of one user: a batch of them would be of few.
    order = shuffled_index.Order(len(self.source), self._config.seed)

    def make(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
      keys = np.asarray(columns[_KEY])
      places = keys % len(self.source)
      return self._made(keys - places + order(places))

    return data.batch(self.rows).map(make)

  def example(self) -> dict[str, Any]:
    """A batch like those of `training`."""
    return self._made(np.arange(self.rows) % len(self.source))

  def _made(self, keys: np.ndarray) -> dict[str, Any]:
    """What a step reads of examples, by their keys."""
    return self.inputs(self._batch(keys, self.rows), self.num_parts)

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


class StoredSequences(TrainingSequences):
  """Histories of users, whose every event is predicted by those before."""

  def _source(self) -> Any:
    self._starts, self._stops = self.events.windows(self._config.max_history)
    return SpanSource(self._starts, self._stops)

  def make_stored_inputs(
    self, rows_NX: np.ndarray, tokens_NT: np.ndarray
  ) -> StoredInputs:
    """Takes the store's rows and the titles' tokens, the same everywhere."""
    per_part = self.rows // self.num_parts
    self._inputs = StoredInputs(
      rows_NX,
      tokens_NT,
      self._config.loss,
      self.data.domains,
      self.events.count_items(self.data.num_items),
      histories_per_part=per_part,
      max_history=self._config.max_history,
      pool_parts=self._pool_parts,
      seed=self._config.seed,
    )
    rng = np.random.default_rng(self._config.seed)
    shape = (_NUM_SAMPLES, per_part)
    self._inputs.fit(
      [self._events_of(x) for x in rng.integers(0, len(self.source), shape)]
    )
    return self._inputs

  def of_pairs(self) -> 'StoredSequences':
    """The same, but an event is predicted by the one before it alone."""
    found = copy.copy(self)
    found._inputs = self.inputs.of_pairs()
    return found

  def _events_of(self, index: np.ndarray) -> np.ndarray:
    return sequence_events.newest(
      self.events.events,
      self._starts[index],
      self._stops[index],
      self._config.max_history + 1,
    )

  def _made(self, keys: np.ndarray) -> dict[str, Any]:
    events = self._events_of(keys % len(self.source))
    events = np.pad(events, [(0, self.rows - len(events)), (0, 0)])
    return self.inputs(events, keys, self.num_parts)
