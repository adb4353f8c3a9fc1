# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The two halves are the whole, wherever it is cut."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.layers.functional import params_of
from antjax.lm import split
from antjax.lm.transformer import Transformer
from tests.cases import covering, slow_but
from tests.lm import tiny_models

# The halves are compiled apart: fp32 sums in another order.
ATOL = 2e-5
TOKENS, MASK = jnp.asarray(tiny_models.TOKENS), jnp.asarray(tiny_models.MASK)
CONFIGS = tiny_models.CONFIGS | tiny_models.FAMILIES
FAST = (('bert', 0), ('opt', 3))


# Settings that are the same in each layer, or only the size of something.
SAME = re.compile('rope_|relative_|max_pos|norm_eps|(vocab|attention|.*_dim)')


def settings(name, num_low):
  """What a cut may get wrong: each setting of a model, at each place."""
  fields = dataclasses.asdict(CONFIGS[name])
  return {(k, str(x), num_low) for k, x in fields.items() if not SAME.match(k)}


# Each model is cut after its first layer; each setting of one also at the ends.
CASES = covering(
  itertools.product(CONFIGS, (0, 1, 3)),
  settings,
  keep=[*FAST, *((name, 1) for name in CONFIGS)],
)


def model_of(config):
  return Transformer.of(config, tiny_models.params_of(config))


def size(params):
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize('name, num_low', slow_but(CASES, *FAST))
def test_high_of_low_is_the_whole(name, num_low):
  config = CONFIGS[name]
  whole = model_of(config)
  params = params_of(whole)
  places = 20 if config.positions == 'learned' else 0
  low = split.LowEncoder(whole, num_low)
  high = split.HighEncoder(whole, num_low, max_behaviors=places)
  run = jax.jit(lambda low, high: high(low(TOKENS, MASK), MASK))
  actual = run(low, high)
  expected = jax.jit(Transformer.hidden)(whole, TOKENS, MASK)
  low_params, high_params = params_of(low), params_of(high)
  real = MASK > 0
  np.testing.assert_allclose(actual[real], expected[real], atol=ATOL)
  # Each weight is in one half, but for T5's table and what has no use here.
  shared = 0
  if config.is_relative and 0 < num_low < config.num_layers:
    shared = params['relative_bias'].size
  extra = places * config.embed_dim
  output = params['lm_head'].size if 'lm_head' in params else 0
  assert size(low_params) + size(high_params) == (
    size(params) + shared + extra - output
  )
  assert ('layers' in low_params) == (num_low > 0)
  assert ('layers' in high_params) == (num_low < config.num_layers)


@pytest.mark.parametrize('name', ['llama', 'bert', 't5'])
def test_the_high_half_knows_the_order_of_behaviors(name):
  config = tiny_models.CONFIGS[name]
  places = 6 if config.positions == 'learned' else 0
  high = split.HighEncoder(model_of(config), 2, max_behaviors=places)
  x = jax.random.normal(jax.random.key(0), (1, 6, config.embed_dim))
  turned = x[:, ::-1]
  run = jax.jit(split.HighEncoder.__call__)
  same = np.allclose(run(high, x), run(high, turned)[:, ::-1], atol=ATOL)
  # Learned places are zeros until they are trained; the others know at once.
  assert same == (name == 'bert')
  if places:
    high.behavior_positions[...] += jax.random.normal(
      jax.random.key(1), (6, config.embed_dim)
    )
    assert not np.allclose(run(high, x), run(high, turned)[:, ::-1], atol=0.1)


def test_packed_sequences_of_behaviors_are_as_if_alone():
  config = tiny_models.CONFIGS['llama']
  high = split.HighEncoder(model_of(config), 1)
  x = jax.random.normal(jax.random.key(0), (1, 8, config.embed_dim))
  segments = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0]])
  run = jax.jit(split.HighEncoder.__call__)
  packed, alone = run(high, x, segments), run(high, x[:, 3:7])
  np.testing.assert_allclose(packed[:, 3:7], alone, atol=ATOL)


@pytest.mark.parametrize('name', ['bert', 'llama', 't5'])
def test_sets_of_sequences_go_through_together_as_alone(name):
  config = tiny_models.CONFIGS[name]
  places = 6 if config.positions == 'learned' else 0
  high = split.HighEncoder(model_of(config), 1, max_behaviors=places)
  if places:
    high.behavior_positions[...] += jax.random.normal(
      jax.random.key(1), (6, config.embed_dim)
    )
  many = jax.random.normal(jax.random.key(0), (3, 6, config.embed_dim))
  there = jnp.asarray([[1] * 6, [1, 1, 0, 0, 0, 0], [1] + [0] * 5])
  titles = jax.random.normal(jax.random.key(2), (4, 1, config.embed_dim))
  run = jax.jit(split.HighEncoder.__call__)
  together = jax.jit(split.HighEncoder.together)
  found = together(high, [(many, there), (titles,)])
  is_there = there > 0
  np.testing.assert_allclose(
    found[0][is_there], run(high, many, there)[is_there], atol=ATOL
  )
  np.testing.assert_allclose(found[1], run(high, titles), atol=ATOL)


def test_wrong_cuts_and_places_are_refused():
  whole = model_of(tiny_models.CONFIGS['bert'])
  for half in (split.LowEncoder, split.HighEncoder):
    for k in (-1, 4):
      with pytest.raises(ValueError, match=f'num_low={k}: the model has 3'):
        half(whole, k)
  t5 = model_of(tiny_models.CONFIGS['t5'])
  with pytest.raises(ValueError, match='know places by themselves'):
    split.HighEncoder(t5, 1, max_behaviors=4)
  high = split.HighEncoder(whole, 3, max_behaviors=4)
  with pytest.raises(ValueError, match='sequences of 5 behaviors'):
    high(jnp.zeros((1, 5, 32)))
  low = split.LowEncoder(whole, 0)
  with pytest.raises(ValueError, match='41 tokens: the model has 40'):
    low(jnp.zeros((1, 41), jnp.int32))
