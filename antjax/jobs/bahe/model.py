# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model of launch/train_bahe.py: the tower that the flags ask for."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from absl import logging
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import psutil

from antjax.ctr.bahe import full_text
from antjax.ctr.bahe import table as table_lib
from antjax.ctr.bahe.full_text import FullTextTower
from antjax.ctr.bahe.model import ClickModel
from antjax.ctr.bahe.store import BehaviorStore
from antjax.ctr.bahe.towers import DedupTower, StoreTower, Tower
from antjax.data import output_folder
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.bahe.config import Config
from antjax.jobs.bahe.data import Clicks
from antjax.lm import fingerprint, pretrained_tokenizer
from antjax.lm.split import HighEncoder, LowEncoder
from antjax.lm.token_cache import TokenCache
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import INTRA
from antjax.plan import lm_cost

PyTree = Any
# Tokens of a behavior in a full text at most.
_MAX_TOKENS = 128
_DEDUP_NUM_LOW = 3  # Without --num_low.


@dataclasses.dataclass(frozen=True)
class BuiltClickModel:
  """A click model and where its parameters begin."""

  model: ClickModel  # Without a low half that a store has.
  merge: Callable[[PyTree], ClickModel]  # Parameters -> the model with them.
  params: PyTree  # numpy arrays.
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
  num_absent = 0
  if config.tower != 'none':
    lm = config.language_model(
      config.max_tokens if config.tower == 'full_text' else 0,
    )
    if config.tower in ('store', 'frozen'):
      tower = _store_tower(config, job, clicks, lm)
    else:
      tower = _token_tower(config, clicks, lm)
    num_absent = _size(lm) - min(_size(tower), _size(lm))
  rngs = nnx.Rngs(config.seed)
  model = ClickModel(tower, config.head, config.ids, clicks.sizes, rngs=rngs)
  merge, params = config.tuned(model, rngs, config.effective_tuning)
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
  return BuiltClickModel(
    model,
    merge,
    params,
    constants,
    table_bytes,
    table_level,
    num_absent,
    activation_bytes(config, model, clicks),
    _made_of(config, clicks),
  )


def _size(module: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(nnx.state(module)))


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
  config: Config, job: job_lib.Job, clicks: Clicks, lm: Transformer
) -> StoreTower:
  store = BehaviorStore.open(config.store)
  manifest = store.manifest
  manifest.check(
    model=fingerprint.of_model(config.model),
    tokenizer=fingerprint.of_tokenizer(config.model),
  )
  manifest.check_vocabulary(clicks.vocabulary)
  num_low, num_layers = manifest.num_low, lm.config.num_layers
  if config.num_low not in (None, num_low):
    raise ValueError(
      f'num_low={config.num_low}: the store at {config.store} has rows of'
      f' num_low={num_low}; give --num_low=none to take that, or a'
      f' store that was built with --num_low={config.num_low}.'
    )
  if store.rows < clicks.sizes.num_behaviors:
    raise ValueError(
      f'store={config.store} has {store.rows} rows, {config.data} has'
      f' {clicks.sizes.num_behaviors} behaviors;'
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
    store.table(dtype, hot_bytes=config.hot_mb << 20),
    job.mesh,
    home=config.table,
    device_bytes=trainer_lib.memory_of_device(),
    host_bytes=psutil.virtual_memory().total,
    max_distinct=_max_distinct(config, clicks),
    inside_groups=job.agent is not None,
  )
  logging.info('%s', said)
  return StoreTower(
    _high(config, clicks, lm, num_low),
    clicks.sizes.num_sequences,
    table,
    pooling=config.pooling,
    fusion=config.fusion,
  )


def _max_distinct(config: Config, clicks: Clicks) -> int:
  most = table_lib.most_distinct(clicks.rows_per_device, clicks.lengths)
  return config.max_distinct or most


def _high(
  config: Config, clicks: Clicks, lm: Transformer, num_low: int
) -> HighEncoder:
  """The high half, with places for the behaviors."""
  places = 0
  if lm.config.positions == 'learned' and num_low < lm.config.num_layers:
    places = max(clicks.lengths) + (config.fusion == 'early')
  return HighEncoder(lm, num_low, places)


def _token_tower(config: Config, clicks: Clicks, lm: Transformer) -> Tower:
  """The tower that reads tokens in each step."""
  tokenizer = pretrained_tokenizer.load_tokenizer(
    config.model, lm.config.vocab_size
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
      LowEncoder(lm, num_low),
      _high(config, clicks, lm, num_low),
      clicks.sizes.num_sequences,
      cache,
      capacity=min(_max_distinct(config, clicks), clicks.sizes.num_behaviors),
      num_tokens=min(config.max_tokens, int(cache.lengths.max())),
      pooling=config.pooling,
      fusion=config.fusion,
    )
  return FullTextTower(
    lm,
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
    return lm_cost.activation_bytes(
      dataclasses.replace(text.lm.config, vocab_size=0),
      clicks.rows_per_device * text.num_sequences,
      text.num_tokens,
      dtype,
    )
  if not isinstance(model.tower, StoreTower | DedupTower):
    return 0
  tower = model.tower
  high = tower.high
  num_layers = high.config.num_layers - high.num_low
  places = max(clicks.lengths) + (tower.fusion == 'early')
  sequences = clicks.rows_per_device * tower.num_sequences
  rows = 2 * sequences * places * tower.dim * dtype.itemsize
  if isinstance(model.tower, DedupTower):
    rows += _low_bytes(model.tower, dtype)
  if not num_layers or config.effective_tuning == 'none':
    return rows
  # No output layer: no logits.
  config_of_high = dataclasses.replace(
    high.config, num_layers=num_layers, vocab_size=0
  )
  return rows + lm_cost.activation_bytes(
    config_of_high, sequences, places, dtype
  )


def _low_bytes(tower: DedupTower, dtype: Any) -> int:
  """Bytes of the low half's forward pass, which keeps no activations."""
  high = tower.high
  if not high.num_low:  # Embeddings only.
    tokens = tower.capacity * tower.num_tokens
    return tokens * tower.dim * dtype.itemsize
  one_layer = dataclasses.replace(
    high.config, num_layers=1, layers_per_step=1, vocab_size=0, remat='layer'
  )
  return lm_cost.activation_bytes(
    one_layer, tower.capacity, tower.num_tokens, dtype
  )
