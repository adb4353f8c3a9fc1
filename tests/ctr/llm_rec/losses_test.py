# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses against brute force; a pool over devices against one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.ctr.llm_rec import losses
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.mesh.mesh import BATCH_AXES, make_mesh

B, U, D, F = 16, 24, 5, 3


def problem(seed=0, num_ids=12):
  """Vectors and a batch of 8 parts; an id may be in several parts."""
  rng = np.random.default_rng(seed)
  items = np.zeros((8, U // 8), np.int32)
  for part in items:
    part[:2] = rng.choice(np.arange(1, num_ids), 2, replace=False)
  items[2, 2] = 12  # A drawn one; other last places stay empty.
  # Row of the part for now; of all parts in `whole`.
  target = rng.integers(0, 2, (8, B // 8)).astype(np.int32)
  target_id = np.take_along_axis(items, target, axis=1)
  domains = np.arange(13) % 2
  vector_of = rng.normal(size=(13, D)).astype(np.float32)
  batch = {
    'items': items.ravel(),
    'item_domain': domains[items].ravel().astype(np.int32),
    'in_pool': (items != 0).ravel().astype(np.float32),
    'log_q': np.log(0.1 + 0.05 * items.ravel()).astype(np.float32),
    'domain': domains[target_id].ravel().astype(np.int32),
    'seen': rng.integers(0, 13, (B, F)).astype(np.int32),
    'target': target.ravel(),
  }
  users = rng.normal(size=(B, D)).astype(np.float32)
  return users, vector_of[items.ravel()], batch


def whole(batch):
  """The batch as one part: targets count rows of all parts."""
  offset = np.repeat(np.arange(8) * (U // 8), B // 8)
  return batch | {'target': (batch['target'] + offset).astype(np.int32)}


def brute_force(config, users, vectors, batch):
  """Loops over examples and candidates; `batch` is one part."""
  found = []
  for b in range(B):
    target = batch['target'][b]
    pool = {}
    for c in np.flatnonzero(batch['in_pool']):
      item = batch['items'][c]
      if item == batch['items'][target]:
        continue
      if config.exclude == 'seen' and item in batch['seen'][b]:
        continue
      if config.in_domain and batch['item_domain'][c] != batch['domain'][b]:
        continue
      pool[item] = c  # Once, however often it is there.
    score = {
      c: float(users[b] @ vectors[c]) / config.temperature
      - (batch['log_q'][c] if config.log_q else 0)
      for c in [target, *pool.values()]
    }
    all_scores = np.array(list(score.values()))
    found.append(np.log(np.exp(all_scores).sum()) - score[target])
  return np.array(found)


def part_losses(config, users, vectors, batch):
  scores_fn = losses.products(users, losses.scale(config, None))
  return losses.losses(config, scores_fn, vectors, batch)


CONFIGS = [
  LossConfig(negatives='in_batch'),
  LossConfig(negatives='in_batch', in_domain=False, exclude='target'),
  LossConfig(negatives='shared', log_q=False, temperature=0.2),
]


@pytest.mark.parametrize('config', CONFIGS)
def test_a_pool_equals_brute_force(config):
  users, vectors, batch = problem()
  one = whole(batch)
  got = jax.jit(part_losses, static_argnums=0)(config, users, vectors, one)
  want = brute_force(config, users, vectors, one)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert (want > 0).sum() > B // 2


@pytest.mark.parametrize(
  ('config', 'across'),
  [
    (CONFIGS[0], 'all'),
    (CONFIGS[0], 'group'),
    pytest.param(CONFIGS[1], 'all', marks=pytest.mark.slow),
    pytest.param(CONFIGS[0], 'device', marks=pytest.mark.slow),
  ],
)
def test_a_pool_over_devices_equals_one_device(config, across):
  gathered = dataclasses.replace(config, across=across)
  users, vectors, batch = problem()
  mesh = make_mesh(intra=2)

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=P(BATCH_AXES), out_specs=P(BATCH_AXES)
  )
  def sharded(users, vectors, batch):
    return part_losses(gathered, users, vectors, batch)

  if across == 'all':
    one = whole(batch)

    def want_fn(users, vectors):
      return part_losses(config, users, vectors, one)
  else:  # Each group, or device, by itself.
    num = {'group': 4, 'device': 8}[across]
    local = np.tile(np.arange(8 // num), num) * (U // 8)
    shifted = batch | {
      'target': batch['target'] + np.repeat(local, B // 8).astype(np.int32)
    }

    def split(x):
      return x.reshape(num, -1, *x.shape[1:])

    def want_fn(users, vectors):
      parts = jax.tree.map(split, (users, vectors, shifted))
      return jnp.concatenate(
        [
          part_losses(config, *jax.tree.map(lambda x: x[i], parts))
          for i in range(num)
        ]
      )

  weights = np.linspace(0.5, 1.5, B).astype(np.float32)

  def total(fn, users, vectors, *rest):
    return jnp.sum(weights * fn(users, vectors, *rest))

  gradient = jax.jit(
    jax.value_and_grad(total, argnums=(1, 2)), static_argnums=0
  )
  got = gradient(sharded, users, vectors, batch)
  want = gradient(want_fn, users, vectors)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_own_negatives_count_as_often_as_they_were_drawn():
  rng = np.random.default_rng(0)
  users = rng.normal(size=(2, D)).astype(np.float32)
  vectors = rng.normal(size=(4, D)).astype(np.float32)
  # The target itself is a negative, as it may be in the official code.
  batch = {
    'target': np.array([0, 1], np.int32),
    'negatives': np.array([[0, 2, 2], [3, -1, -1]], np.int32),
  }
  got = part_losses(LossConfig(exclude='nothing'), users, vectors, batch)
  scores = users @ vectors.T
  chosen = [scores[0, [0, 0, 2, 2]], scores[1, [1, 3]]]
  want = [np.log(np.exp(s).sum()) - s[0] for s in chosen]
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_learned_temperature_stays_in_its_range():
  config = LossConfig(temperature=0.05, learn_temperature=True)
  for log_scale, want in ((np.log(20), 20), (9.0, 100), (-3.0, 1)):
    found = losses.scale(config, jnp.full((1,), log_scale))
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_log_q_is_the_probability_to_be_in_the_pool():
  rng = np.random.default_rng(0)
  target = np.array([0, 0.5, 0.3, 0.15, 0.05])
  drawn = np.array([0, 0.25, 0.25, 0.25, 0.25])
  log_q = losses.inclusion_log_q(target, drawn, 3, 2)
  pools = np.concatenate(
    [rng.choice(5, (40_000, 3), p=target), rng.choice(5, (40_000, 2), p=drawn)],
    axis=1,
  )
  shares = [(pools == i).any(axis=1).mean() for i in range(1, 5)]
  np.testing.assert_allclose(np.exp(log_q[1:]), shares, atol=0.01)
  assert np.isfinite(log_q).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_negatives': 0}, 'num_negatives'),
    ({'temperature': 0.0}, 'temperature'),
    ({'across': 'all'}, 'no pool to share'),
    ({'negatives': 'shared', 'exclude': 'nothing'}, 'targets themselves'),
  ],
)
def test_settings_that_do_not_go_together_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    LossConfig(**options)
