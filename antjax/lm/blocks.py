# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A layer of a transformer, and code shared with the rest of the model.

To change the model, subclass `Block`: see docs/pretrained.md.

Sources: Zhang and Sennrich 2019 (https://arxiv.org/abs/1910.07467) for RMSNorm,
Shazeer 2020 (https://arxiv.org/abs/2002.05202) for the gated MLP, Hu et al.
2021 (https://arxiv.org/abs/2106.09685) for LoRA, Liu et al. 2024
(https://arxiv.org/abs/2402.09353) for DoRA.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import layerwise
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
  """Exact GELU. JAX's is 2.6 times slower on CPU and fails in `shard_map`."""
  return x * _normal(x)[0].astype(x.dtype)


@_gelu.defjvp
def _gelu_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (x,), (dx,) = primals, tangents
  share, density = _normal(x)
  slope = share + x.astype(jnp.float32) * density
  return x * share.astype(x.dtype), dx * slope.astype(x.dtype)


def _normal(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Normal distribution and density in fp32, which 1 + erf needs."""
  x = x.astype(jnp.float32)
  density = jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)
  return (1 + lax.erf(x * math.sqrt(0.5))) / 2, density


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'silu': jax.nn.silu,
  'gelu': _gelu,
  'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
  'relu': jax.nn.relu,
}


def lookup(table_VD: jax.Array, ids: jax.Array) -> jax.Array:
  """Rows [..., D] of a table, in its dtype."""
  # Via fp32, so that the rows' gradients are summed in fp32.
  return take_rows(table_VD.astype(jnp.float32), ids).astype(table_VD.dtype)


class ModelPart(nnx.Module):
  """Parameters with flat names, and operations on them.

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
    """Creates fp32 parameters.

    Matrices are normal with deviation 0.02, the two that write to the residual
    stream with 0.02 / sqrt(2 L) (Radford et al. 2019, GPT-2); biases are 0.
    """
    self.config = config
    residual = (2 * config.num_layers) ** -0.5
    for name, shape in shapes.items():
      if name.endswith('norm'):
        x = jnp.full(shape, 0.0 if config.norm_plus_one else 1.0)
      elif name.endswith('bias') and name != 'relative_bias':
        x = jnp.zeros(shape, jnp.float32)
      else:
        scale = 0.02 * (residual if name in ('out', 'down') else 1.0)
        x = scale * jax.random.normal(rngs.params(), shape, jnp.float32)
      setattr(self, name, nnx.Param(x))

  def norm(self, name: str, x: jax.Array) -> jax.Array:
    """Norm over the last dim, computed in fp32."""
    return layerwise.lean(self._norm, self.config.remat, (1,))(x, name)

  def _norm(self, x: jax.Array, name: str) -> jax.Array:
    y = x.astype(jnp.float32)
    if self.config.norm == 'layer':
      y -= jnp.mean(y, axis=-1, keepdims=True)
    squares = jnp.mean(y * y, axis=-1, keepdims=True)
    y = y * lax.rsqrt(squares + self.config.norm_eps)

    def spread(name: str) -> jax.Array:
      leaf = getattr(self, name)[...]
      return jnp.broadcast_to(leaf.astype(jnp.float32), y.shape)

    y = y * (spread(name) + 1 if self.config.norm_plus_one else spread(name))
    if hasattr(self, f'{name}_bias'):
      y += spread(f'{name}_bias')
    return y.astype(x.dtype)

  def matrix(self, name: str) -> jax.Array:
    """A matrix [..., in, out] as floats, see `quantized`."""
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
    """The product x W, plus the LoRA adapter and bias, if any."""
    # As a matrix: with more dims XLA:CPU multiplies two transposed matrices in
    # the backward pass, in twice the time, and sums over two dims more slowly.
    dims, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
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
    return y.reshape(*dims, -1)


class Block(ModelPart):
  """One layer: attention and MLP. A subclass may override any method.

  Full passes, packed texts and generation all run layers through it.
  """

  place: nnx.Variable[jax.Array]  # Index of the layer, if layers differ.

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    """Creates fp32 parameters of one layer."""
    super().__init__(config, layer_shapes(config), rngs=rngs)

  def __call__(
    self,
    x_BTD: jax.Array,
    angles: Angles,
    attend: Callable[..., jax.Array],
    chosen: Callable[[jax.Array], jax.Array] = lambda x: x,
  ) -> jax.Array:
    """Output of the layer.

    Args:
      x_BTD: Output of the previous layer.
      angles: Result of `positions.rope_angles`; None without rotary positions.
      attend: Function (this block, queries, keys, values) -> mixed values [B,
        T, H, K], such as `Block.attend` or one that uses a cache.
      chosen: Function that selects the needed places from [B, T, ...].
    """
    q, k, v = self.project(x_BTD, angles)
    mixed = attend(self, q, k, v)
    return self.finish(chosen(x_BTD), chosen(mixed))

  def project(
    self, x_BTD: jax.Array, angles: Angles
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [B, T, H, K], keys and values [B, T, G, K]."""
    config = self.config
    x_SD = x_BTD.reshape(-1, x_BTD.shape[-1])  # See `dense`.
    h_SD = self.entry('attention', x_SD)
    if not config.first_norm:
      h_SD = jnp.where(self.place[...] == 0, x_SD, h_SD)

    def heads(name: str) -> jax.Array:
      x = self.dense(name, h_SD)
      if config.qk_norm == 'width' and name != 'value':
        x = self.norm(f'{name}_norm', x)
      x = x.reshape(*x_BTD.shape[:2], -1, config.head_width)
      if config.qk_norm == 'head' and name != 'value':
        x = self.norm(f'{name}_norm', x)
      return x

    q, k, v = heads('query'), heads('key'), heads('value')
    if angles is None:
      return q, k, v
    if angles[0].ndim == 5:  # One array per letter of the pattern.
      letters = sorted(set(config.letters))
      code = self.pick([letters.index(x) for x in config.letters])
      angles = angles[0][code], angles[1][code]
    return positions.rotate(q, angles), positions.rotate(k, angles), v

  def pick(self, values: Sequence[int]) -> jax.Array:
    """Selects this layer's value from the values of all layers."""
    return jnp.asarray(values)[self.place[...]]

  def attend(
    self,
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segment_ids: jax.Array | None = None,
    bias_HTT: jax.Array | None = None,
  ) -> jax.Array:
    """Attention over full sequences, [B, T, H, K]."""
    letters = self.config.letters

    def run(window: int | None) -> jax.Array:
      return attention.attend(
        q_BTHK,
        k_BTGK,
        v_BTGK,
        segment_ids,
        bias_HTT=bias_HTT,
        is_causal=self.config.causal,
        scale=attention_scale(self.config),
        window=window,
        cap=self.config.score_cap or None,
        method=self.config.attention,
      )

    if len({x == 'w' for x in letters}) == 1:
      return run(self.config.window or None)
    is_local = self.pick([x == 'w' for x in letters])
    return lax.cond(
      is_local, lambda: run(self.config.window), lambda: run(None)
    )

  def finish(self, x_BTD: jax.Array, mixed_BTHK: jax.Array) -> jax.Array:
    """The rest of the layer: output of attention, then the MLP."""
    x_SD = x_BTD.reshape(-1, x_BTD.shape[-1])  # See `dense`.
    mixed = self.dense('out', mixed_BTHK.reshape(len(x_SD), -1))
    x_SD = self.add('attention', x_SD, mixed)
    y_BTD = self.mlp(self.entry('mlp', x_SD).reshape(x_BTD.shape))
    x_SD = self.add('mlp', x_SD, y_BTD.reshape(x_SD.shape))
    return x_SD.reshape(x_BTD.shape)

  def entry(self, name: str, x: jax.Array) -> jax.Array:
    """Input of attention or MLP, [..., D]."""
    is_normed = self.config.norm_place in ('pre', 'both')
    return self.norm(f'{name}_norm', x) if is_normed else x

  def add(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Adds the output of attention or MLP to the residual stream, [..., D]."""
    place = self.config.norm_place
    if place in ('both', 'branch'):
      after = 'post_norm' if place == 'both' else 'norm'
      y = self.norm(f'{name}_{after}', y)
    if self.config.residual_scale != 1:
      y = y * self.config.residual_scale
    x = x + y
    return self.norm(f'{name}_norm', x) if place == 'post' else x

  def mlp(self, h_BTD: jax.Array) -> jax.Array:
    """MLP of normed inputs."""
    activate = _ACTIVATIONS[self.config.activation]
    h_SD = h_BTD.reshape(-1, h_BTD.shape[-1])
    if self.config.num_experts:
      return self.experts(h_SD).reshape(h_BTD.shape)

    def down(x_SF: jax.Array, *up_SF: jax.Array) -> jax.Array:
      return self.dense('down', math.prod(up_SF, start=activate(x_SF)))

    names = ('gate', 'up') if self.config.gated_mlp else ('up',)
    inner = [self.dense(name, h_SD) for name in names]
    return layerwise.lean(down, self.config.remat)(*inner).reshape(h_BTD.shape)

  def experts(self, h_SD: jax.Array) -> jax.Array:
    """Weighted sum of each token's experts; computed sorted by expert."""
    config, num = self.config, self.config.experts_per_token
    routed_SE = scores(h_SD, self.matrix('router'))
    shares_SN, experts_SN = lax.top_k(jax.nn.softmax(routed_SE), num)
    if config.normalize_experts:
      shares_SN /= shares_SN.sum(axis=-1, keepdims=True)
    order = jnp.argsort(experts_SN.reshape(-1))
    sizes = jnp.bincount(experts_SN.reshape(-1), length=config.num_experts)
    x = lookup(h_SD, order // num)

    def product(x: jax.Array, name: str) -> jax.Array:
      return lax.ragged_dot(x, self.matrix(name), sizes)

    activate = _ACTIVATIONS[config.activation]
    x = product(activate(product(x, 'gate')) * product(x, 'up'), 'down')
    x_SND = lookup(x, jnp.argsort(order)).reshape(*experts_SN.shape, -1)
    return (x_SND * shares_SN[..., None].astype(x.dtype)).sum(axis=1)


def top_shapes(config: Config) -> Shapes:
  """Shapes of the parameters outside the layers."""
  D = config.embed_dim
  shapes: Shapes = {'embed': (config.vocab_size, D)}
  if config.positions == 'learned':
    shapes['positions'] = (config.max_positions + config.position_offset, D)
  if config.is_relative:
    shapes['relative_bias'] = (config.relative_buckets, config.num_heads)
  if config.token_types:
    shapes['token_types'] = (config.token_types, D)
  if config.embed_norm:
    shapes |= norm_shapes(config, 'embed_norm')
  if config.norm_place != 'post':
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
  }
  experts = (config.num_experts,) if config.num_experts else ()
  shapes |= {'up': (*experts, D, F), 'down': (*experts, F, D)}
  if experts:
    shapes['router'] = (D, *experts)
  if config.gated_mlp:
    shapes['gate'] = (*experts, D, F)
  if config.norm_place == 'both':
    shapes |= norm_shapes(config, 'attention_post_norm')
    shapes |= norm_shapes(config, 'mlp_post_norm')
  if config.qk_norm != 'none':
    is_head, K = config.qk_norm == 'head', config.head_width
    shapes['query_norm'] = (K if is_head else HK,)
    shapes['key_norm'] = (K if is_head else GK,)
  for names, is_there in (
    (('query', 'key', 'value'), config.qkv_bias),
    (('out',), config.out_bias),
    (('gate', 'up', 'down'), config.mlp_bias),
  ):
    found = [name for name in names if is_there and name in shapes]
    shapes |= {f'{name}_bias': shapes[name][-1:] for name in found}
  return shapes


def norm_shapes(config: Config, name: str) -> Shapes:
  """Shapes of the parameters of a norm."""
  has_bias = config.norm == 'layer' and config.norm_bias
  names = (name, f'{name}_bias') if has_bias else (name,)
  return dict.fromkeys(names, (config.embed_dim,))


def attention_scale(config: Config) -> float:
  """Factor of the scores."""
  scale = config.attention_scale
  return config.head_width**-0.5 if scale is None else scale


def scores(x_BTD: jax.Array, kernel_DV: jax.Array) -> jax.Array:
  """Products in the inputs' dtype, summed in fp32."""
  return jnp.einsum(
    '...d,dv->...v', x_BTD, kernel_DV, preferred_element_type=jnp.float32
  )


def logits(config: Config, x_BTD: jax.Array, kernel_DV: jax.Array) -> jax.Array:
  """Scores of all tokens, with the model's divisor and cap."""
  y = scores(x_BTD, kernel_DV) / config.logit_divisor
  cap = config.logit_cap
  return cap * jnp.tanh(y / cap) if cap else y
