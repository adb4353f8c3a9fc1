# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One transformer for all families of families.toml.

Its 'layers' are one `Block` with stacked leaves [L, ...], so that one compiled
layer runs in a loop and a sharded layer is gathered when needed. The
computation uses the dtype of the parameters, except that norms, softmax and
loss are always in fp32. Source: Vaswani et al. 2017
(https://arxiv.org/abs/1706.03762); families differ in the settings of `Config`.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, Self

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.collectives import layerwise
from antjax.embedding.lookup import take_rows
from antjax.lm import blocked_attention, blocks, next_token
from antjax.lm import positions as positions_lib
from antjax.lm.blocks import Block
from antjax.lm.config import Config as Config

# Shape suffixes: B = sequences, T = tokens of a sequence, D = embed_dim,
# H = query heads, G = key/value heads, K = width of a head, F = mlp_dim,
# L = layers, V = vocabulary.

PyTree = Any


class Transformer(blocks.ModelPart):
  """The transformer model.

  The tree of its parameters (`layers.functional.params_of`) is the same as in
  checkpoints: 'embed', 'layers.query' and so on.

  Attributes:
    config: Configuration of the model.
    layers: Block with leaves [L, ...]. Parts of a model may lack it.
    first: Index of the first of these layers in the whole model.
    is_pinned: See `layerwise.scan_layers`.
    rng: Key of what layers draw, see `seeded`. Models lack it otherwise.
  """

  # Parameters that depend on the config.
  embed: nnx.Param[jax.Array]
  positions: nnx.Param[jax.Array]
  relative_bias: nnx.Param[jax.Array]
  token_types: nnx.Param[jax.Array]
  lm_head: nnx.Param[jax.Array]
  rng: nnx.RngKey

  first, is_pinned = 0, False

  def __init__(
    self, config: Config, *, rngs: nnx.Rngs, block: Callable[..., Block] = Block
  ):
    """Creates fp32 parameters; works in `jit`.

    Args:
      config: Configuration; it needs vocab_size > 0.
      rngs: Source of the random numbers.
      block: Function (config, rngs=...) -> layer.
    """
    if not config.vocab_size:
      raise ValueError('Transformer: set vocab_size; it is 0.')
    super().__init__(config, blocks.top_shapes(config), rngs=rngs)

    @nnx.split_rngs(splits=config.num_layers)
    @nnx.vmap
    def stacked(rngs: nnx.Rngs) -> Block:
      return block(config, rngs=rngs)

    self.layers = stacked(rngs)
    for stream in _streams(self.layers):  # Keys are no parameters.
      for name in ('key', 'count'):
        setattr(stream, name, nnx.data(None))

  @classmethod
  def of(
    cls,
    config: Config,
    params: PyTree,
    *,
    block: Callable[..., Block] = Block,
  ) -> 'Transformer':
    """Creates the model with the given parameters.

    Parameters may be missing, and LoRA adapters may be present. Methods that
    need a missing parameter cannot be called.
    """
    model = nnx.merge(*_abstract(config, block))
    _hold(model, params)
    return model

  def logits(
    self,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
  ) -> jax.Array:
    """Scores of every next token, fp32 [B, T, V]; arguments as for `hidden`.

    Raises:
      ValueError: The model is an encoder, or as for `hidden`.
    """
    return self.unembed(self.hidden(tokens, segment_ids, positions))

  def hidden(
    self,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    token_types: jax.Array | None = None,
    at: jax.Array | None = None,
  ) -> jax.Array:
    """The normed output of the last layer, [B, T, D]; with `at` [1, M, D].

    Args:
      tokens: int32 [B, T].
      segment_ids: [B, T], the document of each token, or a mask that is 0 for
        padding, or lengths [B] with padding behind. None: one document per
        sequence. Outputs for padding are meaningless.
      positions: int32 [B, T], the position of each token in its document. None:
        counted from the first token of each document.
      token_types: int32 [B, T], for models with token types. None: all 0.
      at: Option of `run_layers`.

    Raises:
      ValueError: There are more tokens than learned positions, or token types
        for a model without them.
    """
    if segment_ids is not None:
      segment_ids = segment_ids.astype(jnp.int32)
    self.config.check_length(tokens.shape[1] if positions is None else 0)
    if positions is None:
      positions = positions_lib.document_positions(tokens, segment_ids)
    x_BTD = self.embedded(tokens, positions, token_types)
    return self.normed(self.run_layers(x_BTD, segment_ids, positions, at=at))

  def embedded(
    self,
    tokens: jax.Array,
    places: jax.Array,
    token_types: jax.Array | None = None,
  ) -> jax.Array:
    """Input of the first layer, [B, T, D] in the parameters' dtype.

    `places` [B, T] are positions of tokens in their documents. Without token
    types, all are 0.

    Raises:
      ValueError: Token types are given for a model without them.
    """
    config = self.config
    if token_types is not None and not config.token_types:
      raise ValueError(
        'token_types were given, but the model has none (config.token_types=0).'
      )
    x_BTD = blocks.lookup(self.embed[...], tokens)
    if config.embed_scale != 1:
      x_BTD *= jnp.asarray(config.embed_scale, x_BTD.dtype)
    if config.positions == 'learned':
      x_BTD += blocks.lookup(
        self.positions[...], places + config.position_offset
      )
    if config.token_types:
      if token_types is None:
        token_types = jnp.zeros_like(tokens)
      x_BTD += blocks.lookup(self.token_types[...], token_types)
    return self.norm('embed_norm', x_BTD) if config.embed_norm else x_BTD

  def run_layers(
    self,
    x_BTD: jax.Array,
    segment_ids: jax.Array | None,
    positions: jax.Array,
    *,
    attend: Callable[..., jax.Array] | None = None,
    at: jax.Array | None = None,
  ) -> jax.Array:
    """Runs all layers, if any.

    Args:
      x_BTD: Output of `embedded` or of previous layers.
      segment_ids: See `hidden`.
      positions: int32 [B, T]. Relative positions count places in the row.
      attend: Function (block, queries, keys, values) -> mixed values that
        replaces attention inside rows; see `antjax.lm.packed`.
      at: int32 [M], places in the B T tokens. If given, computation after the
        last attention, three quarters of a BERT-like layer, is only for these.

    Returns:
      [B, T, D]; with `at` [1, M, D].
    """
    config = self.config

    def chosen(x):  # [B, T, ...] -> [1, M, ...]
      rows = x.reshape(-1, *x.shape[2:])
      found = take_rows(rows.reshape(len(rows), -1), at)
      return found.reshape(1, -1, *x.shape[2:])

    if not hasattr(self, 'layers'):
      return x_BTD if at is None else chosen(x_BTD)
    angles = positions_lib.rope_angles(config, positions)
    if attend is None:
      bias_HTT = self.row_bias(x_BTD.shape[1])

      def attend(block, q, k, v):
        return block.attend(q, k, v, segment_ids, bias_HTT)

    graphdef, layers = self.stack()

    def layer(x_BTD: jax.Array, leaves: PyTree) -> jax.Array:
      return merge(graphdef, leaves)(x_BTD, angles, attend)

    def last_layer(x_BTD: jax.Array, leaves: PyTree) -> jax.Array:
      return merge(graphdef, leaves)(x_BTD, angles, attend, chosen)

    policies = jax.checkpoint_policies
    policy = policies.save_only_these_names(blocked_attention.KEPT)
    if config.remat == 'dots':
      policy = policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policy
      )
    run = functools.partial(layerwise.scan_layers, is_pinned=self.is_pinned)
    run = functools.partial(run, remat=config.remat != 'none', policy=policy)
    run_all = functools.partial(run, layers_per_step=config.layers_per_step)
    if at is None:
      return run_all(layer, x_BTD, layers)
    if config.layers_per_step > 1:  # The last layers are gathered together.
      return chosen(run_all(layer, x_BTD, layers))
    return run(layer, x_BTD, layers, last=last_layer)

  def seeded(self, rng: jax.Array) -> Self:
    """This model with a key for `nnx.Dropout` and the like in its layers.

    Each layer has a key of its own, and repeats its numbers in every pass; the
    parameters are shared.
    """
    model = nnx.merge(*nnx.split(self))
    model.rng = nnx.RngKey(rng, tag='layers')
    return model

  def trunk(self) -> 'Transformer':
    """This model without its output layer; the parameters are shared."""
    model = nnx.merge(*nnx.split(self))
    if hasattr(model, 'lm_head'):
      del model.lm_head
    return model

  def stack(self) -> tuple[nnx.GraphDef[Block], PyTree]:
    """(definition of a layer, stacked leaves), for `merge` of a layer.

    The leaves include the layers' indices if they differ, and their keys.
    """
    graphdef, state = nnx.split(self.layers)
    leaves, keys = nnx.to_pure_dict(state), None
    places = self.first + jnp.arange(jax.tree.leaves(leaves)[0].shape[0])
    if hasattr(self, 'rng'):
      keys = jax.vmap(jax.random.fold_in, (None, 0))(self.rng[...], places)
    is_same = len(self.config.pattern) == 1 and self.config.first_norm
    return graphdef, (leaves, None if is_same else places, keys)

  def row_bias(self, num_tokens: int) -> jax.Array | None:
    """Bias of relative positions for a row's scores, [H, T, T], or None."""
    place_T = jnp.arange(num_tokens, dtype=jnp.int32)
    return self.bias(place_T, place_T)

  def bias(self, queries: jax.Array, keys: jax.Array) -> jax.Array | None:
    """See `positions.relative_bias`."""
    if not self.config.is_relative:
      return None
    table = self.relative_bias[...]
    return positions_lib.relative_bias(self.config, table, queries, keys)

  def normed(self, x_BTD: jax.Array) -> jax.Array:
    """The norm after the last layer, which post-norm models lack."""
    if self.config.norm_place == 'post':
      return x_BTD
    return self.norm('final_norm', x_BTD)

  def unembed(self, x_BTD: jax.Array) -> jax.Array:
    """fp32 logits [..., V]."""
    return blocks.logits(self.config, x_BTD, self.output_matrix())

  def output_matrix(self) -> jax.Array:
    """Matrix of the output layer [D, V].

    Raises:
      ValueError: The model is an encoder.
    """
    if not self.config.causal:
      raise ValueError(
        'logits of the next token: the model is an encoder (causal=False) and'
        ' has no output layer; use hidden().'
      )
    if self.config.tie_embeddings:
      return self.embed[...].T
    return self.lm_head[...]

  def loss(
    self,
    batch: Mapping[str, jax.Array],
    *,
    max_logits: int = next_token.MAX_LOGITS,
  ) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the next token, for Trainer's loss_fn.

    Args:
      batch: 'tokens' int32 [B, T], and optionally 'segment_ids' and 'positions'
        (see `hidden`) and 'loss_mask' [B, T], 0 for tokens that are not
        targets.
      max_logits: Maximum number of logits in memory. If there are more, the
        loss is computed in chunks of tokens, and the backward pass recomputes
        their logits.

    Returns:
      (losses [B], weights [B]) in fp32: the mean over the target tokens of each
      sequence, and their number. Their weighted mean is the loss per token.
    """
    tokens = batch['tokens']
    segment_ids = batch.get('segment_ids')
    x_BTD = self.hidden(tokens, segment_ids, batch.get('positions'))
    next_BT, counts_BT = next_token.targets(tokens, segment_ids)
    if 'loss_mask' in batch:
      mask_BT = batch['loss_mask'].astype(jnp.float32)
      counts_BT *= jnp.pad(mask_BT[:, 1:], ((0, 0), (0, 1)))
    losses_BT = next_token.losses(
      self.config, x_BTD, self.output_matrix(), next_BT, max_logits
    )
    weights_B = counts_BT.sum(axis=1)
    sums_B = (losses_BT * counts_BT).sum(axis=1)
    return sums_B / jnp.maximum(weights_B, 1), weights_B


def merge(graphdef: nnx.GraphDef[Block], stack: Any) -> Block:
  """One layer of `Transformer.stack`.

  Raises:
    ValueError: The layer has dropout, and the model is neither seeded nor in
      evaluation mode.
  """
  leaves, place, key = stack
  block = nnx.merge(graphdef, leaves)
  if place is not None:
    block.place = nnx.Variable(place)
  if key is not None:
    for i, stream in enumerate(_streams(block)):
      new = nnx.RngStream(jax.random.fold_in(key, i), tag=stream.tag)
      stream.key, stream.count = new.key, new.count
  elif any(
    getattr(x, 'deterministic', True) is False and getattr(x, 'rate', 1)
    for _, x in nnx.iter_modules(block)
  ):
    raise ValueError(
      'Transformer: its layers have dropout, and it has no random key. Train'
      ' with model.seeded(rng).loss(batch), where rng is the key that a loss of'
      ' Trainer gets; call model.eval() before anything else.'
    )
  return block


def _streams(module: nnx.Module) -> list[nnx.RngStream]:
  """Streams of random keys inside a module."""
  return [x for _, x in nnx.iter_graph(module) if isinstance(x, nnx.RngStream)]


def shapes(config: Config, block: Callable[..., Block] = Block) -> PyTree:
  """The tree of a model's parameters, with shapes in place of arrays."""
  return jax.tree.map(jnp.shape, nnx.to_pure_dict(_abstract(config, block)[1]))


def is_shape(x: Any) -> bool:
  """For `jax.tree` functions on `shapes`."""
  return isinstance(x, tuple)


@functools.lru_cache(64)
def _abstract(config: Config, block: Callable[..., Block]):
  """(graphdef, state) of a model without arrays."""
  return nnx.split(
    nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), block=block))
  )


def _hold(module: nnx.Module, leaves: PyTree) -> None:
  """Sets a module's parameters to the given values, without any others."""
  for name, value in list(vars(module).items()):
    is_part = isinstance(value, nnx.Variable | nnx.Module)
    if is_part and name not in leaves and jax.tree.leaves(value):
      delattr(module, name)
  for name, value in leaves.items():
    if isinstance(value, Mapping):
      _hold(getattr(module, name), value)
    else:
      setattr(module, name, nnx.Param(value))
