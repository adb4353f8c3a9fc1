# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Heads against plain numpy forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.ctr import heads
from antjax.layers import cross, target_attention


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def histories():
  is_there = jnp.asarray([[True, True, False], [False, False, False]])
  return {
    'liked': heads.History(
      jnp.asarray(random(2, 3, 4)), is_there, jnp.asarray(random(2, 4, seed=1))
    )
  }


@pytest.mark.parametrize('kind', ['dnn', 'dcnv2', 'din'])
def test_heads(kind):
  config = heads.HeadConfig(
    kind=kind, widths=(6, 5), cross_rank=2, attention_widths=(3,)
  )
  params = heads.init(config, jax.random.key(0), 5, {'liked': 4})
  features, found = [random(2, 5, seed=2)], histories()
  keys, is_there, query = found['liked']
  if kind == 'din':
    pooled = target_attention.attend(
      params['attention']['liked'], query, keys, is_there
    )
  else:
    pooled = np.stack([np.asarray(keys)[0, :2].mean(axis=0), np.zeros(4)])
  x = np.concatenate([features[0], pooled], axis=1)
  deep = x
  own = jax.tree.map(np.asarray, params)
  for layer in own['mlp']:
    deep = np.maximum(deep @ layer['kernel'] + layer['bias'], 0)
  if kind == 'dcnv2':
    crossed = cross.cross(params['cross'], jnp.asarray(x))
    deep = np.concatenate([deep, crossed], axis=1)
  expected = deep @ own['out']['kernel'] + own['out']['bias']
  np.testing.assert_allclose(
    heads.logits(config, params, features, found),
    expected[:, 0],
    rtol=1e-4,
    atol=1e-5,
  )


def test_a_head_needs_something_to_look_at():
  with pytest.raises(ValueError, match='no features and no history'):
    heads.init(heads.HeadConfig(), jax.random.key(0), 0, {})


def test_a_head_refuses_wrong_sizes():
  with pytest.raises(ValueError, match='head.cross_rank=-1'):
    heads.HeadConfig(cross_rank=-1)
  with pytest.raises(ValueError, match=r'head.widths=\(\)'):
    heads.HeadConfig(widths=())
