# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of launch/train_gmeta.py."""

import dataclasses
from typing import Annotated, Literal

from antjax import paths
from antjax.data import output_folder
from antjax.jobs.gmeta.keys import KeysConfig
from antjax.jobs.training_config import TrainingConfig
from antjax.meta import algorithms, task_network
from antjax.meta.recommender import InnerConfig, ModelConfig
from antjax.networks import load
from antjax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
  """Meta-training on task records."""

  run_dir: str = 'runs/gmeta'
  data: Annotated[
    str, 'Folder written by launch/prepare_data.py.', paths.URL
  ] = 'data/ml-1m'
  init_from: Annotated[
    str,
    'Run folder or checkpoint of the same model, on any data, to start from.'
    ' Ids of values in both data keep their rows; others are initialized.',
    paths.URL,
  ] = ''
  min_shard_size: int = 256
  algorithm: Annotated[algorithms.Name, algorithms.HELP] = 'default'
  num_steps: Annotated[int, 'Number of outer steps of the meta-learner.'] = 600
  joint_steps: Annotated[
    int, 'Number of steps of the joint baseline. 0: leave it out.'
  ] = 600
  per_task_steps: Annotated[
    int,
    'Number of steps of the baseline that trains a new model for each task. 0:'
    ' leave it out, or 50 with --algorithm=per_task.',
  ] = 0
  eval_steps: Annotated[
    int, 'Maximum number of adaptation steps in the evaluation.'
  ] = 3
  num_resamples: Annotated[
    int, 'Resamples of the tasks for 95% intervals. 0: no intervals.'
  ] = 200
  support_sizes: Annotated[
    tuple[int, ...], 'Support rows of the task slots, in increasing order.'
  ] = (16, 32, 96)
  slots_per_device: Annotated[
    tuple[int, ...], 'Number of task slots of each size per device and step.'
  ] = (3, 3, 4)
  row_staleness: Annotated[
    Literal[0, 1],
    '1 fetches the embedding rows of the next step during the current step,'
    ' whose updates they then miss. Not supported under agents.',
  ] = 0
  split: Annotated[
    Literal['random', 'time'],
    'Query rows of a training task: sampled in each epoch, or its latest rows.',
  ] = 'random'
  shard_size: Annotated[
    int, 'Tasks in a DataShard. More are faster to read, fewer shuffle finer.'
  ] = 64
  validation_tasks: Annotated[
    int | None,
    'Number of training records held out to choose how the joint model is'
    ' fine-tuned. Tasks with several records are held out whole. none: a'
    ' tenth, at most 256, or the number of the run that is resumed.',
  ] = None
  checkpoint_every: Annotated[int, 'Number of steps between checkpoints.'] = 200
  keys: KeysConfig = KeysConfig()
  model: ModelConfig = ModelConfig()
  inner: InnerConfig = InnerConfig()
  optimizer: OptimizerConfig = OptimizerConfig(
    learning_rate=0.004,
    warmup_steps=20,
    first_share=0.05,
    final_share=0.05,
    weight_decay=1e-3,
    decay_norms=True,
    clip_norm=5.0,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    others = ('joint_steps', 'per_task_steps', 'eval_steps', 'num_resamples')
    self.check_least({'num_steps': 1, **dict.fromkeys(others, 0)})
    if min(self.slots_per_device, default=1) < 1:
      raise ValueError(
        f'slots_per_device={self.slots_per_device}: each must be at least 1.'
      )
    if not algorithms.ALGORITHMS[self.algorithm].network:
      kind = self.model.kind
      load.refuse(load.load(kind), task_network.LACKING, f'model.kind={kind}')
    sizes = list(self.support_sizes)
    if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)):
      raise ValueError(f'support_sizes={self.support_sizes}: must rise from 1.')
    if self.algorithm == 'joint' and not self.joint_steps:
      raise ValueError('algorithm=joint: joint_steps must be above 0.')
    if self.keys.rows:
      self._check_keys()
    if len(self.support_sizes) != len(self.slots_per_device):
      raise ValueError(
        f'support_sizes={self.support_sizes} and slots_per_device='
        f'{self.slots_per_device} must be equally long.'
      )

  def _check_keys(self) -> None:
    others = {
      'init_from': self.init_from,
      'row_staleness': self.row_staleness,
      'model.device_rows': self.model.device_rows,
      'per_task_steps': self.per_task_steps,
      'algorithm': self.algorithm * (self.algorithm == 'per_task'),
    }
    for name, value in others.items():
      if value:
        raise ValueError(
          f'keys.rows={",".join(self.keys.rows)} and {name}={value}: values get'
          ' their rows in the steps of this training; leave one of them out.'
        )

  def check_inputs(self) -> None:
    super().check_inputs()
    paths.check_there(self.init_from, 'init_from', self.run_dir)
    output_folder.open_view(self.data, 'tasks')
