# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The PaRO code that the planner finds best for a job of train_lm."""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import optax

from antjax.jobs import auto_paro
from antjax.jobs import job as job_lib
from antjax.jobs.lm.config import Config
from antjax.lm import cost, transformer

# Of the peak that a model of this kind reaches without communication.
_EFFICIENCY = 0.5


def choose(
  config: Config,
  job: job_lib.Job,
  model: transformer.Config,
  optimizer: optax.GradientTransformation,
  options: Mapping[str, Any],
  peak_flops: float,
) -> str:
  """The config's code, or for 'auto' the planner's; equal on all processes.

  Args:
    config: The job's.
    job: With the mesh.
    model: The model.
    optimizer: The optimizer.
    options: Options of Trainer that the planner takes too.
    peak_flops: Of one device.
  """
  sequences = config.batch_size // (
    jax.device_count() * config.num_micro_batches
  )
  flops = (
    sequences * config.seq_len * cost.flops_per_token(model, config.seq_len)
  )
  return auto_paro.choose_paro(
    config.paro,
    jax.eval_shape(
      functools.partial(transformer.init, model), jax.random.key(0)
    ),
    optimizer,
    job.mesh,
    links_file=config.links,
    compute_s=flops / (peak_flops * _EFFICIENCY),
    device_bytes=int(config.device_gib * 2**30) or None,
    activation_bytes=cost.activation_bytes(
      model, sequences, config.seq_len, options['compute_dtype']
    ),
    # Under agents groups do unequal numbers of micro-batches.
    elastic_only=job.agent is not None,
    **options,
  ).code
