# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A layer of a transformer, and what it shares with the rest of the model.

A model of your own is a `Block` of your own: see docs/pretrained.md.

Sources: Zhang and Sennrich 2019 (https://arxiv.org/abs/1910.07467) for RMSNorm,
Shazeer 2020 (https://arxiv.org/abs/2002.05202) for the gated MLP, Hu et al.
2021 (https://arxiv.org/abs/2106.09685) for LoRA, Liu et al. 2024
(https://arxiv.org/abs/2402.09353) for DoRA.
"""

from collections.abc import Callable, Mapping
import functools
import math

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from antjax.embedding.lookup import take_rows
from antjax.lm import attention, positions, quantized
from antjax.lm.config import Config

# Shape suffixes: B = sequences, T = tokens of a sequence, D = embed_dim,
# S = all tokens, H = query heads, G = key/value heads, K = width of a head,
# F = mlp_dim, V = vocabulary.

Angles = tuple[jax.Array, jax.Array] | None
Shapes = dict[str, tuple[int, ...]]


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


class ModelPart(nnx.Module):
  """Parameters under flat names, and what a model does with one of them.

  Attributes:
    config: Configuration of the model.
  """

  def __init__(
    self,
    config: Config,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    rngs: nnx.Rngs,
  ):
    """Makes fresh fp32 parameters.

    Matrices are normal with deviation 0.02, the two that write to the residual
    stream with 0.02 / sqrt(2 L) (Radford et al. 2019, GPT-2); biases are 0.
    """
    self.config = config
    residual = (2 * config.num_layers) ** -0.5
    for name, shape in shapes.items():
      if name.endswith('norm'):
        x = jnp.ones(shape, jnp.float32)
      elif name.endswith('bias') and name != 'relative_bias':
        x = jnp.zeros(shape, jnp.float32)
      else:
        scale = 0.02 * (residual if name in ('out', 'down') else 1.0)
        x = scale * jax.random.normal(rngs.params(), shape, jnp.float32)
      setattr(self, name, nnx.Param(x))

  def norm(self, name: str, x: jax.Array) -> jax.Array:
    """The model's norm over the last dim, computed in fp32."""
    y = x.astype(jnp.float32)
    if self.config.norm == 'layer':
      y -= jnp.mean(y, axis=-1, keepdims=True)
    squares = jnp.mean(y * y, axis=-1, keepdims=True)
    y = y * lax.rsqrt(squares + self.config.norm_eps)

    def spread(name: str) -> jax.Array:
      leaf = getattr(self, name)[...]
      return jnp.broadcast_to(leaf.astype(jnp.float32), y.shape)

    y = y * spread(name)
    if self.config.norm == 'layer':
      y += spread(f'{name}_bias')
    return y.astype(x.dtype)

  def matrix(self, name: str) -> jax.Array:
    """A matrix [..., in, out] in floats, see `quantized`."""
    held = getattr(self, name)[...]
    if hasattr(self, f'{name}_scale'):
      return quantized.restored(held, getattr(self, f'{name}_scale')[...])
    return held

  def adapted(self, name: str) -> jax.Array:
    """A matrix plus its LoRA adapter, fp32 [..., in, out]."""
    a, b = (
      getattr(self, f'{name}_lora_{x}')[...].astype(jnp.float32) for x in 'ab'
    )
    change = self.config.lora_scale * (a @ b)
    return self.matrix(name).astype(jnp.float32) + change

  def dense(self, name: str, x: jax.Array) -> jax.Array:
    """The product x W, plus LoRA adapter and bias where there are such."""
    y = x @ self.matrix(name)
    if hasattr(self, f'{name}_lora_a'):
      low = x @ getattr(self, f'{name}_lora_a')[...]
      y += self.config.lora_scale * (low @ getattr(self, f'{name}_lora_b')[...])
    if hasattr(self, f'{name}_lora_m'):
      norm = jnp.linalg.norm(self.adapted(name), axis=-2)
      factor = getattr(self, f'{name}_lora_m')[...] / lax.stop_gradient(norm)
      y *= jnp.broadcast_to(factor.astype(y.dtype), y.shape)
    if hasattr(self, f'{name}_bias'):
      y += jnp.broadcast_to(getattr(self, f'{name}_bias')[...], y.shape)
    return y


class Block(ModelPart):
  """One layer: attention and MLP. A subclass may override any of it.

  Full passes, packed texts and generation all run a layer by calling it.
  """

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    """Makes fresh fp32 parameters of one layer."""
    super().__init__(config, layer_shapes(config), rngs=rngs)

  def __call__(
    self,
    x_BTD: jax.Array,
    angles: Angles,
    attend: Callable[..., jax.Array],
    chosen: Callable[[jax.Array], jax.Array] = lambda x: x,
  ) -> jax.Array:
    """What goes into the next layer.

    Args:
      x_BTD: What comes from the layer before.
      angles: Of `positions.rope_angles`; None without.
      attend: (this block, queries, keys, values) -> mixed [B, T, H, K], by
        `Block.attend` or from a cache.
      chosen: Takes of [B, T, ...] the places whose output is wanted.
    """
    q, k, v = self.project(x_BTD, angles)
    mixed = attend(self, q, k, v)
    return self.finish(chosen(x_BTD), chosen(mixed))

  def project(
    self, x_BTD: jax.Array, angles: Angles
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [B, T, H, K], keys and values [B, T, G, K]."""
    h_BTD = x_BTD
    if self.config.norm_place == 'pre':
      h_BTD = self.norm('attention_norm', x_BTD)

    def heads(name: str) -> jax.Array:
      return self.dense(name, h_BTD).reshape(
        *h_BTD.shape[:2], -1, self.config.head_width
      )

    q, k, v = heads('query'), heads('key'), heads('value')
    if angles is None:
      return q, k, v
    return positions.rotate(q, angles), positions.rotate(k, angles), v

  def attend(
    self,
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segment_ids: jax.Array | None = None,
    bias_HTT: jax.Array | None = None,
  ) -> jax.Array:
    """Attention over whole sequences, [B, T, H, K]."""
    return attention.attend(
      q_BTHK,
      k_BTGK,
      v_BTGK,
      segment_ids,
      bias_HTT=bias_HTT,
      is_causal=self.config.causal,
      scale=attention_scale(self.config),
      method=self.config.attention,
    )

  def finish(self, x_BTD: jax.Array, mixed_BTHK: jax.Array) -> jax.Array:
    """The rest of the layer: attention's output, then the MLP."""
    mixed = mixed_BTHK.reshape(*x_BTD.shape[:2], -1)
    x_BTD = x_BTD + self.dense('out', mixed)
    if self.config.norm_place == 'pre':
      return x_BTD + self.mlp(self.norm('mlp_norm', x_BTD))
    h_BTD = self.norm('attention_norm', x_BTD)
    return self.norm('mlp_norm', h_BTD + self.mlp(h_BTD))

  def mlp(self, h_BTD: jax.Array) -> jax.Array:
    """The MLP of normed inputs."""
    activate = _ACTIVATIONS[self.config.activation]
    # As a matrix: between products XLA:CPU takes half as long again for an
    # activation of more dims.
    h_SD = h_BTD.reshape(-1, h_BTD.shape[-1])
    up_SF = self.dense('up', h_SD)
    if self.config.gated_mlp:
      inner_SF = activate(self.dense('gate', h_SD)) * up_SF
    else:
      inner_SF = activate(up_SF)
    return self.dense('down', inner_SF).reshape(h_BTD.shape)


def top_shapes(config: Config) -> Shapes:
  """Shapes of the parameters outside of the layers."""
  D = config.embed_dim
  shapes: Shapes = {'embed': (config.vocab_size, D)}
  if config.positions == 'learned':
    shapes['positions'] = (config.max_positions + config.position_offset, D)
  if config.positions == 'relative':
    shapes['relative_bias'] = (config.relative_buckets, config.num_heads)
  if config.token_types:
    shapes['token_types'] = (config.token_types, D)
  if config.embed_norm:
    shapes |= norm_shapes(config, 'embed_norm')
  if config.norm_place == 'pre':
    shapes |= norm_shapes(config, 'final_norm')
  if config.causal and not config.tie_embeddings:
    shapes['lm_head'] = (D, config.vocab_size)
  return shapes


def layer_shapes(config: Config) -> Shapes:
  """Shapes of the parameters of one layer."""
  D, F = config.embed_dim, config.mlp_dim
  HK = config.num_heads * config.head_width
  GK = config.num_kv_heads * config.head_width
  shapes: Shapes = {
    **norm_shapes(config, 'attention_norm'),
    'query': (D, HK),
    'key': (D, GK),
    'value': (D, GK),
    'out': (HK, D),
    **norm_shapes(config, 'mlp_norm'),
    'up': (D, F),
    'down': (F, D),
  }
  if config.gated_mlp:
    shapes['gate'] = (D, F)
  for names, is_there in (
    (('query', 'key', 'value'), config.qkv_bias),
    (('out',), config.out_bias),
    (('gate', 'up', 'down'), config.mlp_bias),
  ):
    for name in names:
      if is_there and name in shapes:
        shapes[f'{name}_bias'] = shapes[name][-1:]
  return shapes


def norm_shapes(config: Config, name: str) -> Shapes:
  """Shapes of the parameters of a norm."""
  shape = (config.embed_dim,)
  return {name: shape} | (
    {f'{name}_bias': shape} if config.norm == 'layer' else {}
  )


def attention_scale(config: Config) -> float:
  """Factor of the scores."""
  return config.head_width**-0.5 if config.scale_attention else 1.0


def scores(x_BTD: jax.Array, kernel_DV: jax.Array) -> jax.Array:
  """Products in the inputs' dtype, fp32 sums."""
  return jnp.einsum(
    '...d,dv->...v', x_BTD, kernel_DV, preferred_element_type=jnp.float32
  )
