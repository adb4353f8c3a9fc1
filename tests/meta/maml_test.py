# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The plain inner loop against finite differences and written-out steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.meta import maml
from tests.meta import small_tasks

# Central differences with step 1e-5 in float64 are good to about 1e-8.
DIFFERENCE_STEP = 1e-5
DIFFERENCE_RTOL = 1e-6


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def made():
  rng = np.random.default_rng(0)
  params = {
    'hidden': {'kernel': rng.normal(size=(3, 4)), 'bias': rng.normal(size=4)},
    'head': rng.normal(size=4),
  }
  support = rng.normal(size=(6, 3)), rng.normal(size=6)
  query = rng.normal(size=(5, 3)), rng.normal(size=5)
  return jax.tree.map(jnp.asarray, (params, support, query))


def loss_fn(params, data):
  x, y = data
  hidden = x @ params['hidden']['kernel'] + params['hidden']['bias'][None]
  return jnp.mean((jnp.tanh(hidden) @ params['head'] - y) ** 2)


def adapt(params, support, inner, log_rates=None):
  problem = maml.Problem(
    loss_fn=lambda params, rows, data: loss_fn(params, data),
    params=params,
    support=support,
    inner=inner,
    log_rates=log_rates,
  )
  return maml.adapt_task(problem)[0]


def outer_loss(params, support, query, inner, log_rates=None):
  return loss_fn(adapt(params, support, inner, log_rates), query)


def finite_differences(fn, tree):
  """Central differences of a scalar function, leaf by leaf."""

  def one(path, leaf):
    grad = np.zeros(leaf.shape)
    for index in np.ndindex(*leaf.shape):
      ends = []
      for sign in (1, -1):
        moved = jax.tree_util.tree_map_with_path(
          lambda p, x, sign=sign, index=index: (
            x.at[index].add(sign * DIFFERENCE_STEP) if p == path else x
          ),
          tree,
        )
        ends.append(float(fn(moved)))
      grad[index] = (ends[0] - ends[1]) / (2 * DIFFERENCE_STEP)
    return grad

  return jax.tree_util.tree_map_with_path(one, tree)


def assert_close(left, right, rtol):
  small_tasks.assert_close(left, right, rtol=rtol, atol=rtol)


@pytest.mark.parametrize('num_steps', [1, 3])
def test_second_order_is_the_derivative_and_first_order_is_not(num_steps):
  params, support, query = made()
  grads = {}
  for order in (1, 2):
    inner = maml.InnerLoop(num_steps=num_steps, order=order, learning_rate=0.1)
    fn = jax.jit(lambda p, inner=inner: outer_loss(p, support, query, inner))
    grads[order] = jax.grad(fn)(params)
  expected = finite_differences(fn, params)
  assert_close(grads[2], expected, DIFFERENCE_RTOL)
  difference = jnp.abs(grads[1]['head'] - grads[2]['head']).max()
  assert difference > 1e-2 * jnp.abs(grads[2]['head']).max()


def test_first_order_takes_inner_gradients_for_constants():
  params, support, query = made()
  inner = maml.InnerLoop(num_steps=2, order=1, learning_rate=0.1)

  def by_hand(params):
    for _ in range(2):
      grads = jax.lax.stop_gradient(jax.grad(loss_fn)(params, support))
      params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    return loss_fn(params, query)

  got = jax.grad(lambda p: outer_loss(p, support, query, inner))(params)
  assert_close(got, jax.grad(by_hand)(params), 1e-12)


def test_checkpointed_steps_give_the_same_gradient():
  params, support, query = made()
  grads = [
    jax.grad(
      lambda p, remat=remat: outer_loss(
        p, support, query, maml.InnerLoop(num_steps=2, remat=remat)
      )
    )(params)
    for remat in (False, True)
  ]
  assert_close(grads[0], grads[1], 1e-12)


