# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention over packed documents, by the fastest available method."""

from collections.abc import Iterator
import contextlib
import contextvars
from typing import Any, Literal

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import transition
from antjax.lm import blocked_attention, splash_attention
from antjax.lm.blocked_attention import Mask, product
from antjax.lm.positions import token_mask

# Shape suffixes: B = sequences, T = query tokens, S = key tokens, H = query
# heads, G = key/value heads, R = H / G query heads per key/value head, Q = R T,
# K = width of a head.

Method = Literal['auto', 'plain', 'blocked', 'cudnn', 'splash']

# Longer sequences are cut into blocks of queries.
MAX_PLAIN = 128
# Queries per block; with a bias, at least a 32nd of the sequence.
BLOCK = blocked_attention.BLOCK
_BIASED_BLOCK = 256
_MAX_BLOCKS = 32
_MODULES = {'blocked': blocked_attention, 'splash': splash_attention}
_MASKED = -1e30  # Finite, so that a row without keys is not nan.
_platform = contextvars.ContextVar[str | None]('_platform', default=None)


def attend(
  q_BTHK: jax.Array,
  k_BTGK: jax.Array,
  v_BTGK: jax.Array,
  segment_ids_BT: jax.Array | None = None,
  *,
  bias_HTT: jax.Array | None = None,
  is_causal: bool = True,
  scale: float | None = None,
  window: int | None = None,
  cap: float | None = None,
  method: Method = 'auto',
  block: int | None = None,
) -> jax.Array:
  """Softmax attention within a segment.

  Softmax is in fp32, products are in the inputs' dtype. All methods give the
  same result up to the order of summation.

  Args:
    q_BTHK: Queries.
    k_BTGK: Keys; H must be a multiple of G (grouped-query attention, Ainslie et
      al. 2023, https://arxiv.org/abs/2305.13245).
    v_BTGK: Values.
    segment_ids_BT: Document of each token, or lengths [B] of sequences with
      padding behind; None: one document per sequence.
    bias_HTT: Bias of the scaled scores, shared by all sequences.
    is_causal: Whether a token sees only itself and earlier tokens.
    scale: Factor of the scores; None: K ** -0.5.
    window: Distance from which tokens are not seen; None: all are seen.
    cap: Scaled scores s become cap * tanh(s / cap) before the bias; None: no
      cap.
    method: 'plain' holds all T x T scores of a head. 'blocked' holds `block` x
      T of them, also in the backward pass, and skips most of what a causal mask
      hides; it has no forward-mode derivative. 'cudnn' is the fused kernel of
      jax.nn.dot_product_attention (NVIDIA GPUs, 16-bit dtypes, no cap).
      'splash' is JAX's Pallas kernel (TPUs, no bias; on one device, or in a
      `shard_map` with check_vma=False). 'auto' is the fastest one that applies.
    block: Queries per block (maximum for 'splash'); None: the fastest. With a
      bias it is raised so that there are at most 32 blocks.

  Returns:
    Array [B, T, H, K].

  Raises:
    ValueError: H is not a multiple of G, 'splash' has a bias, 'cudnn' has a
      cap, or the method is unknown.
  """
  num_heads, num_kv_heads = q_BTHK.shape[2], k_BTGK.shape[2]
  if num_heads % num_kv_heads:
    raise ValueError(
      f'attend(): {num_heads} query heads do not share {num_kv_heads} key/value'
      ' heads evenly; make num_heads a multiple of num_kv_heads.'
    )
  if scale is None:
    scale = q_BTHK.shape[-1] ** -0.5
  how = Mask(is_causal, scale, window, cap)
  lengths_B = None
  if segment_ids_BT is not None and segment_ids_BT.ndim == 1:
    lengths_B = segment_ids_BT
    # No token sees padding behind it if causal.
    segment_ids_BT = None if is_causal else token_mask(q_BTHK, lengths_B)
  if method == 'auto':
    method = choose(
      q_BTHK.shape,
      q_BTHK.dtype,
      _platform.get() or jax.default_backend(),
      has_bias=bias_HTT is not None,
      has_cap=cap is not None,
      has_kernels=_may_call_kernels(q_BTHK),
    )
  if method == 'cudnn':
    ids = segment_ids_BT if lengths_B is None else lengths_B
    return _fused(q_BTHK, k_BTGK, v_BTGK, ids, bias_HTT, how)
  if method == 'plain':
    pair = segment_ids_BT, segment_ids_BT
    return _rows(q_BTHK, k_BTGK, v_BTGK, pair, bias_HTT, 0, how)
  if method == 'splash' and bias_HTT is not None:
    raise ValueError(
      "attend(method='splash'): the kernel adds no bias (T5's positions); use"
      " 'blocked', or 'auto', which does."
    )
  if method in _MODULES and bias_HTT is None:
    module = _MODULES[method]
    return module.attend(
      q_BTHK,
      k_BTGK,
      v_BTGK,
      segment_ids_BT,
      how=how,
      block=block or module.BLOCK,
    )
  if method == 'blocked':
    block = block or _BIASED_BLOCK
    return _blocked(
      q_BTHK, k_BTGK, v_BTGK, segment_ids_BT, bias_HTT, block, how
    )
  raise ValueError(
    f'attend(method={method!r}): unknown; use auto, plain, blocked, cudnn or'
    ' splash.'
  )


