# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of launch/train_gmeta.py: task records to batches of episodes."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import itertools
import json
import pathlib
from typing import Any

from absl import logging
import grain
import jax

from antjax import config as config_lib
from antjax.data import output_folder
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.gmeta.config import Config
from antjax.meta import episodes, evaluate, meta_io
from antjax.meta.episode_config import Bucket, EpisodeConfig
from antjax.metrics import by_task
from antjax.shards import dataset, record_source

# Folders of a run that hold checkpoints.
MODELS = ('meta', 'joint')
_MOST_VALIDATION = 256
_BLOCK = 64  # Records that are looked at together.


class TaskBatches:
  """The training and evaluation tasks of one run.

  `scenarios` are the evaluation splits; data without one are scored on the
  training tasks held out, of which `num_validation` are asked for.
  """

  def __init__(
    self, config: Config, description: Mapping[str, Any], job: job_lib.Job
  ):
    self._config, self._job = config, job
    inner = dataclasses.asdict(config.inner)
    self.made_of = {
      'data set': run_identity.of_data(description),
      'algorithm': config.algorithm,
      'inner loop': json.loads(json.dumps(inner)),
      'seed': config.seed,
    }
    run_identity.check(job.run_dir, self.made_of, models=MODELS)
    described = config.model.chosen(description['features'])
    # Feature -> most values it has.
    self.features = {k: v['max_values'] for k, v in described.items()}
    self._num_ids = {k: v['num_ids'] for k, v in described.items()}
    self.kind: by_task.Kind = description.get('kind', 'rating')
    self.scenarios: tuple[str, ...] = tuple(
      description.get('scenarios', evaluate.SCENARIOS)
    )
    self._dropped = dropout_features(config, description, self.features)
    self._label = description.get('label', 'rating')
    self._numeric = tuple(description.get('numeric', ()))
    self._query_size = int(description.get('query_size', 10))
    folder = output_folder.find_view(config.data, 'tasks')
    self._sources: dict[str, record_source.RecordSource] = {
      split: output_folder.open_split(folder, split)
      for split in ('train', *self.scenarios)
    }
    whole = self._sources['train']
    self.num_validation = num_validation(config, job.run_dir, len(whole))
    if not 0 < self.num_validation < len(whole):
      raise ValueError(
        f'validation_tasks={self.num_validation}: {config.data} has'
        f' {len(whole)} training tasks; hold out at least 1 and not all.'
      )
    num_train = _before_task_at(whole, len(whole) - self.num_validation)
    if not num_train:
      raise ValueError(
        f'validation_tasks={self.num_validation} leaves no task of'
        f' {config.data} to train on: the {len(whole)} training records are of'
        ' few tasks; lower it.'
      )
    self._train = record_source.SourceRange(whole, 0, num_train)
    self._train_blocks = self._train
    if description.get('format') in ('arrow', 'parquet'):
      # Split and laid out by whole columns: an order of magnitude faster.
      blocks = output_folder.open_split(folder, 'train', as_blocks=True)
      self._train_blocks = record_source.SourceRange(blocks, 0, num_train)
    self._validation = record_source.SourceRange(whole, num_train, len(whole))
    if not self.scenarios:
      logging.warning(
        '%s has no split to evaluate on: scores are those of the %d held-out'
        ' training records, on which fine-tuning is chosen too.',
        config.data,
        len(self._validation),
      )
      self.scenarios = ('held-out',)
      self._sources['held-out'] = self._validation
    self._held_out = {
      int(record['task'])
      for record in self._validation.read(0, len(whole) - num_train)
    }

  def sample_ids(self, num_batches: int) -> Iterator[Mapping[str, Any]]:
    """batch['ids'] of training batches, this process's share of them."""
    index, count = jax.process_index(), jax.process_count()
    batches = meta_io.iter_episode_batches(
      record_source.every(self._train, index, count),
      self._episode_config(is_training=True),
    )
    for batch in itertools.islice(batches, num_batches):
      yield batch['ids']

  def validation(self, *, with_rows: bool) -> Iterator[episodes.Batch]:
    """Episodes of the held-out training tasks, this process's share."""
    return self._share(self._validation, with_rows)

  def scenario(
    self, name: str, *, with_rows: bool = False
  ) -> Iterator[episodes.Batch]:
    """Episodes of an evaluation split, this process's share.

    With `with_rows` each task's rows are grouped, so that they can adapt.
    """
    return self._share(self._sources[name], with_rows)

  def mean_label(self) -> float:
    return evaluate.mean_label(
      record_source.every(self._train, 0, 1), self._label
    )

  def _episode_config(self, *, is_training: bool) -> EpisodeConfig:
    config = self._config
    model = config.model
    num_parts = len(self._job.mesh.local_devices)
    if is_training and self._job.agent is None:
      # Batch of a whole step; else of a micro-batch, as many as a plan says.
      num_parts *= config.num_micro_batches
    return EpisodeConfig(
      buckets=tuple(
        Bucket(size, slots * num_parts)
        for size, slots in zip(
          config.support_sizes, config.slots_per_device, strict=True
        )
      ),
      features=self.features,
      numeric=self._numeric,
      label=self._label,
      query_size=self._query_size,
      # A slot may be as small as a row.
      min_support=min(EpisodeConfig.min_support, config.support_sizes[-1]),
      split=config.split,
      id_dropout=dict.fromkeys(self._dropped, model.id_dropout * is_training),
      task_id_dropout=dict.fromkeys(
        self._dropped, model.task_id_dropout * is_training
      ),
      seed=config.seed,
    )

  def training(self, name: str, *, with_rows: bool) -> grain.IterDataset:
    """Endless training batches of this process: a plain Grain data set."""
    tasks = self._job.dataset(
      self._train_blocks,
      name=name,
      shard_size=self._config.shard_size,
      seed=self._config.seed,
      key_field='record_key',
    )
    batches = meta_io.EpisodeBatches(
      tasks,
      self._episode_config(is_training=True),
      unmark_fn=dataset.unmark_state,
      num_records=len(self._train_blocks),
    )
    return batches.map(self._with_rows) if with_rows else batches

  def _share(
    self, source: record_source.RecordSource, with_rows: bool
  ) -> Iterator[episodes.Batch]:
    """Batches of every P-th record, the same split each time."""
    index, count = jax.process_index(), jax.process_count()
    mine: Iterable[record_source.Record] = record_source.every(
      source, index, count
    )
    if source is not self._validation:
      # Their ratings were not trained on: they are no warm users.
      mine = (r for r in mine if int(r['task']) not in self._held_out)
    batches = meta_io.iter_episode_batches(
      mine, self._episode_config(is_training=False)
    )
    return map(self._with_rows, batches) if with_rows else batches

  def _with_rows(self, batch: episodes.Batch) -> episodes.Batch:
    return episodes.with_task_rows(batch, num_ids=self._num_ids)


