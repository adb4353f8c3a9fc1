# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What training of an LLM-Rec takes of a device: planned, and compiled."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp

from antjax.ctr import tuning as ctr_tuning
from antjax.ctr.llm_rec import packing, tuning
from antjax.ctr.llm_rec.inputs import TrainingInputs
from antjax.ctr.llm_rec.model import LLMRec
from antjax.jobs import memory_table
from antjax.jobs.llm_rec.config import Config
from antjax.jobs.llm_rec.data import Sequences
from antjax.jobs.llm_rec.model import Built
from antjax.lm import cost
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer


def activation_bytes(
  config: Config, model: LLMRec, inputs: TrainingInputs
) -> int:
  """About the bytes of activations at the peak of a backward pass.

  Those of the texts of a chunk (`lm.cost`), and the outputs of all texts.
  """
  dtype = jnp.dtype(config.compute_dtype)
  if config.tuning == 'none' and not config.vector.has_head:
    return 0
  # No output layer: no logits.
  lm_config = dataclasses.replace(model.lm, vocab_size=0)
  if config.tuning == 'none':  # The head alone has a backward pass.
    lm_config = dataclasses.replace(lm_config, num_layers=1, remat='layer')
  shape = inputs.shapes[-1]
  of_lanes = sum(
    cost.activation_bytes(lm_config, rows // model.num_chunks, width, dtype)
    for width, rows in shape
  )
  width = model.lm.embed_dim + model.vector.word_dim
  outputs = packing.num_slots(shape) * width * dtype.itemsize
  return of_lanes + 2 * outputs


def account(
  config: Config,
  trainer: Trainer,
  state: TrainState,
  sequences: Sequences,
  built: Built,
  activations: int,
) -> dict[str, Any]:
  """Bytes on a device: {'state': parts, 'activations', 'compiled', ...}.

  'compiled' holds what the compiler says of the step: 'temporary' for what is
  live beside its arguments. With an agent, and with --check_memory=false, it
  is empty: the host-loop form is several programs.
  """
  parts = trainer.bytes_per_device()
  planned: dict[str, Any] = {
    'state': parts,
    'activations': activations,
    'frozen_share': ctr_tuning.frozen_share(
      built.params, tuning.trainable(config.tuning)
    ),
    'compiled': {},
  }
  if config.check_memory and not sequences.is_elastic:
    planned['compiled'], planned['batch'] = memory_table.compiled_bytes(
      trainer, state, sequences.example()
    )
  return planned


def print_table(memory: Mapping[str, Any]) -> None:
  """Says what a device needs, before the first step."""
  memory_table.print_table(
    [
      *memory['state'].items(),
      ('activations (planned)', memory['activations']),
    ],
    memory['compiled'],
    {'frozen share of parameters': f'{memory["frozen_share"]:.1%}'},
  )
