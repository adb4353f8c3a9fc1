# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks for meta-learning, and for sequential tasks.

The parts that adapt in an inner loop are named 'decision', 'top' and 'head'.
"""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Annotated, Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from antjax.layers import mlp
from antjax.metrics import by_slice
from antjax.networks.deep import Deep
from antjax.networks.dlrm import logits
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes
from antjax.networks.towers import TowerConfig

# Shape suffixes: B = rows, S = support rows, F = fields, or width of a row, D =
# embedding width, C = clusters, E = width of a task's encoding, H = hidden
# width, O = outputs, T = labels, U = 2.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionConfig(DeepConfig):
  """Sizes of decision layers."""

  widths: Annotated[
    tuple[int, ...], 'Hidden widths of the decision layers.'
  ] = (64, 64)


class MeLU(ClickNetwork):
  """MeLU: y = w MLP(v) + b, whose decision layers adapt in an inner loop.

  Source: Lee et al. 2019, https://arxiv.org/abs/1908.00413, with the paper's
  widths.
  """

  Config: type[DeepConfig] = DecisionConfig

  def __init__(self, sizes: Sizes, config: DecisionConfig, *, rngs: nnx.Rngs):
    self.decision = mlp.MLP(sizes.flat_width, config.widths, rngs=rngs)
    width = self.decision.out_features
    self.head = nnx.Linear(width, sizes.num_outputs, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    return logits(self.head(self.decision(x.flat)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CBMLConfig(DecisionConfig):
  """Sizes of the network."""

  num_clusters: Annotated[int, 'Number of task clusters.'] = 4
  encoding_dim: Annotated[int, 'Width of the encoding of a task.'] = 16


class SoftClusters(nnx.Module):
  """Maps the support of a task to a factor for each hidden unit."""

  def __init__(self, in_features: int, config: CBMLConfig, *, rngs: nnx.Rngs):
    """Creates encoder, centers and gates for rows of `in_features` numbers."""
    self.encoder = nnx.Linear(in_features, config.encoding_dim, rngs=rngs)
    shape = config.num_clusters, config.encoding_dim
    self.centers_CE = nnx.Param(jax.random.normal(rngs.params(), shape))
    self.gates = nnx.List(
      nnx.Linear(config.encoding_dim, width, rngs=rngs)
      for width in config.widths
    )

  def shares(self, rows_SF: jax.Array, mask_S: jax.Array) -> jax.Array:
    """The share of each cluster [C]; they sum to 1."""
    encoded_SE = jnp.tanh(self.encoder(rows_SF))
    mask_S1 = (mask_S > 0)[:, None]
    count = jnp.maximum(mask_S1.sum(), 1).astype(encoded_SE.dtype)
    task_E = jnp.where(mask_S1, encoded_SE, 0).sum(axis=0) / count
    distance_C = jnp.square(task_E[None] - self.centers_CE[...]).sum(axis=-1)
    return jax.nn.softmax(-distance_C)

  def __call__(
    self, rows_SF: jax.Array, mask_S: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Factors in (0, 2) [H] for the units of each hidden layer."""
    mixture_E = self.shares(rows_SF, mask_S) @ self.centers_CE[...]
    return tuple(2 * jax.nn.sigmoid(gate(mixture_E)) for gate in self.gates)


class CBML(MeLU):
  """CBML: soft clusters of tasks gate the shared decision layers.

  Song et al. 2021 cluster tasks softly and modulate the shared parameters by
  cluster before a task adapts them. Only the paper's abstract was available;
  this is our own form of the idea. A task's support is encoded and averaged,
  its distances to learned centers give the share of each cluster, and the
  mixture of centers gives a factor for each hidden unit.
  """

  Config = CBMLConfig
  needs = frozenset({'support'})

  def __init__(self, sizes: Sizes, config: CBMLConfig, *, rngs: nnx.Rngs):
    self.clusters = SoftClusters(sizes.flat_width + 1, config, rngs=rngs)
    super().__init__(sizes, config, rngs=rngs)

  def context(
    self, x: Inputs, label_S: jax.Array, mask_S: jax.Array
  ) -> tuple[jax.Array, ...]:
    """A task's gates, from its support rows, their labels and their mask."""
    rows_SF = jnp.concatenate([x.flat, label_S[..., None]], axis=-1)
    return self.clusters(rows_SF, mask_S)

  def __call__(self, x: Inputs) -> jax.Array:
    h = x.flat
    for layer, gate in zip(self.decision.layers, x.context, strict=True):
      h = gate[None] * self.decision.activation(layer(h))
    return logits(self.head(h))


class Chain(NamedTuple):
  """Logits of sequential tasks.

  Attributes:
    all_BT: Logits of a task and all before it.
    after_BT: Logits of a task given that all before it are 1.
  """

  all_BT: jax.Array
  after_BT: jax.Array


