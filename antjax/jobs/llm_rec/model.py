# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model of launch/train_llm_rec.py: language model, texts, parameters."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np

from antjax.ctr.llm_rec import packing
from antjax.ctr.llm_rec.inputs import TrainingInputs
from antjax.ctr.llm_rec.model import LLMRec
from antjax.ctr.llm_rec.recommender import VectorEncoder
from antjax.ctr.llm_rec.stored import StoredEncoder, StoredRec
from antjax.ctr.llm_rec.texts import marks_of, Titles
from antjax.ctr.texts import TextMaker
from antjax.data import output_folder
from antjax.data.sequence_data import KIND, SequenceData
from antjax.jobs import identity as run_identity
from antjax.jobs.llm_rec.config import Config
from antjax.lm import fingerprint, pretrained_tokenizer
from antjax.lm.config import Config as LMConfig
from antjax.lm.token_cache import TokenCache
from antjax.plan import lm_cost

PyTree = Any


@dataclasses.dataclass(frozen=True)
class BuiltRecommender:
  """A model and where its parameters begin."""

  model: LLMRec | StoredRec
  merge: Callable[[PyTree], Any]  # Parameters -> the model with them.
  params: PyTree  # numpy arrays.
  texts: TextMaker  # Tokenized titles of the data.
  made_of: Mapping[str, Any]  # Fingerprints, for `run_identity`.
  # With --store: rows of the titles, their tokens; longest text of a row.
  stored: tuple[np.ndarray, np.ndarray] | None = None
  max_tokens: int = 0

  def encoder(
    self, model: Any, config: Config
  ) -> VectorEncoder | StoredEncoder:
    """What makes vectors outside of training."""
    options: dict[str, Any] = {
      'max_history': config.max_history,
      'compute_dtype': jnp.dtype(config.compute_dtype),
    }
    if self.stored is not None:
      return StoredEncoder(model, *self.stored, **options)
    return VectorEncoder(model, self.texts, **options)


def build(config: Config, data: SequenceData) -> BuiltRecommender:
  """Reads the language model and the titles' tokens."""
  lm = config.language_model(
    config.max_tokens,
    config.seed if config.start == 'random' else None,
  )
  texts = text_maker(config, data, lm.config)
  vector, pooling = config.vector, config.vector.pooling
  rngs = nnx.Rngs(config.seed)
  has_words = vector.word_dim > 0
  model = LLMRec(
    lm,
    texts.marks.pooling if pooling == 'family' else pooling,
    vector,
    config.loss,
    config.num_chunks,
    rarity_V=texts.rarity(lm.config.vocab_size) if has_words else None,
    rngs=rngs,
  )
  merge, params = config.tuned(model, rngs, config.tuning)
  return BuiltRecommender(
    model,
    merge,
    params,
    texts,
    made_of(config, data, model),
  )


def made_of(
  config: Config, data: SequenceData, model: LLMRec | StoredRec
) -> dict[str, Any]:
  """Fingerprints of what a run's state goes with."""
  words, vector = None, config.vector  # As in runs of before.
  if vector.word_dim or vector.half_life:
    words = [vector.half_life, vector.word_dim, vector.word_weight]
  return {
    'data set': run_identity.of_data(data.description),
    'split of the data': config.split,
    'training users': [config.train_users, config.train_users_seed],
    'domains': [config.only_domain, config.without_domain],
    'language model': fingerprint.of_model(config.model),
    'start': config.start,
    'pooling': model.pooling,
    'words of vectors': words,
    **({'late interaction': True} if config.user.is_late else {}),
  }


def text_maker(
  config: Config, data: SequenceData, lm_config: LMConfig
) -> TextMaker:
  """Texts of the data's titles; their tokens are made if not there."""
  tokenizer = pretrained_tokenizer.load_tokenizer(
    config.model, lm_config.vocab_size
  )
  folder = config.token_cache or output_folder.beside(
    config.data, KIND, 'tokens'
  )
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


def activation_bytes(
  config: Config, model: LLMRec, inputs: TrainingInputs
) -> int:
  """About the bytes of activations at the peak of a backward pass.

  Those of the texts of a chunk (`lm.cost`), and the outputs of all texts.
  """
  dtype = jnp.dtype(config.compute_dtype)
  if config.tuning == 'none' and not config.vector.has_head:
    return 0
  lm_config = without_output(model.lm.config, model.lm.config.num_layers)
  if config.tuning == 'none':  # The head alone has a backward pass.
    lm_config = dataclasses.replace(lm_config, num_layers=1, remat='layer')
  shape = inputs.shapes[-1]
  of_lanes = sum(
    lm_cost.activation_bytes(lm_config, rows // model.num_chunks, width, dtype)
    for width, rows in shape
  )
  width = model.lm.config.embed_dim + model.vector.word_dim
  outputs = packing.num_slots(shape) * width * dtype.itemsize
  return of_lanes + 2 * outputs


def without_output(config: LMConfig, num_layers: int) -> LMConfig:
  """Of so many layers without an output layer: no logits."""
  return dataclasses.replace(config, vocab_size=0, num_layers=num_layers)
