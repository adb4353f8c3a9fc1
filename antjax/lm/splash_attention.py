# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention with JAX's Pallas kernel for TPUs (splash attention).

Scores never leave the chip, and blocks hidden by a causal mask are not
computed. The kernel is JAX's own. This module adapts to its limits: lengths of
whole blocks, unscaled scores, one sequence at a time.
"""

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernel_lib,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as mask_lib,
)
import jax.numpy as jnp

from antjax.lm import blocked_attention

# Shape suffixes: B = sequences, T = tokens, H = query heads, G = key/value
# heads, K = width of a head.

# Maximum and granularity of the block size, in queries or keys.
BLOCK = 512
_LANES = kernel_lib.NUM_LANES
_PADDING = -1  # Segment of the tokens that fill the last block.


def attend(
  q_BTHK: jax.Array,
  k_BTGK: jax.Array,
  v_BTGK: jax.Array,
  segment_ids_BT: jax.Array | None = None,
  *,
  how: blocked_attention.Mask,
  block: int = BLOCK,
  interpret: bool = False,
) -> jax.Array:
  """See `antjax.lm.attention.attend`; scores are tiled on the chip.

  Queries are scaled before the product, in their own dtype. On several devices
  this needs a `shard_map` with check_vma=False: XLA does not split the kernel,
  which declares no manual axes. `interpret` runs it on any device, for tests.
  """
  num_tokens, num_heads = q_BTHK.shape[1:3]
  block, padded = blocks_of(num_tokens, block)
  if padded > num_tokens and segment_ids_BT is None:
    segment_ids_BT = jnp.zeros(q_BTHK.shape[:2], jnp.int32)
  segments = None
  if segment_ids_BT is not None:
    rest = ((0, 0), (0, padded - num_tokens))
    ids_BT = jnp.pad(segment_ids_BT, rest, constant_values=_PADDING)
    segments = kernel_lib.SegmentIds(ids_BT, ids_BT)

  def heads_first(x_BTHK: jax.Array) -> jax.Array:
    rest = ((0, 0), (0, padded - num_tokens), (0, 0), (0, 0))
    return jnp.swapaxes(jnp.pad(x_BTHK, rest), 1, 2)

  shape = padded, padded
  head: mask_lib.Mask = mask_lib.FullMask(shape)
  if how.is_causal:
    head = mask_lib.CausalMask(shape)
  if how.window:
    sides = how.window - 1, 0 if how.is_causal else how.window - 1
    head = mask_lib.LocalMask(shape, sides, 0)
  kernel = kernel_lib.make_splash_mha(
    mask_lib.MultiHeadMask([head] * num_heads),
    block_sizes=kernel_lib.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=how.cap,
    residual_checkpoint_name=blocked_attention.KEPT,
    interpret=interpret,
  )
  scaled_BTHK = (how.scale * q_BTHK.astype(jnp.float32)).astype(q_BTHK.dtype)
  mixed_BHTK = jax.vmap(kernel)(
    heads_first(scaled_BTHK),
    heads_first(k_BTGK),
    heads_first(v_BTGK),
    segments,
  )
  return jnp.swapaxes(mixed_BHTK, 1, 2)[:, :num_tokens]


def blocks_of(num_tokens: int, most: int = BLOCK) -> tuple[int, int]:
  """(tokens per block, padded length), for the fewest and most even blocks.

  A block has at most `most` tokens, rounded up to the kernel's lanes.
  """
  most = -(-most // _LANES) * _LANES
  num_blocks = max(1, -(-num_tokens // most))
  block = max(1, -(-num_tokens // (num_blocks * _LANES))) * _LANES
  return block, num_blocks * block
