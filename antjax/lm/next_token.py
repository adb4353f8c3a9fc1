# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy of the next token, in chunks if there are many logits."""

import jax
from jax import lax
import jax.numpy as jnp

from antjax.embedding.lookup import pick
from antjax.lm import blocks
from antjax.lm.config import Config
from antjax.lm.positions import token_mask

# Shape suffixes: B = sequences, T = tokens of a sequence, D = embed_dim,
# V = vocabulary, C = tokens in a chunk, N = chunks.

# Maximum number of logits in memory: 64 MiB in fp32.
MAX_LOGITS = 1 << 24


def targets(
  tokens: jax.Array, segment_ids: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """(next token, whether it counts), both [B, T].

  The first token of a document is not predicted from the token before it, and
  segment 0, the padding, has no targets.
  """
  last = ((0, 0), (0, 1))
  counts = jnp.ones_like(tokens[:, 1:], bool)
  if segment_ids is not None:
    segment_ids = token_mask(tokens, segment_ids)
    now, following = segment_ids[:, :-1], segment_ids[:, 1:]
    counts = (following == now) & (following > 0)
  counts = jnp.pad(counts.astype(jnp.float32), last)
  return jnp.pad(tokens[:, 1:], last), counts


def losses(
  config: Config,
  x_BTD: jax.Array,
  kernel_DV: jax.Array,
  next_BT: jax.Array,
  max_logits: int,
) -> jax.Array:
  """Cross-entropy of each token, fp32 [B, T].

  Computes chunks of tokens if there are more than `max_logits` logits.
  """

  def chunk_losses(x_BCD, kernel_DV, next_BC):
    logits_BCV = blocks.logits(config, x_BCD, kernel_DV.astype(x_BCD.dtype))
    log_z = jax.nn.logsumexp(logits_BCV, axis=-1)
    return log_z - pick(logits_BCV, next_BC)

  B, T = next_BT.shape
  num_chunks = -(-(B * T * kernel_DV.shape[1]) // max_logits)
  if num_chunks <= 1:
    return chunk_losses(x_BTD, kernel_DV, next_BT)
  C = max(1, T // num_chunks)
  N = -(-T // C)

  def chunks(x):  # [B, T, ...] -> [N, B, C, ...]
    padding = [(0, 0), (0, N * C - T)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, padding).reshape(B, N, C, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  # In fp32, so that the chunks' gradients are summed in fp32.
  kernel_DV = kernel_DV.astype(jnp.float32)
  recomputed = jax.checkpoint(chunk_losses)
  losses_NBC = lax.map(
    lambda chunk: recomputed(chunk[0], kernel_DV, chunk[1]),
    (chunks(x_BTD), chunks(next_BT)),
  )
  return jnp.moveaxis(losses_NBC, 0, 1).reshape(B, N * C)[:, :T]