def choose(
  shape: tuple[int, ...],
  dtype: jax.typing.DTypeLike,
  platform: str,
  *,
  has_bias: bool = False,
  has_cap: bool = False,
  has_kernels: bool = True,
) -> Method:
  """The method that 'auto' selects for queries [B, T, H, K].

  `has_kernels`: whether a Pallas kernel may be called here: on one device, or
  in a `shard_map` over all axes with check_vma=False. XLA does not split a
  kernel, and those of JAX declare no varying axes.
  """
  num_tokens, width = shape[1], shape[3]
  is_16_bit = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
  fits = is_16_bit and width % 8 == 0 and width <= 128 and not has_cap
  # With a mask the kernel's backward pass refuses odd lengths.
  fits &= num_tokens % 2 == 0
  if platform == 'gpu' and fits:
    return 'cudnn'
  if num_tokens <= MAX_PLAIN:
    return 'plain'
  if platform == 'tpu' and has_kernels and not has_bias:
    return 'splash'
  return 'blocked'


@contextlib.contextmanager
def compiled_for(platform: str) -> Iterator[None]:
  """While it lasts, 'auto' selects for a platform that is not at hand."""
  token = _platform.set(platform)
  try:
    yield
  finally:
    _platform.reset(token)


def _may_call_kernels(x: jax.Array) -> bool:
  """See `choose`."""
  if transition.varying_axes(x):
    return False
  mesh = jax.sharding.get_abstract_mesh()
  is_local = bool(mesh.axis_names) and {*mesh.manual_axes} == {*mesh.axis_names}
  return is_local or jax.device_count() == 1


def check_vma(mesh: jax.sharding.Mesh) -> bool:
  """Value for `Trainer(check_vma=...)` that permits 'auto' every method."""
  return mesh.devices.flat[0].platform != 'tpu'


