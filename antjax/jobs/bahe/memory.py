# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the activations of a click model take of a device."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from antjax.ctr.bahe.full_text import FullTextTower
from antjax.ctr.bahe.model import ClickModel
from antjax.ctr.bahe.towers import DedupTower, StoreTower
from antjax.jobs.bahe.config import Config
from antjax.jobs.bahe.data import Clicks
from antjax.lm import cost


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
    high.config,
    num_layers=1,
    layers_per_step=1,
    vocab_size=0,
    remat='layer',
  )
  return cost.activation_bytes(
    one_layer, tower.capacity, tower.num_tokens, dtype
  )
