# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of launch/train_gmeta.py."""

import dataclasses
from typing import Annotated, Literal

from antjax import paths
from antjax.data import output_folder
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
    str, 'Folder that launch/prepare_data.py wrote.', paths.URL
  ] = 'data/ml-1m'
  init_from: Annotated[
    str,
    'Run folder, or checkpoint, of the same model on other data to start from:'
    ' values that both data know keep their rows, others begin anew.',
    paths.CHECKPOINT_URL,
  ] = ''
  min_shard_size: int = 256
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
  row_staleness: Annotated[
    Literal[0, 1],
    '1 fetches the rows of the next step beside the computation of this one,'
    ' whose updates they then lack; not under agents.',
  ] = 0
  split: Annotated[
    Literal['random', 'time'],
    'Query rows of a training task: sampled each epoch, or its latest rows.',
  ] = 'random'
  shard_size: Annotated[
    int,
    'Tasks in a DataShard, read at once; more are faster, fewer shuffle finer.',
  ] = 64
  validation_tasks: Annotated[
    int | None,
    'Training records held out to choose how the joint model is fine-tuned; a'
    ' task of several records is held out whole. none: a tenth, at most 256;'
    ' of a run that is resumed, as many as before.',
  ] = None
  checkpoint_every: Annotated[int, 'Steps between checkpoints.'] = 200
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
    if len(self.support_sizes) != len(self.slots_per_device):
      raise ValueError(
        f'support_sizes={self.support_sizes} and slots_per_device='
        f'{self.slots_per_device} must be equally long.'
      )

  def check_inputs(self) -> None:
    output_folder.load_description(output_folder.find_view(self.data, 'tasks'))
