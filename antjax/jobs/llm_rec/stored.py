# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model of launch/train_llm_rec.py --store: a store's titles, high layers."""

from absl import logging
from flax import nnx
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from antjax.ctr.bahe.manifest import Manifest
from antjax.ctr.bahe.store import BehaviorStore, read_manifest
from antjax.ctr.llm_rec import packing, stored, untrained
from antjax.ctr.llm_rec.stored_inputs import StoredInputs
from antjax.ctr.llm_rec.texts import title_tokens, Titles
from antjax.data.sequence_data import SequenceData
from antjax.jobs import job as job_lib
from antjax.jobs.bahe import build_store
from antjax.jobs.llm_rec import model as llm_rec_model
from antjax.jobs.llm_rec.config import Config
from antjax.jobs.llm_rec.model import BuiltRecommender
from antjax.lm import fingerprint
from antjax.lm.config import Config as LMConfig
from antjax.plan import lm_cost

_MAX_TOKENS = 128  # Of a title that a new store encodes.


def build(
  config: Config, job: job_lib.Job, data: SequenceData
) -> BuiltRecommender:
  """Opens the store, or makes it, and the model over it.

  Raises:
    ValueError: The store is of other titles, layers or another model, or
      nothing would be trained.
  """
  lm = config.language_model()
  manifest, rows = _rows(config, job, data, lm.config)
  vector = config.vector
  has_layers = manifest.num_low < lm.config.num_layers
  if not (vector.has_head or config.tuning != 'none' and has_layers):
    raise ValueError(
      f'store={config.store}: all {manifest.num_low} layers are in it and'
      ' nothing would be trained; set vector.projection_dim or'
      ' vector.word_dim, or build one with a smaller num_low.'
    )
  texts = llm_rec_model.text_maker(config, data, lm.config)
  has_words = vector.word_dim > 0 or vector.token_vectors
  rngs = nnx.Rngs(config.seed)
  model = stored.StoredRec(
    lm,
    manifest.num_low,
    'last' if vector.pooling == 'last' else 'mean',
    vector,
    config.loss,
    user=config.user,
    max_history=config.max_history,
    rarity_V=texts.rarity(lm.config.vocab_size) if has_words else None,
    whitening=untrained.whitening(rows) if vector.whiten else None,
    rngs=rngs,
  )
  merge, params = config.tuned(model, rngs, config.tuning)
  tokens = np.zeros((data.num_items, 0), np.int32)
  if has_words:
    tokens = title_tokens(
      texts.cache.tokens, texts.cache.offsets, config.max_title_tokens
    )
  return BuiltRecommender(
    model,
    merge,
    params,
    texts,
    llm_rec_model.made_of(config, data, model)
    | {'store': [manifest.store, manifest.num_low]},
    stored=(rows, tokens),
    max_tokens=manifest.max_tokens,
  )


def _rows(
  config: Config, job: job_lib.Job, data: SequenceData, lm_config: LMConfig
) -> tuple[Manifest, np.ndarray]:
  """The store's manifest and rows [items, X]; process 0 makes what lacks."""
  titles, found = Titles(data.titles), read_manifest(config.store)
  num_low = lm_config.num_layers if found is None else found.num_low
  max_tokens = _MAX_TOKENS if found is None else found.max_tokens
  if found is None and lm_config.positions == 'learned':
    max_tokens = min(max_tokens, lm_config.max_positions)
  if config.num_low is not None:
    num_low = config.num_low
  if job.is_main:
    build_store.build(
      build_store.Config(
        vocabulary=config.data,
        model=config.model,
        out=config.store,
        num_low=num_low,
        max_tokens=max_tokens,
      ),
      vocabulary=titles,
    )
  multihost_utils.sync_global_devices('the store of titles is there')
  store = BehaviorStore.open(config.store)
  store.manifest.check(
    num_low=num_low, model=fingerprint.of_model(config.model)
  )
  store.manifest.check_vocabulary(titles)
  logging.info(
    'Store of titles: %d rows, %d layers below the cut, %.1f MB.',
    store.rows,
    num_low,
    store.stored_bytes / 1e6,
  )
  is_half = store.manifest.dtype == 'float16'
  return store.manifest, store.load(np.float16 if is_half else np.float32)


def activation_bytes(
  config: Config, model: stored.StoredRec, inputs: StoredInputs
) -> int:
  """About the bytes of activations at the peak of a backward pass."""
  dtype = jnp.dtype(config.compute_dtype)
  ((width, rows),) = inputs.shape
  num_layers = model.lm.config.num_layers - model.lm.num_low
  outputs = 3 * (packing.num_slots(inputs.shape) + inputs.num_titles)
  per_score = 4 if config.user.is_late else 2  # Terms and their exp too.
  scores = per_score * 4 * packing.num_slots(inputs.shape) * inputs.num_titles
  total = scores + outputs * model.dim * 4
  if num_layers:
    lm_config = llm_rec_model.without_output(model.lm.config, num_layers)
    for shape in ((rows, width), (inputs.num_titles, 1)):
      total += lm_cost.activation_bytes(lm_config, *shape, dtype)
  return total
