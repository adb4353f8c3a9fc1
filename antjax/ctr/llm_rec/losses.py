# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Softmax over a target and negatives, which may be those of other devices.

  L = -log( exp(u v+) / (exp(u v+) + sum_j n_j exp(u v_j)) )

n_j says how often item j counts: 0 for what is masked. `own` is the paper's
loss: J items drawn for each example (Tang et al. 2025,
https://arxiv.org/abs/2310.14304). The others have one pool for all examples:
`in_batch` the distinct targets of the batch, `shared` also J items that are
drawn once for all. An example's pool lacks its target, what its user has had,
and items of other domains; an item that several devices hold counts once. An
item that is often a target is often in the pool: log_q, the logarithm of the
probability that it is there, is subtracted from its score and from the
target's (Yi et al. 2019, https://doi.org/10.1145/3298689.3346996).
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Annotated, Any, Literal

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.embedding.lookup import pick
from antjax.mesh.mesh import BATCH_AXES, INTRA

# Shape suffixes: B = examples of a device, J = negatives of an example,
# U = distinct items of a device, C = candidates: U, or those of all devices,
# F = seen items, D = width of a vector.

Across = Literal['device', 'group', 'all']
Batch = Mapping[str, Any]
MAX_LOG_SCALE = float(np.log(100.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
  """Which items a target is told from."""

  negatives: Annotated[
    Literal['own', 'shared', 'in_batch'],
    'Source of negatives. own: items sampled per example (as in the paper).'
    ' in_batch: targets of other examples. shared: these and items sampled per'
    ' micro-batch.',
  ] = 'own'
  num_negatives: Annotated[
    int, 'Number of items sampled per example (own) or micro-batch (shared).'
  ] = 10
  exclude: Annotated[
    Literal['seen', 'target', 'nothing'],
    "Items that are never negatives. seen: the target and items of the user's"
    ' history. target: the target. nothing: none, as in the official code.',
  ] = 'seen'
  in_domain: Annotated[
    bool, 'Exclude items of other domains from the negatives of an example.'
  ] = True
  across: Annotated[
    Across,
    'Devices that share in-batch and shared negatives: this device, its PaRO'
    ' group, or all devices.',
  ] = 'device'
  log_q: Annotated[
    bool, 'Correct shared and in-batch scores for the frequency of items.'
  ] = True
  temperature: Annotated[float, 'Temperature that scores are divided by.'] = 1.0
  learn_temperature: Annotated[bool, 'Train it. It stays above 0.01.'] = False

  def __post_init__(self) -> None:
    if self.num_negatives < 1 or not 0.01 <= self.temperature:
      raise ValueError(
        f'loss.num_negatives={self.num_negatives} must be at least 1, and'
        f' loss.temperature={self.temperature} at least 0.01.'
      )
    if self.across != 'device' and self.negatives == 'own':
      raise ValueError(
        f'loss.across={self.across}: loss.negatives=own has no pool to share;'
        ' use shared or in_batch.'
      )
    if self.exclude == 'nothing' and self.negatives != 'own':
      raise ValueError(
        f'loss.exclude=nothing: the pool of loss.negatives={self.negatives}'
        ' holds the targets themselves; use seen or target.'
      )

  @property
  def axes(self) -> tuple[str, ...]:
    """Mesh axes over which the pool is gathered."""
    return {'device': (), 'group': (INTRA,), 'all': BATCH_AXES}[self.across]


def scale(config: LossConfig, log_scale: jax.Array | None) -> jax.Array:
  """Factor of the scores, fp32; `log_scale` [1] is the learned one's log."""
  if log_scale is None:
    return jnp.float32(1 / config.temperature)
  log_scale = log_scale[0].astype(jnp.float32)
  return jnp.exp(jnp.clip(log_scale, 0, MAX_LOG_SCALE))


def products(
  user_BD: jax.Array, factor: jax.Array
) -> Callable[[jax.Array], jax.Array]:
  """Scores by products of vectors, for `losses`."""
  return lambda item_CD: factor * (user_BD.astype(jnp.float32) @ item_CD.T)


def losses(
  config: LossConfig,
  scores_fn: Callable[[jax.Array], jax.Array],
  item_UD: jax.Array,
  batch: Batch,
) -> jax.Array:
  """Loss of each example, fp32 [B].

  Call it in `shard_map` over the mesh's axes where `config.across` is not
  'device'.

  Args:
    config: Configuration of the loss.
    scores_fn: Vectors of items, fp32 [C, D] -> their scores for the users,
      fp32 [B, C].
    item_UD: Vectors of this device's distinct items.
    batch: 'target' int32 [B] and for own 'negatives' int32 [B, J], rows of
      item_UD, -1 for none. For pools 'items' int32 [U], 0 for none,
      'item_domain' int32 [U], 'in_pool' [U], 'log_q' float32 [U], 'domain'
      int32 [B] and 'seen' int32 [B, F], 0 for none.
  """
  item_UD = item_UD.astype(jnp.float32)
  target_B = batch['target']
  logits_BC = scores_fn(item_UD)
  positive_B = pick(logits_BC, target_B)
  if config.negatives == 'own':
    count_BC = counts(batch['negatives'], len(item_UD))
    return softmax_loss(positive_B, logits_BC, count_BC)
  own = {name: batch[name] for name in ('items', 'item_domain', 'in_pool')}
  own['vector'] = item_UD
  if config.log_q:
    own['log_q'] = batch['log_q']
    positive_B -= batch['log_q'][target_B]
  pool = own
  if config.axes:
    pool = jax.tree.map(
      lambda x: lax.all_gather(x, config.axes, tiled=True), own
    )
    logits_BC = scores_fn(pool['vector'])
  if config.log_q:
    logits_BC -= pool['log_q'][None]
  is_there_C = is_first(jnp.where(pool['in_pool'] > 0, pool['items'], 0))
  target_id_B = batch['items'][target_B]
  masked_BC = pool['items'][None] == target_id_B[:, None]
  if config.in_domain:
    masked_BC |= pool['item_domain'][None] != batch['domain'][:, None]
  if config.exclude == 'seen':
    # One item at a time: [B, F, C] would not fit for long histories.
    seen_BF = jnp.asarray(batch['seen'])
    masked_BC = lax.fori_loop(
      0,
      seen_BF.shape[1],
      lambda i, m: m | (pool['items'][None] == seen_BF[:, i, None]),
      masked_BC,
    )
  count_BC = jnp.where(is_there_C[None] & ~masked_BC, 1.0, 0.0)
  return softmax_loss(positive_B, logits_BC, count_BC)


def softmax_loss(
  positive_B: jax.Array, logits_BC: jax.Array, count_BC: jax.Array
) -> jax.Array:
  """-log softmax of the positive, where candidate c counts count_BC times."""
  masked_BC = jnp.where(
    count_BC > 0, logits_BC + jnp.log(jnp.maximum(count_BC, 1)), -jnp.inf
  )
  all_BC = jnp.concatenate([positive_B[:, None], masked_BC], axis=1)
  return jax.nn.logsumexp(all_BC, axis=1) - positive_B


def counts(index_BJ: jax.Array, num: int) -> jax.Array:
  """How often each of `num` rows is among the indices, fp32 [B, num].

  Args:
    index_BJ: int32 [B, J]; negative ones are none.
    num: Rows.
  """
  row_B1 = jnp.arange(len(index_BJ))[:, None]
  zeros = jnp.zeros((len(index_BJ), num), jnp.int32)
  is_there_BJ = (index_BJ >= 0).astype(zeros.dtype)
  count_BC = zeros.at[row_B1, jnp.maximum(index_BJ, 0)].add(is_there_BJ)
  return count_BC.astype(jnp.float32)


def is_first(ids_C: jax.Array) -> jax.Array:
  """Bool [C]: whether no equal id comes before; False for id 0."""
  order_C = jnp.argsort(ids_C, stable=True)
  ordered_C = ids_C[order_C]
  is_new_C = jnp.concatenate(
    [jnp.ones(1, bool), ordered_C[1:] != ordered_C[:-1]]
  )
  first_C = jnp.zeros(ids_C.shape, bool).at[order_C].set(is_new_C)
  return first_C & (ids_C != 0)


def inclusion_log_q(
  target_share: np.ndarray,
  drawn_share: np.ndarray,
  num_targets: int,
  num_drawn: int,
) -> np.ndarray:
  """Logarithm of the probability that items are in a pool, float32.

  Args:
    target_share: Probability of each item to be an example's target.
    drawn_share: Probability of each item to be one that is drawn.
    num_targets: Examples of a pool.
    num_drawn: Items drawn for it.
  """
  tiny = np.finfo(np.float64).tiny
  absent = num_targets * np.log1p(-np.minimum(target_share, 1 - 1e-9))
  absent += num_drawn * np.log1p(-np.minimum(drawn_share, 1 - 1e-9))
  return np.log(np.maximum(-np.expm1(absent), tiny)).astype(np.float32)


def pool_log_q(
  config: LossConfig,
  domains: np.ndarray,
  counts: np.ndarray,
  num_targets: int,
  num_drawn: int,
) -> np.ndarray:
  """Log-probability that each item is in a pool, float32 [items]; or none.

  Args:
    config: Configuration of the loss; own has no pool.
    domains: int [items], -1 for the padding.
    counts: int [items], events of each in training.
    num_targets: Examples of a pool.
    num_drawn: Items drawn for it, of domains as often as targets are of them.
  """
  if config.negatives == 'own' or not config.log_q:
    return np.zeros(0, np.float32)
  share = np.asarray(counts, np.float64)
  share = share / max(share.sum(), 1)
  there = domains >= 0
  domain = domains[there]
  by_domain = np.bincount(domain, share[there])
  drawn = np.zeros(len(share))
  drawn[there] = (by_domain / np.maximum(np.bincount(domain), 1))[domain]
  return inclusion_log_q(share, drawn, num_targets, num_drawn)
