# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model of launch/train_bahe.py: the tower that the flags ask for."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr import tuning
from antjax.ctr.bahe import full_text
from antjax.ctr.bahe import table as table_lib
from antjax.ctr.bahe.full_text import FullTextTower
from antjax.ctr.bahe.model import ClickModel
from antjax.ctr.bahe.store import BehaviorStore
from antjax.ctr.bahe.towers import (
  DedupTower,
  PyTree,
  SequenceEncoder,
  StoreTower,
  Tower,
)
from antjax.data import output_folder
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.bahe.config import Config
from antjax.jobs.bahe.data import Clicks
from antjax.lm import (
  cost,
  fingerprint,
  pretrained_tokenizer,
  split,
)
from antjax.lm.config import Config as LMConfig
from antjax.lm.token_cache import TokenCache
from antjax.mesh.mesh import INTRA

# Tokens of a behavior in a full text at most.
_MAX_TOKENS = 128
_DEDUP_NUM_LOW = 3  # Without --num_low.


@dataclasses.dataclass(frozen=True)
class BuiltClickModel:
  """A click model and where its parameters begin."""

  model: ClickModel
  params: PyTree  # numpy arrays, without a low half that a store has.
  constants: Any  # For the Trainer.
  table_bytes: int  # Of the table of behaviors on a device.
  table_level: str  # none, intra or global.
  num_absent: int  # Parameters that training never holds.
  activation_bytes: int
  made_of: Mapping[str, Any]  # Fingerprints, for `run_identity`.


def build(config: Config, job: job_lib.Job, clicks: Clicks) -> BuiltClickModel:
  """Reads store and language model, and makes the click model.

  Raises:
    ValueError: Store, model and data do not go together.
  """
  tower: Tower | None = None
  params: PyTree = None
  num_absent = 0
  if config.tower != 'none':
    lm_config, params = config.language_model(
      config.effective_tuning,
      config.max_tokens if config.tower == 'full_text' else 0,
    )
    if config.tower in ('store', 'frozen'):
      tower = _store_tower(config, job, clicks, lm_config)
    else:
      tower = _token_tower(config, clicks, lm_config)
  model = ClickModel(tower, config.head, config.ids, clicks.sizes)
  key = jax.random.key(config.seed)
  found = model.init_params(key, params)
  if config.effective_tuning == 'lora':
    found = tuning.add_lora(
      found,
      jax.random.fold_in(key, 1),
      rank=config.lora_rank,
      targets=config.lora_targets,
    )
  constants, table_level = None, 'none'
  if isinstance(tower, StoreTower):
    constants = tower.table.constants
    if isinstance(tower.table, table_lib.SplitTable):
      is_intra = tower.table.exchange.axes == (INTRA,)
      table_level = 'intra' if is_intra else 'global'
  table_bytes = sum(
    shard.data.nbytes
    for x in jax.tree.leaves(constants)
    for shard in x.addressable_shards[:1]
  )
  if tower is not None:
    held = sum(x.size for x in jax.tree.leaves(tower.init_params(params)))
    whole = sum(x.size for x in jax.tree.leaves(params))
    num_absent = max(whole - held, 0)
  return BuiltClickModel(
    model,
    jax.tree.map(np.asarray, found),
    constants,
    table_bytes,
    table_level,
    num_absent,
    activation_bytes(config, model, clicks),
    _made_of(config, clicks),
  )


def _made_of(config: Config, clicks: Clicks) -> dict[str, Any]:
  found: dict[str, Any] = {
    'data set': run_identity.of_data(clicks.description),
    'tower': config.tower,
  }
  if clicks.standardizer is not None:
    found['mean of numbers'] = clicks.standardizer.mean.tolist()
  if clicks.user_vectors:
    found['export of user vectors'] = clicks.user_vectors
  if config.tower != 'none':
    found['language model'] = fingerprint.of_model(config.model)
  if config.tower in ('store', 'frozen'):
    manifest = BehaviorStore.open(config.store).manifest
    found |= {
      'cut of the store': manifest.num_low,
      "pooling of the store's tokens": manifest.pooling,
      'max_tokens of the store': manifest.max_tokens,
      'tokenizer of the store': manifest.tokenizer,
    }
  return found


