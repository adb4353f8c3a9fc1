# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Positions of tokens: rotary (Llama) and relative (T5).

Sources: Su et al. 2021 (https://arxiv.org/abs/2104.09864) for rotary positions,
Raffel et al. 2020 (https://arxiv.org/abs/1910.10683) for relative ones.
"""

import dataclasses
import json
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.embedding.lookup import take_rows
from antjax.lm.config import Config

# Shape suffixes: B = sequences, T = query tokens, S = key tokens, H = heads,
# K = width of a head.


def token_mask(x: jax.Array, lengths: jax.Array) -> jax.Array:
  """Segments int32 [B, T] of lengths [B]: 1 for tokens, 0 for padding behind.

  They are of inputs x [B, T, ...]. Lengths that are segments already are
  returned as they are.
  """
  if lengths.ndim > 1:
    return lengths
  return (jnp.arange(x.shape[1])[None] < lengths[:, None]).astype(jnp.int32)


def document_positions(
  tokens: jax.Array, segment_ids: jax.Array | None
) -> jax.Array:
  """Place of each token in its run of equal segment ids, int32 [B, T]."""
  place_T = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  if segment_ids is None:
    return jnp.broadcast_to(place_T, tokens.shape)
  segment_ids = token_mask(tokens, segment_ids)
  is_first = jnp.pad(
    segment_ids[:, 1:] != segment_ids[:, :-1],
    ((0, 0), (1, 0)),
    constant_values=True,
  )
  place_BT = jnp.broadcast_to(place_T, tokens.shape)
  return place_BT - lax.cummax(jnp.where(is_first, place_BT, 0), axis=1)


def rope_angles(
  config: Config, positions: jax.Array
) -> tuple[jax.Array, jax.Array] | None:
  """(cos, sin) of the rotary angles; None without rotary positions.

  fp32 [B, T, 1, K / 2]; stacked by letter, sorted, if the pattern has several.
  """
  if config.positions != 'rope':
    return None
  found = [
    _angles(config, letter, positions) for letter in sorted(set(config.letters))
  ]
  if len(found) == 1:
    return found[0]
  return jnp.stack([cos for cos, _ in found]), jnp.stack([x for _, x in found])


def _angles(config: Config, letter: str, positions: jax.Array):
  is_local = letter == 'w' and config.rope_local_theta > 0
  theta = config.rope_local_theta if is_local else config.rope_theta
  width = config.rotary_width
  exponents = jnp.arange(0, width, 2, dtype=jnp.float32) / width
  frequencies, factor = theta**-exponents, 1.0
  if config.rope_scaling and not is_local:
    scaling = json.loads(config.rope_scaling)
    frequencies, factor = _scale(scaling, theta, exponents, positions)
  if letter == 'n':
    frequencies, factor = 0 * frequencies, 1.0
  angles = jnp.einsum('bt,k->btk', positions.astype(jnp.float32), frequencies)
  angles = angles[:, :, None]
  return factor * jnp.cos(angles), factor * jnp.sin(angles)


def _scale(
  scaling: dict[str, Any],
  theta: float,
  exponents: jax.Array,
  positions: jax.Array,
) -> tuple[jax.Array, float]:
  """Frequencies of a rope_scaling, and a factor of queries and keys.

  As in `transformers`, dynamic and longrope depend on a batch's longest text.
  """
  kind, width = scaling['rope_type'], 2 * len(exponents)
  frequencies = theta**-exponents
  longest: Any = scaling.get('max_position_embeddings')
  original: Any = scaling.get('original_max_position_embeddings', longest)
  if kind == 'longrope':
    factor = scaling.get('factor', longest / original)
    both = jnp.asarray([scaling['short_factor'], scaling['long_factor']])
    is_long = (jnp.max(positions) >= original).astype(jnp.int32)
    by = math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(original))
    return frequencies / both[is_long], scaling.get('attention_factor', by)
  factor = scaling['factor']
  if kind == 'linear':
    return frequencies / factor, 1.0
  if kind == 'dynamic':
    length = jnp.maximum(jnp.max(positions) + 1, longest).astype(jnp.float32)
    by = factor * length / longest - (factor - 1)
    return (theta * by ** (width / (width - 2))) ** -exponents, 1.0
  if kind == 'llama3':
    low, high = scaling['low_freq_factor'], scaling['high_freq_factor']
    turns = original * frequencies / (2 * math.pi)
    share = jnp.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (share + (1 - share) / factor), 1.0

  def place(turns: float) -> float:  # Place with this many turns per text.
    wavelength = original / (turns * 2 * math.pi)
    return width * math.log(wavelength) / (2 * math.log(theta))

  # YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071).
  first = place(scaling.get('beta_fast', 32))
  last = place(scaling.get('beta_slow', 1))
  if scaling.get('truncate', True):
    first, last = math.floor(first), math.ceil(last)
  first, last = max(first, 0), min(last, width - 1)
  if first == last:
    last += 0.001
  steps = jnp.arange(len(exponents))
  share = 1 - jnp.clip((steps - first) / (last - first), 0, 1)

  def grown(weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

  one, other = scaling.get('mscale'), scaling.get('mscale_all_dim')
  grows = grown(one) / grown(other) if one and other else grown(1.0)
  frequencies *= share + (1 - share) / factor
  return frequencies, scaling.get('attention_factor', grows)


def rotate(x_BTHK: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates each pair (x[i], x[i + K / 2]) by its token's angle.

  Fewer than K / 2 angles rotate only the first numbers of a head.
  """
  cos, sin = angles
  width = 2 * cos.shape[-1]
  a, b = jnp.split(x_BTHK[..., :width].astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  turned = turned.astype(x_BTHK.dtype)
  if width == x_BTHK.shape[-1]:
    return turned
  return jnp.concatenate([turned, x_BTHK[..., width:]], axis=-1)


def extend_learned(
  config: Config, params: Any, max_positions: int
) -> tuple[Config, Any]:
  """Extends learned positions by repeating the trained ones.

  Far positions start as copies, which training separates (Beltagy et al. 2020,
  https://arxiv.org/abs/2004.05150, section 5). Models without learned
  positions, or with enough of them, do not change.
  """
  if config.positions != 'learned' or max_positions <= config.max_positions:
    return config, params
  offset, table = config.position_offset, params['positions']
  places = offset + np.arange(max_positions) % config.max_positions
  rows = np.concatenate([np.arange(offset), places])
  return (
    dataclasses.replace(config, max_positions=max_positions),
    {**params, 'positions': table[rows]},
  )


def relative_bias(
  config: Config,
  table: jax.Array | None,
  queries: jax.Array,
  keys: jax.Array,
) -> jax.Array | None:
  """T5's bias of the scores; None if the model has no relative positions.

  Args:
    config: Configuration of the model.
    table: [relative_buckets, H].
    queries: int32 [..., T], places of the queries.
    keys: int32 [..., S], places of the keys.

  Returns:
    fp32 [..., H, T, S].
  """
  if not config.is_relative:
    return None
  assert table is not None
  offset_TS = keys[..., None, :] - queries[..., :, None]
  half = config.relative_buckets
  buckets = jnp.zeros_like(offset_TS)
  if config.causal:
    distance_TS = jnp.maximum(-offset_TS, 0)
  else:  # Half of the classes are for keys after the query.
    half //= 2
    buckets = jnp.where(offset_TS > 0, half, 0)
    distance_TS = jnp.abs(offset_TS)
  classes = jnp.asarray(distance_classes(half, config.relative_max_distance))
  buckets += classes[jnp.minimum(distance_TS, config.relative_max_distance)]
  bias = take_rows(table.astype(jnp.float32), buckets)
  return jnp.moveaxis(bias, -1, -3)


def distance_classes(num_classes: int, max_distance: int) -> np.ndarray:
  """Class of each distance, int32 [max_distance + 1].

  Half of the classes are single short distances, the others are logarithmic.
  Computed in fp32, as in T5's training.
  """
  exact = num_classes // 2
  distances = np.arange(1, max_distance + 1, dtype=np.float32)
  places = np.log(distances / np.float32(exact)) / np.float32(
    math.log(max_distance / exact)
  )
  places = np.maximum(places * np.float32(num_classes - exact), 0)
  far = exact + places.astype(np.int32)
  near = np.arange(max_distance + 1)
  classes = np.minimum(np.concatenate([[0], far]), num_classes - 1)
  return np.where(near < exact, near, classes).astype(np.int32)
