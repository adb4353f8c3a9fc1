# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models, with weights far from those at birth."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from antjax.lm import config_json, transformer
from tests.lm import peer_families

_SIZES = {
  'vocab_size': 61,
  'num_layers': 3,
  'embed_dim': 32,
  'num_heads': 4,
  'num_kv_heads': 4,
  'mlp_dim': 48,
}
_LAYER_NORM = {
  **_SIZES,
  'norm': 'layer',
  'positions': 'learned',
  'max_positions': 40,
  'qkv_bias': True,
  'out_bias': True,
  'mlp_bias': True,
  'gated_mlp': False,
}
_OPT = {**_LAYER_NORM, 'position_offset': 2, 'activation': 'relu'}
_T5 = {
  **_SIZES,
  'causal': False,
  'positions': 'relative',
  'relative_buckets': 8,
  'relative_max_distance': 12,
  'attention_scale': 1.0,
  'norm_eps': 1e-6,
}
CONFIGS = {
  'llama': transformer.Config(
    **{**_SIZES, 'num_kv_heads': 2}, tie_embeddings=False
  ),
  'llama-biases': transformer.Config(
    **_SIZES, head_dim=10, qkv_bias=True, out_bias=True, mlp_bias=True
  ),
  'qwen2': transformer.Config(
    **{**_SIZES, 'num_kv_heads': 1},
    qkv_bias=True,
    rope_theta=1e6,
    norm_eps=1e-6,
  ),
  'opt': transformer.Config(**_OPT),
  'opt-post': transformer.Config(**_OPT, norm_place='post'),
  'bert': transformer.Config(
    **_LAYER_NORM,
    causal=False,
    norm_place='post',
    embed_norm=True,
    token_types=2,
    activation='gelu',
    norm_eps=1e-12,
  ),
  't5': transformer.Config(**_T5, activation='gelu_tanh', head_dim=12),
  't5-plain': transformer.Config(**_T5, activation='relu', gated_mlp=False),
}
# More families, as `transformers` writes their config.json.
_TEXTS = json.loads(np.load(peer_families.GOLDEN)['texts'].tobytes())
FAMILIES = {
  name: config_json.read_config(text['config']) for name, text in _TEXTS.items()
}
TOKENS = np.random.RandomState(7).randint(0, 61, (3, 17)).astype(np.int32)
MASK = peer_families.MASK


def params_of(config):
  """Weights far from those at birth, so that every part of a model shows."""

  def leaf(path, shape):
    name = path[-1].key
    seed = zlib.crc32(name.encode())
    x = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if name.endswith('norm'):
      return jnp.asarray(0.3 * x + (not config.norm_plus_one))
    # T5 divides no scores: its queries are small instead.
    small = name == 'query' and config.attention_scale == 1
    return jnp.asarray((0.08 if small else 0.25) * x)

  return jax.tree.map_with_path(
    leaf, transformer.shapes(config), is_leaf=transformer.is_shape
  )
