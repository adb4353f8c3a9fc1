# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a transformer that full passes and generation share.

Sources: Zhang and Sennrich 2019 (https://arxiv.org/abs/1910.07467) for RMSNorm,
Shazeer 2020 (https://arxiv.org/abs/2002.05202) for the gated MLP, Hu et al.
2021 (https://arxiv.org/abs/2106.09685) for LoRA.
"""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.embedding.lookup import take_rows
from antjax.lm import attention, positions
from antjax.lm.config import Config

# Shape suffixes: B = sequences, T = tokens of a sequence, D = embed_dim,
# S = all tokens, H = query heads, G = key/value heads, K = width of a head,
# F = mlp_dim, V = vocabulary.

Weights = Mapping[str, Any]
Angles = tuple[jax.Array, jax.Array] | None


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
  """The exact one; jax 0.12.0 cannot differentiate its own in `shard_map`."""
  return x * lax.erfc(-x * math.sqrt(0.5)) / 2


@_gelu.defjvp
def _gelu_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (x,), (dx,) = primals, tangents
  share = lax.erfc(-x * math.sqrt(0.5)) / 2  # Normal distribution,
  density = jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)  # and its density.
  return x * share, dx * (share + x * density)


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'silu': jax.nn.silu,
  'gelu': _gelu,
  'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
  'relu': jax.nn.relu,
}


def lookup(table_VD: jax.Array, ids: jax.Array) -> jax.Array:
  """Rows [..., D] of a table, in its dtype."""
  # By fp32, so that the rows' gradients are added up in fp32.
  return take_rows(table_VD.astype(jnp.float32), ids).astype(table_VD.dtype)


def embed(
  config: Config,
  params: Weights,
  tokens: jax.Array,
  places: jax.Array,
  token_types: jax.Array | None = None,
) -> jax.Array:
  """Input of the first layer, [B, T, D] in the parameters' dtype.

  The params are the whole tree, whose layers are not used; places [B, T] are
  those of tokens in their documents; no token types are all 0.

  Raises:
    ValueError: Types for a model without them.
  """
  if token_types is not None and not config.token_types:
    raise ValueError(
      'token_types were given, but the model has none (config.token_types=0).'
    )
  x_BTD = lookup(params['embed'], tokens)
  if config.positions == 'learned':
    x_BTD += lookup(params['positions'], places + config.position_offset)
  if config.token_types:
    if token_types is None:
      token_types = jnp.zeros_like(tokens)
    x_BTD += lookup(params['token_types'], token_types)
  return (
    norm(config, params, 'embed_norm', x_BTD) if config.embed_norm else x_BTD
  )


def norm(config: Config, weights: Weights, name: str, x: jax.Array):
  """The model's norm over the last dim, computed in fp32."""
  y = x.astype(jnp.float32)
  if config.norm == 'layer':
    y -= jnp.mean(y, axis=-1, keepdims=True)
  y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + config.norm_eps)

  def spread(name: str) -> jax.Array:
    return jnp.broadcast_to(weights[name].astype(jnp.float32), y.shape)

  y = y * spread(name)
  if config.norm == 'layer':
    y += spread(f'{name}_bias')
  return y.astype(x.dtype)


def dense(config: Config, weights: Weights, name: str, x: jax.Array):
  """The product x W, plus LoRA adapter and bias where the layer has them."""
  y = x @ weights[name]
  if f'{name}_lora_a' in weights:
    low = x @ weights[f'{name}_lora_a']
    y += config.lora_scale * (low @ weights[f'{name}_lora_b'])
  if f'{name}_bias' in weights:
    y += jnp.broadcast_to(weights[f'{name}_bias'], y.shape)
  return y


def project(
  config: Config, weights: Weights, x_BTD: jax.Array, angles: Angles
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Queries [B, T, H, K], keys and values [B, T, G, K] of one layer."""
  h_BTD = x_BTD
  if config.norm_place == 'pre':
    h_BTD = norm(config, weights, 'attention_norm', x_BTD)

  def heads(name: str) -> jax.Array:
    return dense(config, weights, name, h_BTD).reshape(
      *h_BTD.shape[:2], -1, config.head_width
    )

  q, k, v = heads('query'), heads('key'), heads('value')
  if angles is None:
    return q, k, v
  return positions.rotate(q, angles), positions.rotate(k, angles), v


def attend(
  config: Config,
  q_BTHK: jax.Array,
  k_BTGK: jax.Array,
  v_BTGK: jax.Array,
  segment_ids: jax.Array | None = None,
  bias_HTT: jax.Array | None = None,
) -> jax.Array:
  """The model's attention over whole sequences, [B, T, H, K]."""
  return attention.attend(
    q_BTHK,
    k_BTGK,
    v_BTGK,
    segment_ids,
    bias_HTT=bias_HTT,
    is_causal=config.causal,
    scale=attention_scale(config),
    method=config.attention,
  )


def attention_scale(config: Config) -> float:
  """Factor of the scores."""
  return config.head_width**-0.5 if config.scale_attention else 1.0


def finish(
  config: Config, weights: Weights, x_BTD: jax.Array, mixed_BTHK: jax.Array
) -> jax.Array:
  """The rest of a layer: attention's output, then the MLP."""
  mixed = mixed_BTHK.reshape(*x_BTD.shape[:2], -1)
  x_BTD = x_BTD + dense(config, weights, 'out', mixed)
  h_BTD = norm(
    config,
    weights,
    'mlp_norm' if config.norm_place == 'pre' else 'attention_norm',
    x_BTD,
  )
  if config.norm_place == 'pre':
    return x_BTD + _mlp(config, weights, h_BTD)
  return norm(config, weights, 'mlp_norm', h_BTD + _mlp(config, weights, h_BTD))


def _mlp(config: Config, weights: Weights, h_BTD: jax.Array) -> jax.Array:
  activate = _ACTIVATIONS[config.activation]
  # As a matrix: between products XLA:CPU takes half as long again for an
  # activation of more dims.
  h_SD = h_BTD.reshape(-1, h_BTD.shape[-1])
  up_SF = dense(config, weights, 'up', h_SD)
  if config.gated_mlp:
    inner_SF = activate(dense(config, weights, 'gate', h_SD)) * up_SF
  else:
    inner_SF = activate(up_SF)
  return dense(config, weights, 'down', inner_SF).reshape(h_BTD.shape)


def final_norm(config: Config, params: Weights, x_BTD: jax.Array) -> jax.Array:
  """The norm after the last layer, which post-norm models lack."""
  if config.norm_place == 'post':
    return x_BTD
  return norm(config, params, 'final_norm', x_BTD)


def unembed(config: Config, params: Weights, x_BTD: jax.Array) -> jax.Array:
  """fp32 logits [..., V]."""
  return scores(x_BTD, output_matrix(config, params))


def output_matrix(config: Config, params: Weights) -> jax.Array:
  """[D, V].

  Raises:
    ValueError: The model is an encoder.
  """
  if not config.causal:
    raise ValueError(
      'logits of the next token: the model is an encoder (causal=False) and has'
      ' no output layer; use transformer.hidden.'
    )
  return params['embed'].T if config.tie_embeddings else params['lm_head']


def scores(x_BTD: jax.Array, kernel_DV: jax.Array) -> jax.Array:
  """Products in the inputs' dtype, fp32 sums."""
  return jnp.einsum(
    '...d,dv->...v', x_BTD, kernel_DV, preferred_element_type=jnp.float32
  )
