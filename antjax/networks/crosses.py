# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Products of features: cross layers, feature maps, attention, two streams."""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Annotated, Any, ClassVar

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.deep import Deep
from antjax.networks.network import (
  ClickNetwork,
  DeepConfig,
  Inputs,
  Sized,
  Sizes,
)


def cross_layers(
  width: int, num_layers: int, rank: int, *, rngs: nnx.Rngs
) -> nnx.List[nnx.Module]:
  """Maps W_l x + b_l for `crossed`; W_l is a product if it has low rank."""

  def product() -> nnx.Module:
    if not rank:
      return nnx.Linear(width, width, rngs=rngs)
    return nnx.Sequential(
      nnx.Linear(width, rank, use_bias=False, rngs=rngs),
      nnx.Linear(rank, width, rngs=rngs),
    )

  return nnx.List(product() for _ in range(num_layers))


def crossed(layers: nnx.List[Any], x0: jax.Array) -> jax.Array:
  """x_L of x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, [..., I]."""
  x = x0
  for layer in layers:
    x = x0 * layer(x) + x
  return x


class DCNv2(ClickNetwork):
  """DCN V2, parallel form: y = w [x_L, MLP(x_0)] + b with cross layers x_l.

    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l,  x_0 = v

  Source: Wang et al. 2021, https://arxiv.org/abs/2008.13535, sections 3.2,
  3.4 and 4 (W of low rank).
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    may_be_zero: ClassVar[tuple[str, ...]] = ('cross_rank',)

    cross_layers: Annotated[int, 'Number of cross layers.'] = 3
    cross_rank: Annotated[
      int, 'Rank of the matrices of cross layers. 0: full rank.'
    ] = 0

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width = sizes.flat_width
    self.cross = cross_layers(
      width, config.cross_layers, config.cross_rank, rngs=rngs
    )
    self.mlp = MLP(width, config.widths, rngs=rngs)
    self.out = nnx.Linear(width + self.mlp.out_features, 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    both = [crossed(self.cross, x.flat), self.mlp(x.flat)]
    return self.out(jnp.concatenate(both, axis=-1))[:, 0]


class GDCN(ClickNetwork):
  """GDCN: cross layers with gated products.

    c_{l+1} = c_0 * (W_l c_l + b_l) * sigmoid(G_l c_l) + c_l,  c_0 = v

  GDCN-P: y = w [c_L, MLP(v)] + b;  GDCN-S: y = w MLP(c_L) + b.

  Source: Wang et al. 2023, https://arxiv.org/abs/2311.04635, sections on
  the gated cross network and GDCN.
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    parallel: Annotated[
      bool, 'MLP in parallel with the cross layers (GDCN-P), or after (GDCN-S).'
    ] = True
    cross_layers: Annotated[int, 'Number of cross layers.'] = 3

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width, self.parallel = sizes.flat_width, config.parallel

    def products(use_bias: bool) -> nnx.List[nnx.Linear]:
      return nnx.List(
        nnx.Linear(width, width, use_bias=use_bias, rngs=rngs)
        for _ in range(config.cross_layers)
      )

    self.cross, self.gates = products(True), products(False)
    self.mlp = MLP(width, config.widths, rngs=rngs)
    both = self.mlp.out_features + width * self.parallel
    self.out = nnx.Linear(both, 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    x0 = gated = x.flat
    for layer, gate in zip(self.cross, self.gates, strict=True):
      share = jax.nn.sigmoid(gate(gated))
      gated = x0 * layer(gated) * share + gated
    if not self.parallel:
      return self.out(self.mlp(gated))[:, 0]
    both = jnp.concatenate([gated, self.mlp(x0)], axis=-1)
    return self.out(both)[:, 0]


class Maps(nnx.Module):
  """Feature maps of pairs of earlier maps and fields.

  Each element d of a map is a row: one product gives sum_i W_{ij} X_i for all
  j, whose products with X^0_j are summed. Outer products are never formed.
  """

  def __init__(
    self, num_maps: int, num_fields: int, num_new: int, *, rngs: nnx.Rngs
  ):
    scale = (num_maps * num_fields) ** -0.5
    shape = num_maps, num_new, num_fields
    self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), shape))

  def __call__(self, maps_SH: jax.Array, fields_SF: jax.Array) -> jax.Array:
    """[S, new maps], S = rows times map elements."""
    kernel = self.kernel[...]
    mixed = maps_SH @ kernel.reshape(len(kernel), -1)
    by_field = mixed.reshape(len(mixed), *kernel.shape[1:])
    return jnp.sum(by_field * fields_SF[:, None], axis=-1)