def _rows(q_BTHK, k_BSGK, v_BSGK, segments, bias_HTS, first: int, how: Mask):
  """Attention of queries first .. first + T to the keys 0 .. S.

  Scores have keys before queries, and the division by the softmax sum comes
  after the product. On CPUs this was the fastest form, forward and backward.
  """
  B, T, H, K = q_BTHK.shape
  S, G = k_BSGK.shape[1:3]
  q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K)
  q_BGKQ = jnp.transpose(q_BTGRK, (0, 2, 4, 3, 1)).reshape(B, G, K, -1)
  k_BGSK, v_BGSK = jnp.moveaxis(k_BSGK, 1, 2), jnp.moveaxis(v_BSGK, 1, 2)
  scores_BGSQ = how.scale * product('bgsk,bgkq->bgsq', k_BGSK, q_BGKQ)
  if how.cap:
    scores_BGSQ = how.cap * jnp.tanh(scores_BGSQ / how.cap)
  if bias_HTS is not None:
    bias_GSRT = jnp.moveaxis(bias_HTS.reshape(G, -1, T, S), 3, 1)
    scores_BGSQ += bias_GSRT.reshape(1, G, S, -1)
  mask_BST = how.seen(
    first + jnp.arange(T)[None, None], jnp.arange(S)[None, :, None]
  )
  q_segments_BT, k_segments_BS = segments
  if q_segments_BT is not None:
    same_BST = k_segments_BS[:, :, None] == q_segments_BT[:, None]
    mask_BST = same_BST if mask_BST is None else mask_BST & same_BST
  if mask_BST is not None:
    mask_B1SQ = jnp.tile(mask_BST[:, None], (1, 1, 1, H // G))
    scores_BGSQ = jnp.where(mask_B1SQ, scores_BGSQ, _MASKED)
  top_BG1Q = lax.stop_gradient(scores_BGSQ.max(axis=2, keepdims=True))
  weights_BGSQ = jnp.exp(scores_BGSQ - top_BG1Q)
  sums_BG1Q = weights_BGSQ.sum(axis=2, keepdims=True)
  weights_BGSQ = weights_BGSQ.astype(v_BGSK.dtype)
  mixed = product('bgsk,bgsq->bgkq', v_BGSK, weights_BGSQ) / sums_BG1Q
  mixed_BGKRT = mixed.astype(q_BTHK.dtype).reshape(B, G, K, -1, T)
  return jnp.transpose(mixed_BGKRT, (0, 4, 1, 3, 2)).reshape(B, T, H, K)


def _blocked(q_BTHK, k_BTGK, v_BTGK, segment_ids_BT, bias_HTT, block, how):
  """Blocks of queries, each recomputed in the backward pass.

  Used with a bias, whose gradient comes from autodiff.
  """
  num_tokens = q_BTHK.shape[1]
  block = max(block, -(-num_tokens // _MAX_BLOCKS))
  rows = jax.checkpoint(_rows, static_argnums=(5, 6))
  outputs = []
  for start in range(0, num_tokens, block):
    stop = min(start + block, num_tokens)
    end = stop if how.is_causal else num_tokens
    pair: tuple[Any, Any] = (None, None)
    if segment_ids_BT is not None:
      pair = segment_ids_BT[:, start:stop], segment_ids_BT[:, :end]
    outputs.append(
      rows(
        q_BTHK[:, start:stop],
        k_BTGK[:, :end],
        v_BTGK[:, :end],
        pair,
        bias_HTT[:, start:stop, :end],
        start,
        how,
      )
    )
  return jnp.concatenate(outputs, axis=1)


def _fused(q_BTHK, k_BTGK, v_BTGK, ids, bias_HTT, how):
  if how.cap:
    raise ValueError(
      "attend(method='cudnn'): the kernel caps no scores (score_cap); use"
      " 'blocked', or 'auto', which does."
    )
  mask_B1TT, lengths_B, window = None, None, None
  if ids is not None and ids.ndim == 1:  # Of a key at least, lest it be nan.
    lengths_B = None if how.is_causal else jnp.maximum(ids.astype(jnp.int32), 1)
  elif ids is not None:
    mask_B1TT = (ids[:, :, None] == ids[:, None, :])[:, None]
  if how.window and how.is_causal:
    window = how.window - 1, 0
  elif how.window:  # The kernel has no right-sided windows.
    place_T = jnp.arange(q_BTHK.shape[1])
    near_TT = how.seen(place_T[:, None], place_T[None])[None, None]
    mask_B1TT = near_TT if mask_B1TT is None else mask_B1TT & near_TT
  return jax.nn.dot_product_attention(
    q_BTHK,
    k_BTGK,
    v_BTGK,
    bias=None if bias_HTT is None else bias_HTT[None].astype(q_BTHK.dtype),
    mask=mask_B1TT,
    scale=how.scale,
    is_causal=how.is_causal,
    key_value_seq_lengths=lengths_B,
    local_window_size=window,
    implementation='cudnn',
  )
