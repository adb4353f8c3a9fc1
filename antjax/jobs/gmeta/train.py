# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Meta-learns a rating or click model and scores it on cold-start tasks.

  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_gmeta.py --flagfile=launch/recipes/quickstart.flags

trains on task records that launch/prepare_data.py wrote: embedding tables by
rows over all devices, dense parameters under a PaRO code. --algorithm chooses
how to learn (docs/gmeta.md). Beside it the same model is trained jointly, the
baseline that a meta-learner has to beat. The run folder gets checkpoints,
metrics.jsonl, TensorBoard events, results.json, report.html. The same command
goes on where a run was stopped.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

from antjax.data import output_folder
from antjax.jobs import auto_paro, table_levels
from antjax.jobs import job as job_lib
from antjax.jobs.gmeta import report as gmeta_report
from antjax.jobs.gmeta import scores as gmeta_scores
from antjax.jobs.gmeta.methods import Methods
from antjax.jobs.gmeta.tasks import Tasks
from antjax.mesh.paro import PaRO
from antjax.meta import algorithms
from antjax.meta import recommender as recommender_lib

# A plan of the tables counts the distinct rows of so many batches, and may give
# the tables that much of a device's memory.
_PLAN_BATCHES = 8
_TABLE_SHARE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(job_lib.JobConfig):
  """Meta-training on task records."""

  run_dir: Annotated[
    str,
    'Folder of this run: config, logs, checkpoints, report. A second start with'
    ' the same folder goes on where the first one stopped.',
  ] = 'runs/gmeta'
  data: Annotated[str, 'Folder that launch/prepare_data.py wrote.'] = (
    'data/ml-1m'
  )
  init_from: Annotated[
    str,
    'Run folder, or checkpoint, of the same model on other data to start from:'
    ' values that both data know keep their rows, others begin anew.',
  ] = ''
  paro: Annotated[
    str,
    'PaRO code: levels of parameters, gradients, optimizer state; auto takes'
    ' the one that the planner finds best.',
  ] = 'IIG'
  links: Annotated[
    str,
    'For --paro=auto and --model.table_level=plan: link speeds that'
    ' launch/plan.py --measure wrote. Empty: measured at the start.',
  ] = ''
  min_shard_size: Annotated[
    int, 'Dense leaves with fewer elements stay whole on every device.'
  ] = 256
  algorithm: Annotated[algorithms.Name, algorithms.HELP] = 'default'
  num_steps: Annotated[int, 'Outer steps of the meta-learner.'] = 600
  joint_steps: Annotated[
    int, 'Steps of the joint baseline; 0 leaves it out.'
  ] = 600
  per_task_steps: Annotated[
    int,
    'Steps of the reference in which each task trains a new model; 0 leaves it'
    ' out, or is 50 with --algorithm=per_task.',
  ] = 0
  eval_steps: Annotated[
    int, 'Adaptation steps up to which the evaluation shows the metrics.'
  ] = 3
  num_resamples: Annotated[
    int, 'Draws of the tasks behind the 95% intervals; 0: no intervals.'
  ] = 200
  support_sizes: Annotated[
    tuple[int, ...], 'Support rows of the task slots, by rising size.'
  ] = (16, 32, 96)
  slots_per_device: Annotated[
    tuple[int, ...], 'Task slots of each size on a device, in a step.'
  ] = (3, 3, 4)
  num_micro_batches: Annotated[
    int,
    'Parts of a step, of slots_per_device each, whose gradients are summed.'
    ' Under agents a slow worker does fewer of them and a fast one more.',
  ] = 1
  row_staleness: Annotated[
    Literal[0, 1],
    '1 fetches the rows of the next step beside the computation of this one,'
    ' whose updates they then lack; not under agents.',
  ] = 0
  split: Annotated[
    Literal['random', 'time'],
    'Query rows of a training task: drawn anew each epoch, or its latest ones.',
  ] = 'random'
  shard_size: Annotated[
    int,
    'Tasks in a DataShard, read at once; more are faster, fewer shuffle finer.',
  ] = 64
  validation_tasks: Annotated[
    int,
    'Training records held out to choose how the joint model is fine-tuned; a'
    ' task of several records is held out whole.',
  ] = 256
  checkpoint_every: Annotated[int, 'Steps between checkpoints.'] = 200
  seed: Annotated[int, 'Of parameters, shuffles and splits.'] = 0
  model: recommender_lib.ModelConfig = recommender_lib.ModelConfig()
  inner: recommender_lib.InnerConfig = recommender_lib.InnerConfig()
  optimizer: recommender_lib.OptimizerConfig = recommender_lib.OptimizerConfig()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.paro != 'auto':
      PaRO.from_code(self.paro)
    at_least = {
      **dict.fromkeys(('joint_steps', 'per_task_steps'), 0),
      **dict.fromkeys(('eval_steps', 'num_resamples'), 0),
      **dict.fromkeys(('num_steps', 'checkpoint_every', 'shard_size'), 1),
    }
    for name, least in at_least.items():
      if getattr(self, name) < least:
        raise ValueError(
          f'{name}={getattr(self, name)}: must be at least {least}.'
        )
    if min(self.slots_per_device, default=1) < 1:
      raise ValueError(
        f'slots_per_device={self.slots_per_device}: each must be at least 1.'
      )
    sizes = list(self.support_sizes)
    if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)):
      raise ValueError(f'support_sizes={self.support_sizes}: must rise from 1.')
    if self.algorithm == 'joint' and not self.joint_steps:
      raise ValueError('algorithm=joint: joint_steps must be above 0.')
    if self.num_micro_batches < 1:
      raise ValueError(
        f'num_micro_batches must be at least 1; got {self.num_micro_batches}.'
      )
    if len(self.support_sizes) != len(self.slots_per_device):
      raise ValueError(
        f'support_sizes={self.support_sizes} and slots_per_device='
        f'{self.slots_per_device} must be equally long.'
      )


def main(config: Config) -> None:
  job = job_lib.start(config)
  train(config, job)


def train(config: Config, job: job_lib.Job) -> list[dict[str, Any]]:
  """Trains, evaluates and reports; returns the rows of the result table."""
  description = output_folder.load_description(
    output_folder.find_view(config.data, 'tasks')
  )
  tasks = Tasks(config, description, job)
  network = algorithms.ALGORITHMS[config.algorithm].network
  recommender = recommender_lib.build(
    description['features'],
    dataclasses.replace(config.model, kind=network or config.model.kind),
    job.mesh,
    config.optimizer.schedule(
      config.model.table_learning_rate, config.num_steps
    ),
    place_fn=lambda specs: table_levels.place_tables(
      specs,
      tasks.sample_ids(_PLAN_BATCHES),
      job.mesh,
      auto_paro.links_of(job.mesh, config.links),
      _TABLE_SHARE * (auto_paro.memory_of_device() or math.inf),
    ),
    label_kind=tasks.kind,
    num_numeric=len(description.get('numeric', ())),
  )
  methods = Methods(config, recommender, tasks).train()
  results = gmeta_scores.evaluate_methods(config, tasks, recommender, methods)
  if job.is_main:
    trainer = next(iter(methods.values())).trainer
    gmeta_report.write(config, job, description, trainer, results)
  return results.rows
