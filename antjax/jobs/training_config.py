# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What jobs that train, validate and stop early have in job_lib."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax

from antjax.embedding.table import EmbeddingTables
from antjax.jobs import auto_paro
from antjax.jobs import job as job_lib
from antjax.lm import attention
from antjax.mesh.paro import PaRO
from antjax.train.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(job_lib.JobConfig):
  """Settings of jobs that train, validate and stop early."""

  paro: Annotated[
    str,
    'PaRO code: levels of parameters, gradients, optimizer state; auto takes'
    ' the one that the planner finds best.',
  ] = 'IIG'
  links: Annotated[
    str,
    'For --paro=auto: link speeds that launch/plan.py --measure wrote. Empty:'
    ' measured at the start.',
  ] = ''
  collectives: Annotated[
    Literal['xla', 'ring', 'hierarchical', 'ho_ring'],
    'How arrays move over all devices at once.',
  ] = 'xla'
  min_shard_size: Annotated[
    int, 'Leaves with fewer elements stay whole on every device.'
  ] = 1024
  num_epochs: Annotated[float, 'Passes over the training examples.'] = 1.0
  num_steps: Annotated[int, 'Optimizer steps; 0: those of num_epochs.'] = 0
  batch_size: Annotated[int, 'Examples of a step, all devices together.'] = 256
  num_micro_batches: Annotated[
    int, "Parts that a device's share of a batch is worked off in."
  ] = 1
  compute_dtype: Annotated[
    Literal['float32', 'bfloat16'],
    'Of activations and of the copy of the parameters that computes.',
  ] = 'float32'
  shard_size: Annotated[int, 'Examples in a DataShard.'] = 256
  evaluate_every: Annotated[
    int, 'Steps between validations; 0: at the end only.'
  ] = 0
  patience: Annotated[
    int,
    'Stop after so many validations without a better one, and take the best;'
    ' 0: train all steps and take the last.',
  ] = 0
  best_metric: Annotated[str, 'What better means.']
  checkpoint_every: Annotated[int, 'Steps between checkpoints.'] = 500
  check_memory: Annotated[
    bool, 'Compile the step before training to compare its memory.'
  ] = True
  seed: Annotated[int, 'Of parameters, shuffles and negatives.'] = 0

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.paro != 'auto':
      PaRO.from_code(self.paro)
    self.check_least(
      {
        **dict.fromkeys(('batch_size', 'num_micro_batches', 'shard_size'), 1),
        'checkpoint_every': 1,
        **dict.fromkeys(('num_steps', 'patience', 'evaluate_every'), 0),
      }
    )
    if not self.num_epochs > 0:
      raise ValueError(f'num_epochs={self.num_epochs}: must be positive.')
    if self.patience and not self.evaluate_every:
      raise ValueError(
        f'patience={self.patience} counts validations: set evaluate_every.'
      )

  def check_least(self, at_least: Mapping[str, int]) -> None:
    """Raises ValueError where a field is less than it may be."""
    for name, least in at_least.items():
      if getattr(self, name) < least:
        raise ValueError(
          f'{name}={getattr(self, name)}: must be at least {least}.'
        )

  def steps_for(self, num_examples: int) -> int:
    """Optimizer steps, given the training examples."""
    steps = round(self.num_epochs * num_examples / self.batch_size)
    return self.num_steps or max(1, steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageTrainingConfig(TrainingConfig):
  """Settings of jobs that train a language model inside a recommender."""

  remat: Annotated[
    Literal['none', 'layer', 'dots'],
    "What the layers' backward pass recomputes.",
  ] = 'none'


def is_stack(name: str) -> bool:
  """Whether a leaf holds a language model's layers, for `scanned`."""
  return '.layers.' in name


def make_trainer(
  config: TrainingConfig,
  job: job_lib.Job,
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  params: Any,
  *,
  trainable: Callable[[str], bool] | None = None,
  scanned: Callable[[str], bool] | None = None,
  activation_bytes: int,
  tables: EmbeddingTables | None = None,
  constants: Any = None,
) -> Trainer:
  """The trainer that a config asks for.

  Args:
    config: The job's.
    job: With the mesh; under an agent --paro=auto takes elastic codes only.
    loss_fn: See `Trainer`.
    optimizer: See `Trainer`.
    params: Tree of the parameters, for --paro=auto.
    trainable: See `Trainer`.
    scanned: See `Trainer`.
    activation_bytes: At the peak of a micro-batch, for --paro=auto.
    tables: See `Trainer`.
    constants: See `Trainer`.
  """
  dtype = jnp.dtype(config.compute_dtype)
  options: dict[str, Any] = {
    'num_micro_batches': config.num_micro_batches,
    'compute_dtype': None if dtype == jnp.float32 else dtype,
    'trainable': trainable,
    'scanned': scanned,
    'min_shard_size': config.min_shard_size,
  }
  paro = auto_paro.choose_paro(
    config.paro,
    params,
    optimizer,
    job.mesh,
    links_file=config.links,
    activation_bytes=activation_bytes,
    elastic_only=job.agent is not None,
    **options,
  )
  return Trainer(
    loss_fn,
    optimizer,
    mesh=job.mesh,
    paro=paro,
    collectives=config.collectives,
    tables=tables,
    constants=constants,
    # Stacks are those of language models.
    check_vma=scanned is None or attention.check_vma(job.mesh),
    **options,
  )