def _store_tower(
  config: Config, job: job_lib.Job, clicks: Clicks, lm_config: LMConfig
) -> StoreTower:
  store = BehaviorStore.open(config.store)
  manifest = store.manifest
  manifest.check(
    model=fingerprint.of_model(config.model),
    tokenizer=fingerprint.of_tokenizer(config.model),
  )
  manifest.check_vocabulary(clicks.vocabulary)
  num_low, num_layers = manifest.num_low, lm_config.num_layers
  if config.num_low not in (None, num_low):
    raise ValueError(
      f'num_low={config.num_low}: the store at {config.store} has rows of'
      f' num_low={num_low}; give --num_low=none to take that, or a'
      f' store that was built with --num_low={config.num_low}.'
    )
  if store.rows < clicks.sizes.num_behaviors:
    raise ValueError(
      f'store={config.store} has {store.rows} rows, {config.data} has'
      f' {clicks.sizes.num_behaviors} behaviours;'
      ' launch/build_behavior_store.py adds what is new.'
    )
  if config.tower == 'frozen' and num_low != num_layers:
    raise ValueError(
      f'tower=frozen needs a store of all {num_layers} layers; {config.store}'
      f' has {num_low}. Build one with --num_low={num_layers}.'
    )
  if config.tower == 'store' and num_low == num_layers:
    raise ValueError(
      f'tower=store: {config.store} has all {num_layers} layers, which leaves'
      ' none to train; use --tower=frozen, or a store with a smaller num_low.'
    )
  dtype = np.dtype(np.float32)
  if config.table_dtype != 'float32':
    dtype = np.dtype(jnp.dtype(config.table_dtype))
  table, said = table_lib.place(
    store.load(dtype),
    job.mesh,
    home=config.table,
    device_bytes=trainer_lib.memory_of_device(),
    max_distinct=_max_distinct(config, clicks),
    inside_groups=job.agent is not None,
  )
  logging.info('%s', said)
  return StoreTower(sequence_encoder(config, clicks, lm_config, num_low), table)


def _max_distinct(config: Config, clicks: Clicks) -> int:
  most = table_lib.most_distinct(clicks.rows_per_device, clicks.lengths)
  return config.max_distinct or most


def sequence_encoder(
  config: Config, clicks: Clicks, lm_config: LMConfig, num_low: int
) -> SequenceEncoder:
  """The high half over sequences, as the flags ask for."""
  places = 0
  if lm_config.positions == 'learned' and num_low < lm_config.num_layers:
    places = max(clicks.lengths) + (config.fusion == 'early')
  return SequenceEncoder(
    split.HighEncoder(lm_config, num_low, places),
    clicks.sizes.num_sequences,
    pooling=config.pooling,
    fusion=config.fusion,
  )


def _token_tower(config: Config, clicks: Clicks, lm_config: LMConfig) -> Tower:
  """The tower that reads tokens in each step."""
  tokenizer = pretrained_tokenizer.load_tokenizer(
    config.model, lm_config.vocab_size
  )
  folder = config.token_cache or output_folder.beside(
    config.data, 'examples', 'tokens'
  )
  of_a_text = _MAX_TOKENS if config.tower == 'full_text' else config.max_tokens
  cache = TokenCache.build(
    folder, clicks.vocabulary, config.model, max_tokens=of_a_text
  )
  if config.tower == 'dedup':
    num_low = _DEDUP_NUM_LOW if config.num_low is None else config.num_low
    return DedupTower(
      sequence_encoder(config, clicks, lm_config, num_low),
      min(_max_distinct(config, clicks), clicks.sizes.num_behaviors),
      min(config.max_tokens, int(cache.lengths.max())),
      cache,
    )
  return FullTextTower(
    lm_config,
    clicks.sizes.num_sequences,
    config.max_tokens,
    min(config.max_tokens, int(cache.lengths.max())),
    full_text.marks_of(tokenizer),
    cache,
  )


def activation_bytes(config: Config, model: ClickModel, clicks: Clicks) -> int:
  """About the bytes that the trained layers' activations take; 0 for others.

  The tower's sequences at the peak of the backward pass (`lm.cost`), and its
  rows of the table, or, of the dedup tower, one frozen layer over the tokens of
  its behaviors; of a full text its tokens.
  """
  dtype = jnp.dtype(config.compute_dtype)
  if isinstance(model.tower, FullTextTower):
    text = model.tower
    return cost.activation_bytes(
      dataclasses.replace(text.config, vocab_size=0),
      clicks.rows_per_device * text.num_sequences,
      text.num_tokens,
      dtype,
    )
  if not isinstance(model.tower, StoreTower | DedupTower):
    return 0
  encoder = model.tower.encoder
  high = encoder.high
  num_layers = high.config.num_layers - high.num_low
  places = max(clicks.lengths) + (encoder.fusion == 'early')
  sequences = clicks.rows_per_device * encoder.num_sequences
  rows = 2 * sequences * places * encoder.dim * dtype.itemsize
  if isinstance(model.tower, DedupTower):
    rows += _low_bytes(model.tower, dtype)
  if not num_layers or config.effective_tuning == 'none':
    return rows
  # No output layer: no logits.
  config_of_high = dataclasses.replace(
    high.config, num_layers=num_layers, vocab_size=0
  )
  return rows + cost.activation_bytes(config_of_high, sequences, places, dtype)


def _low_bytes(tower: DedupTower, dtype: Any) -> int:
  """Bytes of the low half's forward pass, which keeps no activations."""
  high = tower.encoder.high
  if not high.num_low:  # Embeddings only.
    tokens = tower.capacity * tower.num_tokens
    return tokens * tower.encoder.dim * dtype.itemsize
  one_layer = dataclasses.replace(
    high.config, num_layers=1, layers_per_step=1, vocab_size=0, remat='layer'
  )
  return cost.activation_bytes(
    one_layer, tower.capacity, tower.num_tokens, dtype
  )
