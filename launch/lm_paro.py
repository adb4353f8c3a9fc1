# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The PaRO code that the planner finds best for a job of train_lm."""

from collections.abc import Mapping
import functools
from typing import Any, TYPE_CHECKING

from absl import logging
import jax
import optax

from antjax.collectives import cost_model
from antjax.lm import cost, transformer
from antjax.mesh.mesh import group_size, num_groups
from antjax.train import planner
from antjax.train.batches import gather_json
from launch import common, lm_speed

if TYPE_CHECKING:
  from launch.train_lm import Config

# Of the peak that a model of this kind reaches without communication.
_EFFICIENCY = 0.5


def choose(
  config: 'Config',
  job: common.Job,
  model: transformer.Config,
  optimizer: optax.GradientTransformation,
  options: Mapping[str, Any],
  peak_flops: float,
) -> tuple[str, str]:
  """Plans the job; the same answer on all processes.

  Args:
    config: The job's.
    job: With the mesh.
    model: The model.
    optimizer: The optimizer.
    options: Options of Trainer that the planner takes too.
    peak_flops: Of one device.

  Returns:
    (code, why in a sentence).
  """
  links = links_of(config, job)
  sequences = config.batch_size // (
    jax.device_count() * config.num_micro_batches
  )
  tokens = sequences * config.seq_len
  flops = tokens * cost.flops_per_token(model, config.seq_len)
  limit = int(config.device_gib * 2**30) or lm_speed.device_bytes()
  plan = planner.plan(
    jax.eval_shape(
      functools.partial(transformer.init, model), jax.random.key(0)
    ),
    optimizer,
    num_groups=num_groups(job.mesh),
    group_size=group_size(job.mesh),
    links=links,
    compute_s=flops / (peak_flops * _EFFICIENCY),
    activation_bytes=cost.activation_bytes(
      model, sequences, config.seq_len, options['compute_dtype']
    ),
    device_bytes=limit,
    overlap=jax.devices()[0].platform != 'cpu',
    **{k: v for k, v in options.items() if k != 'collectives'},
  )
  # Links measured on each process differ a little.
  code, reason = gather_json([plan.best.code, plan.reason])[0]
  logging.info('--paro=auto: %s', reason)
  return code, reason


def links_of(config: 'Config', job: common.Job) -> cost_model.Links:
  """Link speeds: from the file, or measured now."""
  if config.links:
    return cost_model.load(config.links)
  raise ValueError('--paro=auto needs --links.')