def test_learned_rates_start_at_the_given_one_and_have_true_gradients():
  params, support, query = made()
  inner = maml.InnerLoop(num_steps=2, learning_rate=0.1, learn_rates=True)
  start = maml.init_rates(params, inner)
  assert set(start['log_rates']) == {'hidden/kernel', 'hidden/bias', 'head'}
  log_rates = {
    name: x.astype(jnp.float64) for name, x in start['log_rates'].items()
  }
  fn = jax.jit(lambda r: outer_loss(params, support, query, inner, r))
  fixed = outer_loss(params, support, query, inner)
  np.testing.assert_allclose(fn(log_rates), fixed, rtol=1e-6)
  assert_close(
    jax.grad(fn)(log_rates), finite_differences(fn, log_rates), DIFFERENCE_RTOL
  )


def test_a_rate_that_was_not_made_is_named():
  params, support, query = made()
  inner = maml.InnerLoop(learn_rates=True)
  with pytest.raises(ValueError, match="no inner rate for 'hidden/bias'"):
    outer_loss(params, support, query, inner, {'head': jnp.zeros(())})


@pytest.mark.parametrize(
  'adapt, expected',
  [
    ('all', {'top/kernel', 'head/bias', 'decision/x', 'rows/item', 'user/w'}),
    ('mlp', {'top/kernel', 'head/bias', 'decision/x', 'user/w'}),
    ('decision', {'top/kernel', 'head/bias', 'decision/x'}),
    ('head', {'head/bias'}),
    (lambda name: name.startswith('user'), {'user/w'}),
  ],
)
def test_presets_choose_leaves_by_name(adapt, expected):
  names = ['top/kernel', 'head/bias', 'decision/x', 'rows/item', 'user/w']
  inner = maml.InnerLoop(adapt=adapt)
  assert {name for name in names if inner.adapts(name)} == expected


def test_only_the_masked_leaves_adapt():
  params, support, _ = made()
  inner = maml.InnerLoop(adapt='head', learning_rate=0.1)
  adapted = adapt(params, support, inner)
  jax.tree.map(
    np.testing.assert_array_equal, adapted['hidden'], params['hidden']
  )
  assert not np.allclose(adapted['head'], params['head'])


def test_no_step_changes_nothing():
  params, support, _ = made()
  adapted = adapt(params, support, maml.InnerLoop(num_steps=0))
  jax.tree.map(np.testing.assert_array_equal, adapted, params)


def test_rows_adapt_only_where_the_support_reads_them():
  rows = {'item': jnp.arange(8.0).reshape(4, 2), 'user': jnp.ones((3, 2))}
  inner = maml.InnerLoop(
    adapt=lambda name: name == 'rows/item', learning_rate=0.1
  )

  def loss(params, rows, support):
    return (rows['item'][support] ** 2).sum() + (rows['user'] ** 2).sum()

  problem = maml.Problem(
    loss_fn=loss,
    params={},
    support=jnp.asarray([2, 0, 2]),
    inner=inner,
    rows=rows,
  )
  _, adapted = maml.adapt_task(problem)
  expected = np.asarray(rows['item']).copy()
  expected[0] -= 0.1 * 2 * expected[0]
  expected[2] -= 0.1 * 2 * 2 * expected[2]  # Read twice: twice the gradient.
  np.testing.assert_allclose(adapted['item'], expected, rtol=1e-12)
  np.testing.assert_array_equal(adapted['user'], rows['user'])


def test_nothing_to_adapt_is_refused_with_the_names_there_are():
  params, support, _ = made()
  with pytest.raises(ValueError, match='no parameter is named so.*hidden/bias'):
    adapt(params, support, maml.InnerLoop(adapt=lambda name: 'nothing' in name))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'num_steps': -1}, 'num_steps=-1'),
    ({'order': 3}, 'order=3'),
    ({'learning_rate': 0.0}, 'learning_rate=0.0'),
    ({'adapt': 'heads'}, "adapt='heads'"),
    ({'map_size': -1}, 'map_size=-1'),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    maml.InnerLoop(**options)