class ESMM(ClickNetwork):
  """ESMM: conversions learned from all impressions, not only from clicks.

    P(click) = sigmoid(a),  P(click and conversion) = sigmoid(a) sigmoid(b)

  with a and b the outputs of two MLPs on the same vectors, and so on for
  further labels. b is the logit of a conversion after a click. It has no
  separate loss, since the outcome after clicks that did not happen is unknown.

  Source: Ma et al. 2018, https://arxiv.org/abs/1804.07931, section 2.3.
  """

  Config: type[DeepConfig] = DeepConfig
  needs = frozenset({'labels'})

  def __init__(self, sizes: Sizes, config: DeepConfig, *, rngs: nnx.Rngs):
    self.tasks = nnx.List(
      Deep(sizes.flat_width, config.widths, rngs=rngs)
      for _ in range(sizes.num_outputs)
    )

  def __call__(self, x: Inputs) -> Chain:
    after = [task(x.flat) for task in self.tasks]
    every = after[:1]
    for b in after[1:]:
      every.append(logit_of_both(every[-1], b))
    return Chain(jnp.stack(every, axis=1), jnp.stack(after, axis=1))

  def loss(self, found: Chain, labels_BT: jax.Array) -> jax.Array:
    """Cross entropies, [B]; a label counts as 1 if all before it are 1 too."""
    return cross_entropies(found.all_BT, jnp.cumprod(labels_BT, axis=1))


def logit_of_both(a: jax.Array, b: jax.Array) -> jax.Array:
  """The logit of sigmoid(a) sigmoid(b), accurate even near 0 and 1.

  1 / (sigmoid(a) sigmoid(b)) - 1 = exp(-a) + exp(-b) + exp(-a - b).
  """
  return -jax.nn.logsumexp(jnp.stack([-a, -b, -a - b]), axis=0)


def cross_entropies(found: jax.Array, labels_BT: jax.Array) -> jax.Array:
  """Sums over tasks [B]; for logits [B], of the first task only."""
  if found.ndim == 1:
    found, labels_BT = found[:, None], labels_BT[:, :1]
  return optax.sigmoid_binary_cross_entropy(found, labels_BT).sum(axis=1)


def by_label(found: Any, labels: Sequence[str]) -> dict[str, jax.Array]:
  """Part of `by_slice` -> logits [B], from the outputs of a network.

  'prediction' is of the first label. A network of several tasks has a part for
  each label, a `Chain` also for labels after another.
  """
  after: dict[str, jax.Array] = {}
  if isinstance(found, Chain):
    for k, (before, label) in enumerate(itertools.pairwise(labels)):
      after[by_slice.task(label, before)] = found.after_BT[:, k + 1]
    found = found.all_BT
  if found.ndim == 1:
    return {'prediction': found}
  each = {by_slice.task(label): found[:, k] for k, label in enumerate(labels)}
  return {'prediction': found[:, 0], **each, **after}


class AITM(ClickNetwork):
  """AITM: each task passes information to the next one.

    z_1 = f_1(v),  z_k = attention over (f_k(v), g_k(z_{k-1})),  y_k = t_k(z_k)

  with MLPs f_k and t_k, a layer g_k, and for parts u of the two

    z_k = sum_u softmax_u(<Q u, K u> / sqrt(width)) V u.

  The loss adds `order_penalty` times max(p_k - p_{k-1}, 0) for each k, since a
  task cannot be likelier than the one before it.

  Source: Xi et al. 2021, https://arxiv.org/abs/2105.08489, sections on the AIT
  module and the calibrator.
  """

  needs = frozenset({'labels'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig, TowerConfig):
    """Sizes of the network."""

    order_penalty: Annotated[
      float, 'Weight of probabilities above that of the task before.'
    ] = 0.6

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.order_penalty, width = config.order_penalty, config.widths[-1]
    tasks = range(sizes.num_outputs)
    self.bottoms = nnx.List(
      mlp.MLP(sizes.flat_width, config.widths, rngs=rngs) for _ in tasks
    )
    self.towers = nnx.List(
      Deep(width, config.tower_widths, rngs=rngs) for _ in tasks
    )
    self.carry = nnx.List(
      nnx.Linear(width, width, rngs=rngs) for _ in tasks[1:]
    )
    self.attend = nnx.List(
      nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs) for _ in tasks[1:]
    )

  def __call__(self, x: Inputs) -> jax.Array:
    z_BO, *rest = [bottom(x.flat) for bottom in self.bottoms]
    found = [self.towers[0](z_BO)]
    for k, own_BO in enumerate(rest):
      parts = jnp.stack([own_BO, jax.nn.relu(self.carry[k](z_BO))], axis=1)
      query, key, value = jnp.split(self.attend[k](parts), 3, axis=-1)
      score_BU = jnp.sum(query * key, axis=-1) * query.shape[-1] ** -0.5
      z_BO = mlp.mix(score_BU, value)
      found.append(self.towers[k + 1](z_BO))
    return jnp.stack(found, axis=1)

  def loss(self, found: jax.Array, labels_BT: jax.Array) -> jax.Array:
    """Cross entropies plus the penalty on the order, [B]."""
    p_BT = jax.nn.sigmoid(found)
    above = jax.nn.relu(p_BT[:, 1:] - p_BT[:, :-1]).sum(axis=1)
    return cross_entropies(found, labels_BT) + self.order_penalty * above
