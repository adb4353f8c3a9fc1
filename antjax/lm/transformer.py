# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One transformer for Llama, Qwen2, OPT, BERT and T5's encoder, as functions.

Parameters are a dict tree whose 'layers' are stacked, every leaf [L, ...], so
that one compiled layer runs in a loop and a sharded layer is gathered when it
is needed. The dtype of the parameters is the dtype of the computation; norms,
softmax and loss are in fp32 whatever it is.

Sources: Touvron et al. 2023 (https://arxiv.org/abs/2302.13971), Llama; Qwen
2024 (https://arxiv.org/abs/2407.10671), Qwen2; Zhang et al. 2022
(https://arxiv.org/abs/2205.01068), OPT; Devlin et al. 2018
(https://arxiv.org/abs/1810.04805), BERT; Raffel et al. 2020
(https://arxiv.org/abs/1910.10683), T5.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import layerwise
from antjax.embedding.lookup import pick, take_rows
from antjax.lm import blocked_attention, blocks
from antjax.lm import positions as positions_lib
from antjax.lm.config import Config as Config

# Shape suffixes: B = sequences, T = tokens of a sequence, D = embed_dim,
# H = query heads, G = key/value heads, K = width of a head, F = mlp_dim,
# L = layers, V = vocabulary, C = tokens in a chunk of the loss, N = chunks.

PyTree = Any
# Logits of a step's loss that are held at once: 64 MiB in fp32.
MAX_LOGITS = 1 << 24


def init(config: Config, key: jax.Array) -> PyTree:
  """Fresh fp32 parameters; works in `jit`. Their tree is that of `shapes`.

  Matrices are normal with deviation 0.02, the two that write to the residual
  stream with 0.02 / sqrt(2 L) (Radford et al. 2019, GPT-2); biases are 0. The
  config needs vocab_size > 0.
  """
  if not config.vocab_size:
    raise ValueError('transformer.init: set vocab_size; it is 0.')
  leaf_shapes = shapes(config)
  residual = (2 * config.num_layers) ** -0.5

  def leaf(path, shape, key):
    name = path[-1].key
    if name.endswith('norm'):
      return jnp.ones(shape, jnp.float32)
    if name.endswith('bias') and name != 'relative_bias':
      return jnp.zeros(shape, jnp.float32)
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
  has_bias = config.norm == 'layer'
  layers: dict[str, Any] = {
    **_norm_shapes('attention_norm', (L, D), has_bias),
    'query': (L, D, HK),
    'key': (L, D, GK),
    'value': (L, D, GK),
    'out': (L, HK, D),
    **_norm_shapes('mlp_norm', (L, D), has_bias),
    'up': (L, D, F),
    'down': (L, F, D),
  }
  if config.gated_mlp:
    layers['gate'] = (L, D, F)
  for names, is_there in (
    (('query', 'key', 'value'), config.qkv_bias),
    (('out',), config.out_bias),
    (('gate', 'up', 'down'), config.mlp_bias),
  ):
    for name in names:
      if is_there and name in layers:
        layers[f'{name}_bias'] = (L, layers[name][-1])
  result: dict[str, Any] = {'embed': (config.vocab_size, D), 'layers': layers}
  if config.positions == 'learned':
    result['positions'] = (config.max_positions + config.position_offset, D)
  if config.positions == 'relative':
    result['relative_bias'] = (config.relative_buckets, config.num_heads)
  if config.token_types:
    result['token_types'] = (config.token_types, D)
  if config.embed_norm:
    result |= _norm_shapes('embed_norm', (D,), has_bias)
  if config.norm_place == 'pre':
    result |= _norm_shapes('final_norm', (D,), has_bias)
  if config.causal and not config.tie_embeddings:
    result['lm_head'] = (D, config.vocab_size)
  return result


def _norm_shapes(name: str, shape: tuple[int, ...], has_bias: bool):
  return {name: shape, **({f'{name}_bias': shape} if has_bias else {})}


def logits(
  config: Config,
  params: PyTree,
  tokens: jax.Array,
  segment_ids: jax.Array | None = None,
  positions: jax.Array | None = None,
) -> jax.Array:
  """Scores of every next token, fp32 [B, T, V]; the arguments are `hidden`'s.

  Raises:
    ValueError: The model is an encoder, or as for `hidden`.
  """
  x_BTD = hidden(config, params, tokens, segment_ids, positions)
  return blocks.unembed(config, params, x_BTD)


def hidden(
  config: Config,
  params: PyTree,
  tokens: jax.Array,
  segment_ids: jax.Array | None = None,
  positions: jax.Array | None = None,
  token_types: jax.Array | None = None,
  at: jax.Array | None = None,
) -> jax.Array:
  """The normed output of the last layer, [B, T, D]; with `at` [1, M, D].

  Args:
    config: Configuration of the model.
    params: From `init` or `load_pretrained`, in the dtype to compute in.
    tokens: int32 [B, T].
    segment_ids: [B, T], the document of each token; a mask, 0 where there is
      padding, will do. None: one document a sequence. What comes out for
      padding means nothing.
    positions: int32 [B, T], the place of each token in its document, or None to
      count from each document's first token.
    token_types: int32 [B, T], for models that have them; None: all 0.
    at: Option of `run_layers`.

  Raises:
    ValueError: More tokens than learned positions, or types where the model has
      none.
  """
  if segment_ids is not None:
    segment_ids = segment_ids.astype(jnp.int32)
  check_length(config, tokens.shape[1] if positions is None else 0)
  if positions is None:
    positions = positions_lib.document_positions(tokens, segment_ids)
  x_BTD = blocks.embed(config, params, tokens, positions, token_types)
  x_BTD = run_layers(config, params, x_BTD, segment_ids, positions, at=at)
  return blocks.final_norm(config, params, x_BTD)


def check_length(config: Config, num_tokens: int) -> None:
  """Raises ValueError if there are more tokens than learned positions."""
  if config.positions == 'learned' and num_tokens > config.max_positions:
    raise ValueError(
      f'sequences of {num_tokens} tokens: the model has {config.max_positions}'
      ' learned positions (config.max_positions); cut the sequences.'
    )


def run_layers(
  config: Config,
  params: PyTree,
  x_BTD: jax.Array,
  segment_ids: jax.Array | None,
  positions: jax.Array,
  *,
  attend: Callable[..., jax.Array] | None = None,
  at: jax.Array | None = None,
) -> jax.Array:
  """All layers in `params`, which may be fewer than the model's.

  Args:
    config: Configuration of the model.
    params: Its 'layers' are run, if it has any; its 'relative_bias' is used
      where the model has relative positions, which count places in the row.
    x_BTD: Output of `blocks.embed` or of the layers before.
    segment_ids: See `hidden`.
    positions: int32 [B, T].
    attend: (queries, keys, values) -> mixed, in place of attention inside the
      rows; see `antjax.lm.packed`.
    at: int32 [M], places in the B T tokens. If given, only their outputs are
      computed behind the last attention: of a BERT-like layer that is three
      quarters.

  Returns:
    [B, T, D]; with `at` [1, M, D].
  """

  def chosen(x):  # [B, T, ...] -> [1, M, ...]
    rows = x.reshape(-1, *x.shape[2:])
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return rows[at][None]
    found = take_rows(rows.reshape(len(rows), -1), at)
    return found.reshape(1, -1, *x.shape[2:])

  if 'layers' not in params:
    return x_BTD if at is None else chosen(x_BTD)
  angles = positions_lib.rope_angles(config, positions)
  if attend is None:
    bias_HTT = row_bias(config, params, x_BTD.shape[1])

    def attend(q, k, v):
      return blocks.attend(config, q, k, v, segment_ids, bias_HTT)

  def layer(x_BTD: jax.Array, weights: PyTree) -> jax.Array:
    q, k, v = blocks.project(config, weights, x_BTD, angles)
    return blocks.finish(config, weights, x_BTD, attend(q, k, v))

  def last_layer(x_BTD: jax.Array, weights: PyTree) -> jax.Array:
    q, k, v = blocks.project(config, weights, x_BTD, angles)
    mixed = attend(q, k, v)
    return blocks.finish(config, weights, chosen(x_BTD), chosen(mixed))

  policies = jax.checkpoint_policies
  policy = policies.save_only_these_names(blocked_attention.KEPT)
  if config.remat == 'dots':
    policy = policies.save_from_both_policies(
      policies.dots_with_no_batch_dims_saveable, policy
    )
  run = functools.partial(
    layerwise.scan_layers, remat=config.remat != 'none', policy=policy
  )
  layers = params['layers']
  run_all = functools.partial(run, layers_per_step=config.layers_per_step)
  if at is None:
    return run_all(layer, x_BTD, layers)
  if config.layers_per_step > 1:  # The last ones are gathered together.
    return chosen(run_all(layer, x_BTD, layers))
  last = jax.tree.map(lambda x: x[-1:], layers)
  if jax.tree.leaves(layers)[0].shape[0] > 1:
    x_BTD = run(layer, x_BTD, jax.tree.map(lambda x: x[:-1], layers))
  return run(last_layer, x_BTD, last)


def row_bias(
  config: Config, params: PyTree, num_tokens: int
) -> jax.Array | None:
  """Addend of relative positions to the scores of a row, [H, T, T], or None."""
  place_T = jnp.arange(num_tokens, dtype=jnp.int32)
  return positions_lib.relative_bias(
    config, params.get('relative_bias'), place_T, place_T
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
    config: Configuration of the model.
    params: Parameters from `init`, in the compute dtype.
    batch: 'tokens' int32 [B, T], and as wanted 'segment_ids' and 'positions'
      (see `hidden`) and 'loss_mask' [B, T], 0 where a token is no target.
    max_logits: Largest number of logits held at once; where there are more, the
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
  kernel_DV = blocks.output_matrix(config, params)
  losses_BT = _token_losses(x_BTD, kernel_DV, next_BT, max_logits)
  weights_B = counts_BT.sum(axis=1)
  sums_B = (losses_BT * counts_BT).sum(axis=1)
  return sums_B / jnp.maximum(weights_B, 1), weights_B


def _token_losses(x_BTD, kernel_DV, next_BT, max_logits: int) -> jax.Array:
  """Cross-entropy of each token, [B, T]."""

  def chunk_losses(x_BCD, kernel_DV, next_BC):
    logits_BCV = blocks.scores(x_BCD, kernel_DV.astype(x_BCD.dtype))
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

  # In fp32, so that the chunks' gradients are added up in fp32.
  kernel_DV = kernel_DV.astype(jnp.float32)
  recomputed = jax.checkpoint(chunk_losses)
  losses_NBC = lax.map(
    lambda chunk: recomputed(chunk[0], kernel_DV, chunk[1]),
    (chunks(x_BTD), chunks(next_BT)),
  )
  return jnp.moveaxis(losses_NBC, 0, 1).reshape(B, N * C)[:, :T]