class XDeepFM(ClickNetwork):
  """A compressed interaction network, linear terms and an MLP.

  Layer k makes H_k maps of width D from all pairs of previous maps and fields,
  X^k_h = sum_{i,j} W^{k,h}_{ij} (X^{k-1}_i * X^0_j). The logit has a weighted
  sum of all maps' sums over D.

  Source: Lian et al. 2018, https://arxiv.org/abs/1803.05170, section 3. As in
  section 3.3, maps have no activation. All maps of a layer go to the next layer
  and to the output.
  """

  needs = frozenset({'linear'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    cin_widths: Annotated[tuple[int, ...], 'Feature maps of each layer.'] = (
      32,
      32,
    )

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    num_maps = (sizes.num_fields, *config.cin_widths)
    self.maps = nnx.List(
      Maps(before, sizes.num_fields, after, rngs=rngs)
      for before, after in itertools.pairwise(num_maps)
    )
    self.cin_out = nnx.Linear(sum(config.cin_widths), 1, rngs=rngs)
    self.deep = Deep(sizes.flat_width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    num_rows, num_fields, dim = x.fields_BFD.shape
    fields = jnp.swapaxes(x.fields_BFD, 1, 2).reshape(-1, num_fields)
    maps, sums = fields, []
    for layer in self.maps:
      maps = layer(maps, fields)
      sums.append(maps.reshape(num_rows, dim, -1).sum(axis=1))
    explicit = self.cin_out(jnp.concatenate(sums, axis=-1))[:, 0]
    return x.first_order_B + explicit + self.deep(x.flat)


class InteractingLayer(nnx.Module):
  """Self-attention over fields, with a projected residual."""

  def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs):
    if dim % num_heads:
      raise ValueError(
        f'autoint: num_heads={num_heads} must divide the embedding width {dim}.'
      )
    self.num_heads = num_heads
    self.project = nnx.Linear(dim, 4 * dim, use_bias=False, rngs=rngs)

  def __call__(self, x_BFD: jax.Array) -> jax.Array:
    """[B, F, D] of [B, F, D]."""
    query, key, value, rest = jnp.split(self.project(x_BFD), 4, axis=-1)

    def heads(y):
      return y.reshape(*y.shape[:2], self.num_heads, -1)

    scores = jnp.einsum('bfhd,bghd->bhfg', heads(query), heads(key))
    mixed = jnp.einsum(
      'bhfg,bghd->bfhd', jax.nn.softmax(scores, axis=-1), heads(value)
    )
    return jax.nn.relu(mixed.reshape(x_BFD.shape) + rest)


class AutoInt(ClickNetwork):
  """AutoInt: fields attend to fields, y = w [e_1, ..., e_F] + b.

  A layer, with the outputs of heads h concatenated:

    e_f = relu([sum_g softmax_g(<Q_h v_f, K_h v_g>) V_h v_g]_h + W v_f)

  Source: Song et al. 2019, https://arxiv.org/abs/1810.11921, section 4.3. As
  there, scores are not scaled.
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(Sized):
    """Sizes of the network."""

    num_layers: Annotated[int, 'Number of layers.'] = 2
    num_heads: Annotated[int, 'Number of attention heads.'] = 2

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.layers = nnx.List(
      InteractingLayer(sizes.dim, config.num_heads, rngs=rngs)
      for _ in range(config.num_layers)
    )
    self.out = nnx.Linear(sizes.flat_width, 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    fields = x.fields_BFD
    for layer in self.layers:
      fields = layer(fields)
    return self.out(x.beside(fields))[:, 0]


class Stream(nnx.Module):
  """A gate on the fields, then an MLP: [B, O]."""

  def __init__(
    self,
    sizes: Sizes,
    fields: Sequence[int],
    config: 'FinalMLP.Config',
    *,
    rngs: nnx.Rngs,
  ):
    self.fields = tuple(fields)
    width = sizes.flat_width
    if self.fields:
      self.gate = nnx.Linear(len(self.fields) * sizes.dim, width, rngs=rngs)
    else:
      self.score = nnx.Param(jnp.zeros(width))
    self.mlp = MLP(width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    if self.fields:
      score = self.gate(x.joined(self.fields))
    else:
      score = jnp.broadcast_to(self.score[...], x.flat.shape)
    return self.mlp(2 * jax.nn.sigmoid(score) * x.flat)


class FinalMLP(ClickNetwork):
  """FinalMLP: two MLPs on gated fields, and a bilinear form of their outputs.

    h_i = 2 sigmoid(G_i(c_i)) * v,  o_i = MLP_i(h_i),
    y = b + w_1 o_1 + w_2 o_2 + sum_h o_1^h W_h o_2^h  (heads h)

  Source: Mao et al. 2023, https://arxiv.org/abs/2304.00902, section 3. c_1 are
  the user's fields and c_2 the item's, as in the paper for its own data.
  Without such fields the gate is a learned vector, as the paper suggests.
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    num_heads: Annotated[int, 'Number of attention heads.'] = 2

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width, heads = config.widths[-1], config.num_heads
    if width % heads:
      raise ValueError(
        f'finalmlp: num_heads={heads} must divide the last width {width}.'
      )
    self.user = Stream(sizes, sizes.user_fields, config, rngs=rngs)
    self.item = Stream(sizes, sizes.item_fields, config, rngs=rngs)
    self.linear = nnx.Linear(2 * width, 1, rngs=rngs)
    part = width // heads
    scale = part**-1.0  # The form of two unit vectors is about one.
    form = jax.random.normal(rngs.params(), (heads, part, part)) * scale
    self.form = nnx.Param(form)

  def __call__(self, x: Inputs) -> jax.Array:
    user, item = self.user(x), self.item(x)
    logit = self.linear(jnp.concatenate([user, item], axis=-1))[:, 0]
    for h, form in enumerate(self.form[...]):
      part = slice(h * len(form), (h + 1) * len(form))
      logit += jnp.sum((user[:, part] @ form) * item[:, part], axis=-1)
    return logit
