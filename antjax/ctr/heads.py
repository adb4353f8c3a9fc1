# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Heads of click models: from feature vectors and histories to a logit."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from antjax.layers import cross, dense, pooling, target_attention

# Shape suffixes: B = examples, M = places of a history, D = its width, X =
# width of all features.

PyTree = Any


class History(NamedTuple):
  """What a user did, as vectors, and the candidate in the same space.

  Attributes:
    keys_BMD: Vectors of the history.
    is_there_BM: bool, False for padding.
    query_BD: The candidate.
  """

  keys_BMD: jax.Array
  is_there_BM: jax.Array
  query_BD: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
  """What makes a click probability of a user's and an item's vectors."""

  kind: Annotated[
    Literal['dnn', 'dcnv2', 'din'],
    'dnn: an MLP over all vectors. dcnv2: cross layers beside it. din: an MLP'
    ' over histories that are weighted by the candidate; others take means.',
  ] = 'dnn'
  widths: Annotated[tuple[int, ...], 'Hidden widths of the MLP.'] = (256, 128)
  cross_layers: Annotated[int, 'Cross layers of dcnv2.'] = 2
  cross_rank: Annotated[
    int, 'Rank of the matrices of cross layers; 0: full rank.'
  ] = 64
  attention_widths: Annotated[
    tuple[int, ...], 'Hidden widths of the attention of din.'
  ] = (64, 32)

  def __post_init__(self) -> None:
    if not self.widths or min(self.widths) < 1:
      raise ValueError(
        f'head.widths={self.widths}: give one or more positive widths.'
      )
    if not self.attention_widths or min(self.attention_widths) < 1:
      raise ValueError(
        f'head.attention_widths={self.attention_widths}: give one or more'
        ' positive widths.'
      )
    if self.cross_layers < 1 or self.cross_rank < 0:
      raise ValueError(
        f'head.cross_layers={self.cross_layers} must be at least 1,'
        f' head.cross_rank={self.cross_rank} not negative.'
      )


def init(
  config: HeadConfig,
  key: jax.Array,
  num_features: int,
  history_dims: Mapping[str, int],
) -> PyTree:
  """A head's parameters.

  Args:
    config: The head.
    key: Random key.
    num_features: Width of the features beside histories.
    history_dims: Name of a history -> its D; the head sees it pooled.

  Raises:
    ValueError: There is nothing to look at.
  """
  width = num_features + sum(history_dims.values())
  if not width:
    raise ValueError('heads.init: no features and no history; give some.')
  k_mlp, k_out, k_cross, k_attention = jax.random.split(key, 4)
  params: dict[str, Any] = {'mlp': dense.init_mlp(k_mlp, width, config.widths)}
  out_width = config.widths[-1]
  if config.kind == 'dcnv2':
    params['cross'] = cross.init(
      k_cross, width, config.cross_layers, config.cross_rank
    )
    out_width += width
  if config.kind == 'din':
    keys = jax.random.split(k_attention, len(history_dims) or 1)
    params['attention'] = {
      name: target_attention.init(k, dim, config.attention_widths)
      for k, (name, dim) in zip(keys, history_dims.items(), strict=False)
    }
  params['out'] = dense.init(k_out, out_width, 1)
  return params


def logits(
  config: HeadConfig,
  params: PyTree,
  features: Sequence[jax.Array],
  histories: Mapping[str, History],
) -> jax.Array:
  """fp32 logits of a click, [B].

  Args:
    config: The head.
    params: From `init`.
    features: [B, ...] each.
    histories: Name -> history, those of `init`.
  """
  dtype = params['out']['kernel'].dtype
  parts = list(features)
  for name, (keys_BMD, is_there_BM, query_BD) in histories.items():
    keys_BMD = keys_BMD.astype(dtype)
    if config.kind == 'din':
      attention = params['attention'][name]
      pooled = target_attention.attend(
        attention, query_BD.astype(dtype), keys_BMD, is_there_BM
      )
    else:
      pooled = pooling.pool(keys_BMD, jnp.where(is_there_BM, 0, -1))
    parts.append(pooled)
  x_BX = jnp.concatenate([x.astype(dtype) for x in parts], axis=-1)
  deep = dense.mlp(params['mlp'], x_BX)
  if config.kind == 'dcnv2':
    deep = jnp.concatenate([deep, cross.cross(params['cross'], x_BX)], axis=-1)
  return dense.apply(params['out'], deep)[:, 0].astype(jnp.float32)
