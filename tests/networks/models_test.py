# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What holds for every click model."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.networks import load
from antjax.networks.load import NetworkConfig
from antjax.networks.network import ScenarioMoments, Sizes
from tests.cases import slow_but
from tests.networks.small_inputs import CONFIG, inputs, labels, learn, SIZES

OF_ONE_TASK = load.SINGLE_SCENARIO | load.MULTI_SCENARIO
FAST = ('fm', 'dcnv2', 'din')
# They have a bias, or nothing, to learn rows by heart with.
_WITHOUT_NETWORK = {'lr', 'fm'}
# Where a row's logit may depend on what other scenarios own: the shared part
# of a level of PLE that another one follows sees all experts.
_OWNED = {
  'shared_bottom': ('towers',),
  'mmoe': ('gates', 'towers'),
  'ple': ('last/gates', 'last/specific', 'towers'),
  'star': ('norm/own_', 'own_kernel', 'own_bias'),
}


@functools.cache
def made(name):
  """A network's parameters, and its compiled logits under fixed moments."""
  model = load.make(name, SIZES, CONFIG, rngs=nnx.Rngs(0))
  graphdef, state = nnx.split(model)
  shape = SIZES.num_scenarios, SIZES.flat_width
  moments = ScenarioMoments(jnp.zeros(shape), jnp.ones(shape))
  apply = jax.jit(
    lambda params, x: nnx.merge(graphdef, params)(x._replace(moments=moments))
  )
  return graphdef, nnx.to_pure_dict(state), apply


@pytest.mark.parametrize(
  'name',
  slow_but(OF_ONE_TASK, *FAST),
)
def test_a_gradient_reaches_every_parameter_and_rows_are_learned(name):
  graphdef, params, _ = made(name)
  x, y = inputs(), labels()
  losses, sizes = learn(
    lambda p: optax.sigmoid_binary_cross_entropy(
      nnx.merge(graphdef, p)(x), y
    ).mean(),
    params,
  )
  for path, size_of_step in jax.tree.leaves_with_path(sizes):
    assert np.isfinite(size_of_step).all(), path
    assert size_of_step[0] > 0, jax.tree_util.keystr(path)
  if name in _WITHOUT_NETWORK:
    assert losses[-1] < losses[0]
  else:
    assert losses[-1] < 0.05


@pytest.mark.parametrize('name', OF_ONE_TASK)
def test_a_row_is_scored_alike_in_any_company(name):
  _, params, apply = made(name)
  x = inputs()
  # The same first rows among others, which are all of one scenario.
  other = inputs(seed=9)._replace(scenario_B=jnp.zeros(64, jnp.int32))
  y = jax.tree.map(lambda a, b: jnp.concatenate([a[:9], b[9:]]), x, other)
  found = [apply(params, batch) for batch in (x, y)]
  assert found[0].shape == (64,)
  np.testing.assert_allclose(found[0][:9], found[1][:9], rtol=1e-4, atol=1e-5)
  assert np.abs(found[0] - found[1])[9:].max() > 1e-3


@pytest.mark.parametrize('name', _OWNED)
def test_what_another_scenario_owns_does_not_matter(name):
  _, params, apply = made(name)
  x, mine = inputs(), 1
  num_changed = 0

  def other(path, leaf):
    """Changes all but what scenario 1 owns."""
    nonlocal num_changed
    text = '^' + '/'.join(str(key.key) for key in path)
    if not any(part in text for part in _OWNED[name]):
      return leaf
    axes = [i for i, n in enumerate(leaf.shape) if n == SIZES.num_scenarios]
    assert len(axes) == 1, f'{text}: {leaf.shape}'
    num_changed += 1
    index = jnp.arange(SIZES.num_scenarios)
    index = jnp.expand_dims(
      index, [i for i in range(leaf.ndim) if i != axes[0]]
    )
    return jnp.where(index == mine, leaf, leaf + 1.0)

  changed = jax.tree_util.tree_map_with_path(other, params)
  before, after = apply(params, x), apply(changed, x)
  is_mine = np.asarray(x.scenario_B) == mine
  assert num_changed
  np.testing.assert_allclose(before[is_mine], after[is_mine], atol=1e-6)
  assert np.abs(before - after)[~is_mine].max() > 1e-3


def test_wrong_sizes_and_names_are_refused():
  def make(name, sizes=SIZES, config=CONFIG):
    return load.make(name, sizes, config, rngs=nnx.Rngs(0))

  with pytest.raises(
    ValueError, match="model='deep_fm': .* Of one scenario: lr"
  ):
    make('deep_fm')
  bare = Sizes(num_fields=5, dim=4)
  for name in ('din', 'bst'):
    with pytest.raises(
      ValueError, match=f'{name} looks at what a user clicked'
    ):
      make(name, bare)
  with pytest.raises(ValueError, match='no user_fields and no item_fields'):
    make('pepnet', bare)
  odd = NetworkConfig(num_heads=3, widths=(8,))
  for name in ('autoint', 'bst', 'finalmlp'):
    with pytest.raises(ValueError, match='num_heads=3 must divide'):
      make(name, config=odd)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'num_fields': 0}, 'num_fields=0 and dense_width=0'),
    ({'histories': (6, 0)}, r'histories=\(6, 0\)'),
    ({'scenario_field': 5}, 'scenario_field=5: there are fields 0 to 4'),
    ({'user_fields': (0, 9)}, r'user_fields=\(0, 9\)'),
  ],
)
def test_sizes_that_make_no_sense_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Sizes(**({'num_fields': 5, 'dim': 4} | fields))


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'widths': ()}, r'widths=\(\)'),
    ({'rank': 0}, 'rank=0: must be at least 1'),
    ({'mask_ratio': 0.0}, 'mask_ratio=0.0'),
  ],
)
def test_networks_that_make_no_sense_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    NetworkConfig(**fields)
