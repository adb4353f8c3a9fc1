# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data and loops of launch/train_gmeta.py: task records to trained models."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import json
from typing import Any, TYPE_CHECKING

import grain
import jax

from antjax.data import output_folder
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.gmeta import vocabulary as gmeta_vocabulary
from antjax.mesh.paro import PaRO
from antjax.meta import episodes, evaluate, maml, meta_io
from antjax.meta.recommender import Recommender
from antjax.metrics import by_task
from antjax.report import progress
from antjax.shards import dataset, record_source
from antjax.train import checkpoint
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

if TYPE_CHECKING:
  from antjax.jobs.gmeta.train import Config

# Folders of a run that hold checkpoints.
MODELS = ('meta', 'joint')
_BLOCK = 64  # Records that are looked at together.


@dataclasses.dataclass(frozen=True)
class Stage:
  """A loss, and the outer step up to which it is trained on."""

  until: int
  loss_fn: Callable[..., Any]


class Tasks:
  """The training and evaluation tasks of one run, and the loops over them."""

  def __init__(
    self,
    config: 'Config',
    description: Mapping[str, Any],
    job: job_lib.Job,
  ):
    self._config, self._job = config, job
    inner = dataclasses.asdict(config.inner)
    self._made_of = {
      'data set': run_identity.of_data(description),
      'algorithm': config.algorithm,
      'inner loop': json.loads(json.dumps(inner)),
      'seed': config.seed,
    }
    run_identity.check(job.run_dir, self._made_of, models=MODELS)
    described = config.model.chosen(description['features'])
    self._features = {k: v['max_values'] for k, v in described.items()}
    self._num_ids = {k: v['num_ids'] for k, v in described.items()}
    self.kind: by_task.Kind = description.get('kind', 'rating')
    self.scenarios: tuple[str, ...] = tuple(
      description.get('scenarios', evaluate.SCENARIOS)
    )
    self._label = description.get('label', 'rating')
    self._numeric = tuple(description.get('numeric', ()))
    self._query_size = int(description.get('query_size', 10))
    folder = output_folder.find_view(config.data, 'tasks')
    self._sources = {
      split: output_folder.open_split(folder, split)
      for split in ('train', *self.scenarios)
    }
    whole = self._sources['train']
    if not 0 < config.validation_tasks < len(whole):
      raise ValueError(
        f'validation_tasks={config.validation_tasks}: {config.data} has'
        f' {len(whole)} training tasks; hold out at least 1 and not all.'
      )
    num_train = _before_task_at(whole, len(whole) - config.validation_tasks)
    if not num_train:
      raise ValueError(
        f'validation_tasks={config.validation_tasks} leaves no task of'
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
    self._held_out = {
      int(record['task'])
      for record in self._validation.read(0, len(whole) - num_train)
    }

  @property
  def is_elastic(self) -> bool:
    """Whether agents run the job: groups do unequal numbers of batches."""
    return self._job.agent is not None

  def fit(
    self,
    name: str,
    recommender: Recommender,
    stages: Sequence[Stage],
    inner: maml.InnerLoop,
    paro: PaRO,
  ) -> tuple[Trainer, TrainState]:
    """Trains one model, or goes on with it, in run_dir/<name>.

    Args:
      name: Of the model.
      recommender: The model.
      stages: By rising `until`; each goes on from the last one's checkpoint.
      inner: Of the last stage; says which inner rates are learned.
      paro: Code.
    """
    config = self._config
    folder = self._job.run_dir / name
    num_steps = stages[-1].until
    start = checkpoint.latest_step(folder / 'checkpoints') or 0
    batches = self._batches(name, with_rows=inner.adapt == 'all')
    with contextlib.ExitStack() as stack:
      bar = stack.enter_context(
        progress.Progress(num_steps, start_step=start, name=name)
      )
      stack.enter_context(self._job.should_stop.deferred())
      log: progress.RunLog | None = None

      def on_step(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal log
        if log is None:  # The checkpoint, if any, fits: now files may change.
          self._job.save_config()
          if self._job.is_main:
            run_identity.save(self._job.run_dir, self._made_of)
          log = stack.enter_context(progress.RunLog(folder, resume_step=start))
        bar.update(
          step, num_examples=metrics['num_examples'], loss=metrics['loss']
        )
        log.write(step - 1, metrics)

      # A finished run needs its last stage, to restore.
      for stage in [s for s in stages if s.until > start] or stages[-1:]:
        trainer = recommender.trainer(
          stage.loss_fn,
          config.optimizer.build(num_steps),
          paro=paro,
          min_shard_size=config.min_shard_size,
          num_micro_batches=config.num_micro_batches,
          row_staleness=config.row_staleness,
        )
        state = trainer.init(recommender.init_params(inner), seed=config.seed)
        if config.init_from and not start and stage is stages[0]:
          state = gmeta_vocabulary.start_from(
            config.init_from, name, config.data, self._features, trainer, state
          )
        state = trainer.fit(
          state,
          batches,
          stage.until,
          checkpoint_dir=str((folder / 'checkpoints').absolute()),
          checkpoint_every=config.checkpoint_every,
          config=dataclasses.asdict(config),
          merge_input_states=dataset.merge_states,
          count_examples=episodes.count_rows,
          on_step=on_step,
          should_stop=self._job.should_stop,
          elastic=self._job.agent,
        )
    return trainer, state

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

    Args:
      name: Of the scenario.
      with_rows: Whether each task's rows are grouped, so that they can adapt.
    """
    return self._share(self._sources[name], with_rows)

  def mean_label(self) -> float:
    """Mean label of the training rows."""
    return evaluate.mean_label(
      record_source.every(self._train, 0, 1), self._label
    )

  def _episode_config(self, *, is_training: bool) -> episodes.EpisodeConfig:
    config = self._config
    model = config.model
    num_parts = len(self._job.mesh.local_devices)
    if is_training and self._job.agent is None:
      # Of a whole step; else of a micro-batch, as many as a plan says.
      num_parts *= config.num_micro_batches
    return episodes.EpisodeConfig(
      buckets=tuple(
        episodes.Bucket(size, slots * num_parts)
        for size, slots in zip(
          config.support_sizes, config.slots_per_device, strict=True
        )
      ),
      features=self._features,
      numeric=self._numeric,
      label=self._label,
      query_size=self._query_size,
      # A slot may be as small as a row.
      min_support=min(
        episodes.EpisodeConfig.min_support, config.support_sizes[-1]
      ),
      split=config.split,
      id_dropout=self._of_items(model.id_dropout * is_training),
      task_id_dropout=self._of_items(model.task_id_dropout * is_training),
      seed=config.seed,
    )

  def _of_items(self, share: float) -> dict[str, float]:
    return {'item': share} if 'item' in self._features else {}

  def _batches(self, name: str, *, with_rows: bool) -> grain.IterDataset:
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


def _before_task_at(source: record_source.RecordSource, place: int) -> int:
  """Place of the first record of the task that has a record at `place`.

  A long task is cut into several records, which lie side by side.
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
