# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learns a rating model and scores it in four cold-start scenarios.

  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_gmeta.py --flagfile=launch/recipes/quickstart.flags

trains on task records that launch/prepare_data.py wrote: embedding tables by
rows over all devices, dense parameters under a PaRO code. Beside it the same
model is trained jointly, as the baseline that a meta-learner has to beat. The
run folder gets checkpoints, metrics.jsonl, TensorBoard events, results.json and
report.html. The same command goes on where a run was stopped.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import jax
import numpy as np
from absl import logging

from antjax.input import dataset, movielens, output_folder, records
from antjax.input.data_shard import ShardLedger
from antjax.input.ledger_client import LocalLedgerClient
from antjax.mesh.paro import PaRO
from antjax.meta import episodes, evaluate, maml, meta_io, meta_loss
from antjax.meta import recommender as recommender_lib
from antjax.train import checkpoint, progress
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer
from launch import common, gmeta_report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.JobConfig):
  """Meta-training on task records."""

  run_dir: Annotated[
    str,
    'Folder of this run: config, logs, checkpoints, report. A second start with'
    ' the same folder goes on where the first one stopped.',
  ] = 'runs/gmeta'
  data: Annotated[str, 'Folder that launch/prepare_data.py wrote.'] = (
    'data/ml-1m'
  )
  paro: Annotated[
    str, 'PaRO code: levels of parameters, gradients, optimizer state.'
  ] = 'IIG'
  min_shard_size: Annotated[
    int, 'Dense leaves with fewer elements stay whole on every device.'
  ] = 256
  num_steps: Annotated[int, 'Outer steps of the meta-learner.'] = 2000
  joint_steps: Annotated[
    int, 'Steps of the joint baseline; 0 leaves it out.'
  ] = 2000
  support_sizes: Annotated[
    tuple[int, ...], 'Support rows of the task slots, by rising size.'
  ] = (16, 32, 64, 96)
  slots_per_device: Annotated[
    tuple[int, ...], 'Task slots of each size on a device, in a step.'
  ] = (1, 1, 1, 1)
  shard_size: Annotated[int, 'Tasks in a DataShard.'] = 32
  validation_tasks: Annotated[
    int, 'Training tasks held out to choose how the joint model is fine-tuned.'
  ] = 256
  checkpoint_every: Annotated[int, 'Steps between checkpoints.'] = 200
  seed: Annotated[int, 'Of parameters, shuffles and splits.'] = 0
  model: recommender_lib.ModelConfig = recommender_lib.ModelConfig()
  inner: recommender_lib.InnerConfig = recommender_lib.InnerConfig()
  optimizer: recommender_lib.OptimizerConfig = recommender_lib.OptimizerConfig()

  def __post_init__(self) -> None:
    super().__post_init__()
    PaRO.from_code(self.paro)
    if len(self.support_sizes) != len(self.slots_per_device):
      raise ValueError(
        f'support_sizes={self.support_sizes} and slots_per_device='
        f'{self.slots_per_device} must be equally long.'
      )


def main(config: Config) -> None:
  job = common.start(config)
  train(config, job)


def train(config: Config, job: common.Job) -> list[dict[str, Any]]:
  """Trains, evaluates and reports; returns the rows of the result table."""
  description = output_folder.load_description(config.data)
  task = Task(config, description, job)
  recommender = recommender_lib.build(
    description['features'], config.model, job.mesh
  )
  inner = config.inner.loop()
  meta_loss_fn = meta_loss.meta_loss_fn(recommender.task_model, inner)
  trainer, state = task.fit(
    'meta', recommender, meta_loss_fn, config.num_steps, inner
  )
  methods = {'meta-learned': (trainer, state, inner)}
  if config.joint_steps:
    still = maml.InnerLoop(num_steps=0)
    joint_loss_fn = meta_loss.joint_loss_fn(recommender.task_model)
    joint, joint_state = task.fit(
      'joint', recommender, joint_loss_fn, config.joint_steps, still
    )
    tuned = evaluate.choose_fine_tuning(
      lambda predict, metrics: joint.evaluate(
        joint_state, task.validation(), predict, metrics
      ),
      recommender.task_model,
      column='median',
    )
    logging.info('Fine-tuning chosen on held-out training tasks: %s.', tuned)
    methods['joint'] = (joint, joint_state, still)
    methods['joint + fine-tuning'] = (joint, joint_state, tuned)
  rows = task.score(recommender, methods)
  if job.is_main:
    gmeta_report.write(config, job, description, trainer, rows)
  return rows