def dropout_features(
  config: Config, description: Mapping[str, Any], features: Mapping[str, int]
) -> tuple[str, ...]:
  """The features whose ids are dropped in training.

  Raises:
    ValueError: A feature that is asked for is not used.
  """
  model = config.model
  if unknown := sorted({*model.dropout_features} - {*features}):
    raise ValueError(
      f'model.dropout_features={",".join(model.dropout_features)}:'
      f' {", ".join(unknown)} is no feature in use; those are'
      f' {", ".join(features)}.'
    )
  # Older data sets do not say how they call the item.
  item = description.get('item_feature', 'item')
  found = model.dropout_features or ((item,) if item in features else ())
  if not found and (model.id_dropout or model.task_id_dropout):
    logging.warning(
      'No ids are dropped: %s has no feature of the item; name features with'
      ' --model.dropout_features.',
      description['name'],
    )
  return found


def num_validation(
  config: Config, run_dir: pathlib.Path, num_records: int
) -> int:
  """Records to hold out, of so many; a run that is resumed keeps its number."""
  if config.validation_tasks is not None:
    return config.validation_tasks
  path = run_dir / config_lib.FILE_NAME
  if path.exists():
    begun = json.loads(path.read_text(encoding='utf-8'))['config']
    if begun.get('validation_tasks') is not None:
      return int(begun['validation_tasks'])
  return min(_MOST_VALIDATION, max(1, num_records // 10))


def _before_task_at(source: record_source.RecordSource, place: int) -> int:
  """Place of the first record of the task that has a record at `place`.

  A long task is cut into several records, which are adjacent.
  """
  task = int(source.read(place, place + 1)[0]['task'])
  while place:
    before = source.read(max(place - _BLOCK, 0), place)
    same = list(
      itertools.takewhile(lambda r: int(r['task']) == task, reversed(before))
    )
    place -= len(same)
    if len(same) < len(before):
      break
  return place
