# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the activations of an LLM-Rec take of a device."""

import dataclasses

import jax.numpy as jnp

from antjax.ctr.llm_rec import packing
from antjax.ctr.llm_rec.inputs import TrainingInputs
from antjax.ctr.llm_rec.model import LLMRec
from antjax.jobs.llm_rec.config import Config
from antjax.lm import cost


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