class Task:
  """Training and evaluation data of one run, and the loop over them."""

  def __init__(
    self, config: Config, description: Mapping[str, Any], job: common.Job
  ):
    self._config, self._job = config, job
    self._features = {
      name: facts['max_values']
      for name, facts in description['features'].items()
    }
    self._num_ids = {
      name: facts['num_ids'] for name, facts in description['features'].items()
    }
    files = description['files']
    self._sources = {
      split: records.open_source(
        pathlib.Path(config.data) / files[split]['path'], movielens.SCHEMA
      )
      for split in ('train', *evaluate.SCENARIOS)
    }
    whole = self._sources['train']
    if not 0 < config.validation_tasks < len(whole):
      raise ValueError(
        f'validation_tasks={config.validation_tasks}: {config.data} has'
        f' {len(whole)} training tasks; hold out at least 1 and not all.'
      )
    num_train = len(whole) - config.validation_tasks
    self._train = records.SourceRange(whole, 0, num_train)
    self._validation = records.SourceRange(whole, num_train, len(whole))

  def fit(
    self,
    name: str,
    recommender: recommender_lib.Recommender,
    loss_fn: Callable[..., Any],
    num_steps: int,
    inner: maml.InnerLoop,
  ) -> tuple[Trainer, TrainState]:
    """Trains one model, or goes on with it, in run_dir/<name>."""
    config = self._config
    folder = self._job.run_dir / name
    trainer = recommender.trainer(
      loss_fn,
      config.optimizer.build(num_steps),
      paro=config.paro,
      min_shard_size=config.min_shard_size,
    )
    state = trainer.init(recommender.init_params(inner), seed=config.seed)
    start = checkpoint.latest_step(folder / 'checkpoints') or 0
    with (
      progress.Progress(num_steps, start_step=start, name=name) as bar,
      progress.RunLog(folder, resume_step=start) as log,
    ):

      def on_step(step: int, metrics: Mapping[str, float]) -> None:
        bar.update(
          step, num_examples=metrics['num_examples'], loss=metrics['loss']
        )
        log.write(step - 1, metrics)

      state = trainer.fit(
        state,
        self._batches(),
        num_steps,
        checkpoint_dir=str((folder / 'checkpoints').absolute()),
        checkpoint_every=config.checkpoint_every,
        config=dataclasses.asdict(config),
        merge_input_states=dataset.merge_states,
        count_examples=episodes.count_rows,
        on_step=on_step,
        should_stop=self._job.should_stop,
      )
    return trainer, state

  def validation(self) -> Iterator[episodes.Batch]:
    """Episodes of the held-out training tasks, this process's share."""
    return self._share(self._validation)

  def score(
    self,
    recommender: recommender_lib.Recommender,
    methods: Mapping[str, tuple[Trainer, TrainState, maml.InnerLoop]],
  ) -> list[dict[str, Any]]:
    """One row for each scenario and method: metric name -> value."""
    mean = evaluate.mean_label(self._train.read(0, len(self._train)))
    predict_fns = {
      name: meta_loss.predict_fn(recommender.task_model, inner)
      for name, (_, _, inner) in methods.items()
    }
    rows: list[dict[str, Any]] = []
    for scenario in evaluate.SCENARIOS:
      source = self._sources[scenario]
      scores = {
        name: trainer.evaluate(
          state,
          self._share(source),
          predict_fns[name],
          evaluate.rating_metrics(),
        )
        for name, (trainer, state, _) in methods.items()
      }
      scores |= evaluate.baseline_scores(self._share(source), mean)
      rows += [
        {'scenario': scenario, 'method': name} | values
        for name, values in scores.items()
      ]
    return rows

  def _episode_config(self, id_dropout: float) -> episodes.EpisodeConfig:
    config = self._config
    num_local = len(self._job.mesh.local_devices)
    return episodes.EpisodeConfig(
      buckets=tuple(
        episodes.Bucket(size, slots * num_local)
        for size, slots in zip(
          config.support_sizes, config.slots_per_device, strict=True
        )
      ),
      features=self._features,
      id_dropout={'item': id_dropout},
      seed=config.seed,
    )

  def _batches(self) -> Any:
    """Endless training batches of this process: a plain Grain data set."""
    ledger = ShardLedger(
      len(self._train),
      self._config.shard_size,
      seed=self._config.seed,
      num_epochs=None,
    )
    client = LocalLedgerClient(
      ledger, worker=jax.process_index(), num_workers=jax.process_count()
    )
    tasks = dataset.LeasedDataset(
      self._train, client, key_field='record_key'
    )
    batches = meta_io.EpisodeBatches(
      tasks,
      self._episode_config(self._config.model.id_dropout),
      unmark_fn=dataset.unmark_state,
    )
    return batches.map(self._with_rows)

  def _share(self, source: records.RecordSource) -> Iterator[episodes.Batch]:
    """Batches of every P-th record, the same split each time."""
    index, count = jax.process_index(), jax.process_count()
    mine = source.read(0, len(source))[index::count]
    batches = meta_io.iter_episode_batches(mine, self._episode_config(0.0))
    return map(self._with_rows, batches)

  def _with_rows(self, batch: episodes.Batch) -> episodes.Batch:
    if self._config.inner.adapt != 'all':
      return batch
    return episodes.with_task_rows(batch, num_ids=self._num_ids)


if __name__ == '__main__':
  common.run(main, Config())
