# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the planner is told that the activations of LLM-Rec take."""

import types

from antjax.ctr.llm_rec.model import LLMRec, VectorConfig
from antjax.jobs.llm_rec import model as llm_rec_model
from tests.lm import tiny_models

INPUTS = types.SimpleNamespace(shapes=[((64, 8),)])


def bytes_of(tuning, projection_dim=4):
  vector = VectorConfig(projection_dim=projection_dim)
  config = types.SimpleNamespace(
    compute_dtype='float32', tuning=tuning, vector=vector
  )
  model = LLMRec(tiny_models.CONFIGS['bert'], 'mean', vector)
  return llm_rec_model.activation_bytes(config, model, INPUTS)


def test_a_frozen_model_keeps_no_layers():
  assert bytes_of('full') == bytes_of('lora')
  outputs = 2 * 64 * 8 * tiny_models.CONFIGS['bert'].embed_dim * 4
  assert outputs < bytes_of('none') < bytes_of('full')
  assert bytes_of('none', projection_dim=0) == 0  # Nothing is trained.
