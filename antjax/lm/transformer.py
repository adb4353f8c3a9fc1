# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A causal transformer of the Llama family, as pure functions.

Parameters are a dict tree whose 'layers' are stacked, every leaf [L, ...], so
that one compiled layer runs in a loop and a sharded layer is gathered when it
is its turn. The dtype of the parameters is the dtype of the computation; norms,
softmax and loss are in fp32 whatever it is.

Sources: Touvron et al. 2023 (https://arxiv.org/abs/2302.13971) for the
architecture, Su et al. 2021 (https://arxiv.org/abs/2104.09864) for rotary
positions, Zhang and Sennrich 2019 (https://arxiv.org/abs/1910.07467) for
RMSNorm, Shazeer 2020 (https://arxiv.org/abs/2002.05202) for the gated MLP.
"""

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Any, Literal

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import layerwise
from antjax.lm import attention

# Shape suffixes: B = sequences, T = tokens of a sequence, D = embed_dim,
# H = query heads, G = key/value heads, K = width of a head, F = mlp_dim,
# L = layers, V = vocabulary, C = tokens in a chunk of the loss, N = chunks.

PyTree = Any
# Logits of a step's loss that are held at once: 64 MiB in fp32.
MAX_LOGITS = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Shape of the model, and how it is computed."""

  vocab_size: Annotated[int, "Number of tokens; 0 takes the tokenizer's."]
  num_layers: Annotated[int, 'Blocks of attention and MLP.'] = 4
  embed_dim: Annotated[int, 'Width of the residual stream.'] = 256
  num_heads: Annotated[int, 'Query heads.'] = 4
  num_kv_heads: Annotated[
    int, 'Key/value heads; divides num_heads. Fewer make a smaller cache.'
  ] = 2
  mlp_dim: Annotated[int, 'Inner width of the gated MLP.'] = 704
  head_dim: Annotated[
    int | None, 'Width of a head, even. none: embed_dim / num_heads.'
  ] = None
  rope_theta: Annotated[float, 'Base of the rotary wavelengths.'] = 10_000.0
  norm_eps: Annotated[float, 'Added to the mean square in a norm.'] = 1e-5
  tie_embeddings: Annotated[bool, 'Use the embedding as output layer too.'] = (
    True
  )
  remat: Annotated[
    Literal['none', 'layer', 'dots'],
    'What the backward pass recomputes: nothing, each layer, or each layer but'
    ' for its matrix products.',
  ] = 'layer'
  attention: Annotated[
    Literal['auto', 'plain', 'blocked', 'cudnn'],
    'How attention is computed; see antjax/lm/attention.py.',
  ] = 'auto'

  def __post_init__(self) -> None:
    sizes = 'num_layers embed_dim num_heads num_kv_heads mlp_dim'
    for name in sizes.split():
      if getattr(self, name) < 1:
        raise ValueError(
          f'{name} must be at least 1; got {getattr(self, name)}.'
        )
    if self.vocab_size < 0:
      raise ValueError(f'vocab_size must be positive; got {self.vocab_size}.')
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must be a multiple of'
        f' num_kv_heads={self.num_kv_heads}.'
      )
    if self.head_dim is None and self.embed_dim % self.num_heads:
      raise ValueError(
        f'embed_dim={self.embed_dim} is no multiple of num_heads='
        f'{self.num_heads}; change one of them or set head_dim.'
      )
    if self.head_width % 2:
      raise ValueError(
        f'a head is {self.head_width} wide; rotary positions need an even'
        ' width.'
      )

  @property
  def head_width(self) -> int:
    return self.head_dim or self.embed_dim // self.num_heads


def init(config: Config, key: jax.Array) -> PyTree:
  """Fresh fp32 parameters; works in `jit`.

  Matrices are normal with deviation 0.02, the two that write to the residual
  stream with 0.02 / sqrt(2 L) (Radford et al. 2019, GPT-2).

  Args:
    config: The model; needs vocab_size > 0.
    key: Random key.

  Returns:
    {'embed': [V, D], 'layers': {name: [L, ...]}, 'final_norm': [D]} and, unless
    tied, 'lm_head': [D, V].
  """
  if not config.vocab_size:
    raise ValueError('transformer.init: set vocab_size; it is 0.')
  leaf_shapes = shapes(config)
  residual = (2 * config.num_layers) ** -0.5

  def leaf(path, shape, key):
    name = path[-1].key
    if name.endswith('norm'):
      return jnp.ones(shape, jnp.float32)
    scale = residual if name in ('out', 'down') else 1.0
    return 0.02 * scale * jax.random.normal(key, shape, jnp.float32)

  paths, treedef = jax.tree.flatten_with_path(leaf_shapes, is_leaf=is_shape)
  keys = jax.random.split(key, len(paths))
  return jax.tree.unflatten(
    treedef,
    [
      leaf(path, shape, k) for (path, shape), k in zip(paths, keys, strict=True)
    ],
  )


def is_shape(x: Any) -> bool:
  """For `jax.tree` functions on `shapes`."""
  return isinstance(x, tuple)


def shapes(config: Config) -> PyTree:
  """The tree of `init` with a tuple in place of each array."""
  L, D, F = config.num_layers, config.embed_dim, config.mlp_dim
  HK = config.num_heads * config.head_width
  GK = config.num_kv_heads * config.head_width
  result: dict[str, Any] = {
    'embed': (config.vocab_size, D),
    'layers': {
      'attention_norm': (L, D),
      'query': (L, D, HK),
      'key': (L, D, GK),
      'value': (L, D, GK),
      'out': (L, HK, D),
      'mlp_norm': (L, D),
      'gate': (L, D, F),
      'up': (L, D, F),
      'down': (L, F, D),
    },
    'final_norm': (D,),
  }
  if not config.tie_embeddings:
    result['lm_head'] = (D, config.vocab_size)
  return result


def logits(
  config: Config,
  params: PyTree,
  tokens: jax.Array,
  segment_ids: jax.Array | None = None,
  positions: jax.Array | None = None,
) -> jax.Array:
  """Scores of every next token.

  Args:
    config: The model.
    params: From `init`, in the dtype to compute in.
    tokens: int32 [B, T].
    segment_ids: int32 [B, T], the document of each token, or None for one
      document a sequence.
    positions: int32 [B, T], the place of each token in its document, or None to
      count from each document's first token.

  Returns:
    fp32 [B, T, V].
  """
  x_BTD = hidden(config, params, tokens, segment_ids, positions)
  return unembed(config, params, x_BTD)


def hidden(
  config: Config,
  params: PyTree,
  tokens: jax.Array,
  segment_ids: jax.Array | None = None,
  positions: jax.Array | None = None,
) -> jax.Array:
  """The normed output of the last layer, [B, T, D]; see `logits`."""
  if positions is None:
    positions = document_positions(tokens, segment_ids)
  angles = rope_angles(config, positions)
  x_BTD = embed(params, tokens)

  def layer(x_BTD: jax.Array, weights: PyTree) -> jax.Array:
    q, k, v = project(config, weights, x_BTD, angles)
    mixed = attention.causal(q, k, v, segment_ids, method=config.attention)
    return finish(config, weights, x_BTD, mixed)

  policy = None
  if config.remat == 'dots':
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  x_BTD = layerwise.scan_layers(
    layer,
    x_BTD,
    params['layers'],
    remat=config.remat != 'none',
    policy=policy,
  )
  return rms_norm(x_BTD, params['final_norm'], config.norm_eps)


# The parts of a layer, which generation puts together in its own way.


def embed(params: PyTree, tokens: jax.Array) -> jax.Array:
  """Token embeddings [..., D] in the parameters' dtype."""
  table_VD = params['embed']
  # By fp32, so that the rows' gradients are added up in fp32.
  return table_VD.astype(jnp.float32)[tokens].astype(table_VD.dtype)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  """Scales x to a root mean square of 1 over the last dim, computed in fp32."""
  y = x.astype(jnp.float32)
  y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  scale = jnp.broadcast_to(scale.astype(jnp.float32), y.shape)
  return (y * scale).astype(x.dtype)


def document_positions(
  tokens: jax.Array, segment_ids: jax.Array | None
) -> jax.Array:
  """int32 [B, T]: the place of each token in its run of equal segment ids."""
  place_T = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  if segment_ids is None:
    return jnp.broadcast_to(place_T, tokens.shape)
  is_first = jnp.pad(
    segment_ids[:, 1:] != segment_ids[:, :-1],
    ((0, 0), (1, 0)),
    constant_values=True,
  )
  place_BT = jnp.broadcast_to(place_T, tokens.shape)
  return place_BT - lax.cummax(jnp.where(is_first, place_BT, 0), axis=1)


def rope_angles(
  config: Config, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(cos, sin) of the rotary angles, fp32 [B, T, 1, K / 2]."""
  K = config.head_width
  exponents = jnp.arange(0, K, 2, dtype=jnp.float32) / K
  frequencies = config.rope_theta**-exponents
  angles = jnp.einsum('bt,k->btk', positions.astype(jnp.float32), frequencies)
  angles = angles[:, :, None]
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTHK: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Turns each pair (x[i], x[i + K / 2]) by its token's angle."""
  cos, sin = angles
  a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x_BTHK.dtype)


def project(
  config: Config,
  weights: PyTree,
  x_BTD: jax.Array,
  angles: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Queries [B, T, H, K], keys and values [B, T, G, K] of one layer."""
  h_BTD = rms_norm(x_BTD, weights['attention_norm'], config.norm_eps)

  def heads(name: str) -> jax.Array:
    return (h_BTD @ weights[name]).reshape(
      *h_BTD.shape[:2], -1, config.head_width
    )

  return (
    rotate(heads('query'), angles),
    rotate(heads('key'), angles),
    heads('value'),
  )


def finish(
  config: Config, weights: PyTree, x_BTD: jax.Array, mixed_BTHK: jax.Array
) -> jax.Array:
  """The rest of a layer: attention's output, then the MLP."""
  mixed = mixed_BTHK.reshape(*x_BTD.shape[:2], -1)
  x_BTD = x_BTD + mixed @ weights['out']
  h_BTD = rms_norm(x_BTD, weights['mlp_norm'], config.norm_eps)
  gate_BTF = jax.nn.silu(h_BTD @ weights['gate'])
  return x_BTD + (gate_BTF * (h_BTD @ weights['up'])) @ weights['down']


def unembed(config: Config, params: PyTree, x_BTD: jax.Array) -> jax.Array:
  """fp32 logits [..., V]."""
  return _scores(x_BTD, _output_matrix(config, params))


def _output_matrix(config: Config, params: PyTree) -> jax.Array:
  return params['embed'].T if config.tie_embeddings else params['lm_head']


def _scores(x_BTD: jax.Array, kernel_DV: jax.Array) -> jax.Array:
  return jnp.einsum(
    '...d,dv->...v', x_BTD, kernel_DV, preferred_element_type=jnp.float32
  )


def targets(
  tokens: jax.Array, segment_ids: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """(next token, whether it counts), both [B, T].

  The first token of a document is not predicted from the one before it, and
  segment 0, the padding, has no targets.
  """
  last = ((0, 0), (0, 1))
  next_BT = jnp.pad(tokens[:, 1:], last)
  if segment_ids is None:
    counts = jnp.pad(jnp.ones_like(tokens[:, 1:], jnp.float32), last)
    return next_BT, counts
  same = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
  return next_BT, jnp.pad(same.astype(jnp.float32), last)


def loss(
  config: Config,
  params: PyTree,
  batch: Mapping[str, jax.Array],
  *,
  max_logits: int = MAX_LOGITS,
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy of the next token, for Trainer's loss_fn.

  Args:
    config: The model.
    params: From `init`, in the dtype to compute in.
    batch: 'tokens' int32 [B, T], and as wanted 'segment_ids' and 'positions'
      (see `logits`) and 'loss_mask' [B, T], 0 where a token is no target.
    max_logits: Most logits that are held at once; where there are more, the
      loss goes by chunks of tokens and the backward pass computes their logits
      again.

  Returns:
    (losses [B], weights [B]) in fp32: the mean over the target tokens of each
    sequence, and their number. Their weighted mean is the loss per token.
  """
  tokens = batch['tokens']
  segment_ids = batch.get('segment_ids')
  x_BTD = hidden(config, params, tokens, segment_ids, batch.get('positions'))
  next_BT, counts_BT = targets(tokens, segment_ids)
  if 'loss_mask' in batch:
    mask_BT = batch['loss_mask'].astype(jnp.float32)
    counts_BT *= jnp.pad(mask_BT[:, 1:], ((0, 0), (0, 1)))
  kernel_DV = _output_matrix(config, params)
  losses_BT = _token_losses(x_BTD, kernel_DV, next_BT, max_logits)
  weights_B = counts_BT.sum(axis=1)
  sums_B = (losses_BT * counts_BT).sum(axis=1)
  return sums_B / jnp.maximum(weights_B, 1), weights_B


def _token_losses(x_BTD, kernel_DV, next_BT, max_logits: int) -> jax.Array:
  """Cross-entropy of each token, [B, T]."""

  def chunk_losses(x_BCD, kernel_DV, next_BC):
    logits_BCV = _scores(x_BCD, kernel_DV.astype(x_BCD.dtype))
    log_z = jax.nn.logsumexp(logits_BCV, axis=-1)
    chosen = jnp.take_along_axis(logits_BCV, next_BC[..., None], axis=-1)
    return log_z - chosen[..., 0]

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

  # In fp32, so that the chunks' gradients are added up in fp32.
  kernel_DV = kernel_DV.astype(jnp.float32)
  recomputed = jax.checkpoint(chunk_losses)
  losses_NBC = lax.map(
    lambda chunk: recomputed(chunk[0], kernel_DV, chunk[1]),
    (chunks(x_BTD), chunks(next_BT)),
  )
  return jnp.moveaxis(losses_NBC, 0, 1).reshape(B, N * C)[:, :T]
