# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Costs of a transformer: parameters, FLOPs and activations."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from antjax.lm import attention, next_token, transformer


def num_params(config: transformer.Config) -> int:
  """Number of parameters."""
  shapes = jax.tree.leaves(
    transformer.shapes(config), is_leaf=transformer.is_shape
  )
  return sum(math.prod(shape) for shape in shapes)


def flops_per_token(config: transformer.Config, num_tokens: int) -> float:
  """Floating-point operations of forward and backward pass, per token.

  6 for each weight in a matrix product (including the output layer, without the
  embedding lookup), and 6 L T H K for attention, where a token sees half of T
  tokens on average; twice that if it sees all, and at most the window in layers
  with one. Only the experts of a token count, and recomputation does not. This
  is the numerator of MFU (Chowdhery et al. 2022,
  https://arxiv.org/abs/2204.02311, appendix B, except that their 12 L T H K
  includes masked scores).
  """
  shapes = transformer.shapes(config)['layers'].values()
  matrices = sum(math.prod(shape) for shape in shapes if len(shape) == 3)
  experts = sum(math.prod(shape) for shape in shapes if len(shape) == 4)
  matrices += experts * config.experts_per_token // max(config.num_experts, 1)
  if config.causal:
    matrices += config.embed_dim * config.vocab_size
  width = config.num_heads * config.head_width
  far = 1 if config.causal else 2
  seen = sum(
    far * min(num_tokens, 2 * config.window if letter == 'w' else num_tokens)
    for letter in config.letters
  )
  return 6.0 * matrices + 6.0 * seen * width


def activation_bytes(
  config: transformer.Config,
  num_sequences: int,
  num_tokens: int,
  dtype: Any = None,
) -> int:
  """Approximate bytes of activations at the peak of a backward pass.

  Includes what `remat` keeps of each layer, one layer's working set, and the
  logits held at once by the loss with their gradient, for a device's
  micro-batch of sequences. An estimate for planning; dtype None means fp32.
  """
  size = jnp.dtype(dtype or jnp.float32).itemsize
  tokens = num_sequences * num_tokens
  D, F = config.embed_dim, config.mlp_dim
  HK = config.num_heads * config.head_width
  GK = config.num_kv_heads * config.head_width
  F *= max(1, config.experts_per_token if config.num_experts else 1)
  products = HK + 2 * GK + 2 * D + (2 if config.gated_mlp else 1) * F
  # Norms, rotated heads, and values kept by softmax, SiLU and sums.
  working = products + 2 * (HK + GK) + 4 * D + 2 * F
  queries = num_tokens if num_tokens <= attention.MAX_PLAIN else attention.BLOCK
  scores = 2 * tokens * config.num_heads * queries * 4
  kept = {'none': working, 'dots': products + D, 'layer': D}[config.remat]
  logits = min(tokens * config.vocab_size, next_token.MAX_LOGITS)
  if not config.causal:
    logits = 0
  layers = config.num_layers * kept * tokens * size
  if config.remat == 'none':
    scores *= config.num_layers
  return layers + working * tokens * size + scores + 2 * 4 * logits
