# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model of launch/train_llm_rec.py: language model, texts, parameters."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

import jax
import numpy as np

from antjax.ctr import tuning
from antjax.ctr.llm_rec.model import LLMRec
from antjax.ctr.llm_rec.texts import marks_of, Titles
from antjax.ctr.texts import Marks, TextMaker
from antjax.data.sequence_data import SequenceData
from antjax.jobs import identity as run_identity
from antjax.jobs.llm_rec.config import Config
from antjax.lm import (
  fingerprint,
  positions,
  pretrained,
  pretrained_tokenizer,
  transformer,
)
from antjax.lm.config import Config as LMConfig
from antjax.lm.token_cache import TokenCache

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Built:
  """A model and where its parameters begin.

  Attributes:
    model: The model.
    params: numpy arrays.
    texts: Tokenized titles of the data.
    made_of: Fingerprints of the inputs, for `run_identity`.
  """

  model: LLMRec
  params: PyTree
  texts: TextMaker
  made_of: Mapping[str, Any]


def build(config: Config, data: SequenceData) -> Built:
  """Reads the language model and the titles' tokens."""
  lm_config, params = language_model(config)
  texts = text_maker(config, data, lm_config)
  model = make_model(config, lm_config, texts.marks)
  key = jax.random.key(config.seed)
  rarity = None
  if config.vector.word_dim:
    rarity = texts.rarity(lm_config.vocab_size)
  found = model.init_params(key, params, rarity)
  if config.tuning == 'lora':
    found = tuning.add_lora(
      found,
      jax.random.fold_in(key, 1),
      rank=config.lora_rank,
      targets=config.lora_targets,
    )
  made_of = {
    'data set': run_identity.of_data(data.description),
    'split of the data': config.split,
    'training users': [config.train_users, config.train_users_seed],
    'domains': [config.only_domain, config.without_domain],
    'language model': fingerprint.of_model(config.model),
    'start': config.start,
    'pooling': model.pooling,
    'words of vectors': _words_of(config),
  }
  return Built(model, jax.tree.map(np.asarray, found), texts, made_of)


def _words_of(config: Config) -> list[float] | None:
  """For `run_identity`; None where there is nothing to say, as before."""
  vector = config.vector
  if not (vector.word_dim or vector.half_life):
    return None
  return [vector.half_life, vector.word_dim, vector.word_weight]


def make_model(config: Config, lm_config: LMConfig, marks: Marks) -> LLMRec:
  """The model that the flags ask for."""
  pooling = config.vector.pooling
  return LLMRec(
    lm_config,
    marks.pooling if pooling == 'family' else pooling,
    config.vector,
    config.loss,
    config.num_chunks,
  )


def language_model(config: Config) -> tuple[LMConfig, PyTree]:
  """The language model's config, and its parameters on the host."""
  host = jax.local_devices(backend='cpu')[0]
  lm_config, params = pretrained.load_pretrained(
    config.model, shardings=jax.sharding.SingleDeviceSharding(host)
  )
  if config.start == 'random':
    key = jax.random.key(config.seed)
    with jax.default_device(host):
      params = transformer.init(lm_config, key)
  lm_config = dataclasses.replace(lm_config, remat=config.remat)
  lm_config, params = positions.extend_learned(
    lm_config, params, config.max_tokens
  )
  if config.tuning == 'lora':
    scale = config.lora_alpha / config.lora_rank
    lm_config = dataclasses.replace(lm_config, lora_scale=scale)
  return lm_config, params


def text_maker(
  config: Config, data: SequenceData, lm_config: LMConfig
) -> TextMaker:
  """Texts of the data's titles; their tokens are made if not there."""
  tokenizer = pretrained_tokenizer.load_tokenizer(
    config.model, lm_config.vocab_size
  )
  folder = config.token_cache or os.path.join(config.data, 'tokens')
  cache = TokenCache.build(
    folder,
    Titles(data.titles),
    config.model,
    max_tokens=config.max_title_tokens,
    special_tokens=False,
  )
  marks = marks_of(lm_config, tokenizer, published=config.published_marks)
  longest = config.max_history * int(cache.lengths.max()) + marks.num_tokens
  return TextMaker(
    cache,
    marks,
    max_title_tokens=config.max_title_tokens,
    max_tokens=min(config.max_tokens, longest),
  )
