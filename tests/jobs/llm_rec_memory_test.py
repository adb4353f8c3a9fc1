# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the planner is told that the activations of LLM-Rec take."""

import types

from flax import nnx

from antjax.ctr.llm_rec.model import LLMRec, VectorConfig
from antjax.jobs.llm_rec import model as llm_rec_model
from antjax.lm.transformer import Transformer
from tests.lm import tiny_models

INPUTS = types.SimpleNamespace(shapes=[((64, 8),)])


def bytes_of(tuning, projection_dim=4):
  vector = VectorConfig(projection_dim=projection_dim)
  config = types.SimpleNamespace(
    compute_dtype='float32', tuning=tuning, vector=vector
  )
  bert = tiny_models.CONFIGS['bert']
  lm = Transformer.of(bert, tiny_models.params_of(bert))
  model = LLMRec(lm, 'mean', vector, rngs=nnx.Rngs(0))
  return llm_rec_model.activation_bytes(config, model, INPUTS)


def test_a_frozen_model_keeps_no_layers():
  assert bytes_of('full') == bytes_of('lora')
  outputs = 2 * 64 * 8 * tiny_models.CONFIGS['bert'].embed_dim * 4
  assert outputs < bytes_of('none') < bytes_of('full')
  assert bytes_of('none', projection_dim=0) == 0  # Nothing is trained.
