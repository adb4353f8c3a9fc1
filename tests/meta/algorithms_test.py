# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MAML++, Meta-SGD, mixed mode and Reptile, in both forms of a loop; CBML."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.layers.mlp import MLP
from antjax.meta import episodes, maml, meta_loss
from antjax.meta.task_network import TaskNetwork
from antjax.networks import tasks
from tests.cases import first_fast
from tests.meta import small_tasks

# So wide that kernels adapt by pairs at SUPPORT rows.
SUPPORT, QUERY, WIDTH, NUM_ROWS = 4, 5, 24, 7
# Sums in another order, float64.
SAME = 1e-10
# A central difference with this step, float64.
STEP, DIFFERENCE_RTOL = 1e-5, 1e-6
INNER = maml.InnerLoop(num_steps=2, learning_rate=0.1, adapt='all')
# Compiling takes most of the time here, so it does without optimizing.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
FORMS = pytest.mark.parametrize('low_rank', first_fast(True, False))


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


class Model(nnx.Module):
  def __init__(self, rngs):
    self.mlp = MLP(WIDTH, (20,), activation=jnp.tanh, rngs=rngs)
    self.head = nnx.Linear(20, 1, rngs=rngs)

  def __call__(self, x):
    return self.head(self.mlp(x))[:, 0]


@functools.cache
def quick_model():
  return nnx.jit(Model)(nnx.Rngs(0))


class Task:
  """One task: a model, its rows, support and query."""

  def __init__(self, inner, low_rank):
    graphdef, state = nnx.split(quick_model())
    rng = np.random.default_rng(0)
    merge_fn = functools.partial(nnx.merge, graphdef)
    self.inner = inner
    self.merge_fn = merge_fn if low_rank else None
    self.merge = (lambda model: model) if low_rank else merge_fn
    model = jax.tree.map(
      lambda x: jnp.asarray(np.asarray(x) + 0.1 * rng.normal(size=x.shape)),
      nnx.to_pure_dict(state),
    )
    self.params = {
      'model': model,
      'rows': jnp.asarray(rng.normal(size=(NUM_ROWS, WIDTH))),
    }
    self.support, self.query = (
      (jnp.asarray(rng.integers(NUM_ROWS, size=n)), rng.normal(size=n))
      for n in (SUPPORT, QUERY)
    )
    if inner.learn_rates:
      rates = maml.init_rates(model, inner, ('item',))['log_rates']
      self.params['log_rates'] = {
        name: rate + 0.1 * rng.normal(size=rate.shape)
        for name, rate in sorted(rates.items())
      }

  def loss(self, model, rows, data):
    index, y = data
    return jnp.mean((self.merge(model)(rows['item'][index]) - y) ** 2)

  def problem(self, params, inner=None):
    return maml.Problem(
      loss_fn=self.loss,
      params=params['model'],
      support=self.support,
      inner=inner or self.inner,
      rows={'item': params['rows']},
      merge_fn=self.merge_fn,
      log_rates=params.get('log_rates'),
    )

  def states(self, params):
    return maml.adapt_by_step(self.problem(params))

  def outer(self, params):
    return self.loss(*self.states(params)[-1], self.query)


def assert_same(left, right, tolerance=SAME):
  def same(x, y):
    np.testing.assert_allclose(
      x, y, rtol=0, atol=tolerance * max(float(jnp.abs(y).max()), 1e-3)
    )

  jax.tree.map(same, left, right)


def assert_gradient(fn, params):
  """Holds the gradient to a central difference in a random direction."""
  rng = np.random.default_rng(1)
  direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
  grads = quick_jit(jax.grad(fn))(params)
  ends = [
    quick_jit(fn)(
      jax.tree.map(lambda x, d: x + sign * STEP * d, params, direction)
    )
    for sign in (1, -1)
  ]
  products = jax.tree.map(jnp.vdot, grads, direction)
  np.testing.assert_allclose(
    sum(jax.tree.leaves(products)),
    (ends[0] - ends[1]) / (2 * STEP),
    rtol=DIFFERENCE_RTOL,
  )
  return grads


@pytest.mark.slow
@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('rates', ['step', 'element'])
def test_rates_a_step_or_an_element_have_true_gradients(rates):
  inner = dataclasses.replace(INNER, learn_rates=True, rates=rates)
  grads = []
  for low_rank in (False, True):
    task = Task(inner, low_rank)
    grads.append(assert_gradient(task.outer, task.params))
  assert_same(grads[1], grads[0])
  kernel = grads[0]['log_rates']['mlp/layers/0/kernel']
  assert kernel.shape == {'step': (2,), 'element': (WIDTH, 20)}[rates]
  assert jnp.all(kernel != 0) and len(set(np.ravel(kernel))) == kernel.size


@pytest.mark.slow
@pytest.mark.usefixtures('float64')
def test_a_constant_layer_keeps_a_rate_a_step():
  inner = dataclasses.replace(
    INNER, adapt='mlp', learn_rates=True, rates='step'
  )
  tasks = [Task(inner, low_rank) for low_rank in (False, True)]
  grads = [quick_jit(jax.grad(task.outer))(task.params) for task in tasks]
  assert_same(grads[1], grads[0])


@pytest.mark.slow
@pytest.mark.usefixtures('float64')
@FORMS
def test_steps_beyond_the_learned_ones_take_the_last_rate(low_rank):
  learned = dataclasses.replace(INNER, learn_rates=True, rates='step')
  task = Task(learned, low_rank)
  longer = Task(dataclasses.replace(learned, num_steps=4), low_rank)
  rates = task.params['log_rates']
  padded = {n: jnp.concatenate([r, r[-1:], r[-1:]]) for n, r in rates.items()}
  task.inner = longer.inner
  np.testing.assert_allclose(
    quick_jit(task.outer)(task.params),
    quick_jit(longer.outer)(task.params | {'log_rates': padded}),
    rtol=SAME,
  )


@pytest.mark.slow
@pytest.mark.usefixtures('float64')
@FORMS
def test_states_by_step_are_those_of_shorter_loops(low_rank):
  task = Task(INNER, low_rank)
  states = task.states(task.params)
  assert len(states) == 3
  for num_steps, state in enumerate(states):
    shorter = dataclasses.replace(INNER, num_steps=num_steps)
    expected = maml.adapt_task(task.problem(task.params, shorter))
    np.testing.assert_allclose(
      task.loss(*state, task.query), task.loss(*expected, task.query), rtol=SAME
    )


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize(
  'low_rank, remat',
  first_fast((False, False), (True, True)),
)
def test_mixed_mode_gives_the_gradient_of_reverse_mode(low_rank, remat):
  reverse = Task(INNER, low_rank=True)
  mixed = Task(
    dataclasses.replace(INNER, derivative='mixed', remat=remat), low_rank
  )
  assert 'custom_vjp' in str(jax.make_jaxpr(mixed.outer)(mixed.params))
  assert_same(
    quick_jit(jax.grad(mixed.outer))(mixed.params),
    quick_jit(jax.grad(reverse.outer))(reverse.params),
  )


def test_mixed_mode_takes_data_of_numpy():
  data = np.arange(3, dtype=np.float32)
  gradient = maml.mixed_mode_grad(lambda x, rest: (rest * x**3).sum())
  outer = jax.jit(jax.grad(lambda x: gradient(x, data).sum()))
  np.testing.assert_allclose(outer(jnp.full(3, 2.0)), 12 * data)


@pytest.mark.slow
@pytest.mark.usefixtures('float64')
def test_many_steps_run_as_a_loop():
  inner = dataclasses.replace(INNER, num_steps=20, learning_rate=0.01)
  task = Task(inner, low_rank=True)

  def outer(params):
    return task.loss(*maml.adapt_task(task.problem(params)), task.query)

  assert 'while' in quick_jit(outer).lower(task.params).as_text()
  np.testing.assert_allclose(
    quick_jit(outer)(task.params), quick_jit(task.outer)(task.params), rtol=SAME
  )
  assert_gradient(outer, task.params)


@pytest.mark.usefixtures('float64')
@FORMS
@pytest.mark.parametrize('num_steps', first_fast(2, 20))
def test_reptile_pulls_to_the_adapted_parameters(num_steps, low_rank):
  inner = dataclasses.replace(INNER, num_steps=num_steps)
  task = Task(inner, low_rank)
  by_hand = Task(inner, low_rank=False)
  model, rows = by_hand.states(by_hand.params)[-1]

  def pull(params):
    return maml.reptile_pull(task.problem(params))[0]

  grads = quick_jit(jax.grad(pull))(task.params)
  after = {'model': model, 'rows': rows['item']}
  before = {name: by_hand.params[name] for name in after}
  assert_same(grads, jax.tree.map(jnp.subtract, before, after))


def reptile_gradients(batch, inner):
  model, params, rows = small_tasks.make_model()
  loss_fn = meta_loss.reptile_loss_fn(model, inner)

  def mean(params, rows):
    losses, weights = loss_fn(params, rows, batch, None)
    return (losses * weights).sum() / weights.sum(), losses

  return quick_jit(jax.grad(mean, argnums=(0, 1), has_aux=True))(params, rows)


@pytest.mark.slow
def test_reptile_of_one_step_is_joint_training_on_all_rows():
  """One step: the pull is the rate times the mean gradient of each task."""
  records = small_tasks.make_records((9, 9, 9))  # Tasks of equal weight.
  batch = episodes.with_task_rows(
    small_tasks.make_batch(((8, 4),), records), num_ids=small_tasks.NUM_IDS
  )
  inner = maml.InnerLoop(num_steps=1, learning_rate=0.5, adapt='all')
  grads, losses = reptile_gradients(batch, inner)
  model, params, rows = small_tasks.make_model()
  joint = meta_loss.joint_loss_fn(model)

  def mean(params, rows):
    losses, weights = joint(
      params, rows, small_tasks.make_batch(((8, 4),), records), None
    )
    return (losses * weights).sum() / weights.sum()

  expected = quick_jit(jax.grad(mean, argnums=(0, 1)))(params, rows)
  small_tasks.assert_close(grads, jax.tree.map(lambda y: 0.5 * y, expected))
  assert jnp.all(losses[:3] > 0)


def test_reptile_needs_a_step_at_a_fixed_rate():
  model, *_ = small_tasks.make_model()
  for inner in (maml.InnerLoop(num_steps=0), maml.InnerLoop(learn_rates=True)):
    with pytest.raises(ValueError, match='at least one step at a fixed rate'):
      meta_loss.reptile_loss_fn(model, inner)


def test_step_weights_mix_the_losses_after_each_step():
  batch = small_tasks.make_batch()
  by_step = [
    small_tasks.losses_of(
      batch, dataclasses.replace(small_tasks.INNER, num_steps=k)
    )[0]
    for k in (1, 2)
  ]
  mixed, _ = small_tasks.losses_of(
    batch, dataclasses.replace(small_tasks.INNER, step_weights=(1.0, 3.0))
  )
  expected = {t: 0.25 * by_step[0][t] + 0.75 * by_step[1][t] for t in mixed}
  small_tasks.assert_same(mixed, expected)
  last, _ = small_tasks.losses_of(
    batch, dataclasses.replace(small_tasks.INNER, step_weights=(0.0, 1.0))
  )
  small_tasks.assert_same(last, by_step[1])


def cbml_model():
  return small_tasks.make_model('cbml', (8, 6), context_fn=TaskNetwork.context)


@pytest.mark.slow
def test_cbml_learns_its_clusters_from_the_support_only():
  model, params, rows = cbml_model()
  inner = maml.InnerLoop(num_steps=1, adapt='decision', learning_rate=0.03)
  loss_fn = meta_loss.meta_loss_fn(model, inner)

  def mean(params, batch):
    return loss_fn(params, rows, batch, None)[0].mean()

  batch = small_tasks.make_batch()
  grads = quick_jit(jax.grad(mean))(params, batch)
  for leaf in jax.tree.leaves(grads['model']['network']['clusters']):
    assert jnp.any(leaf != 0)
  # The gates read the labels of the support, not those of the query.
  still = maml.InnerLoop(num_steps=0)
  predict = quick_jit(meta_loss.predict_fn(model, still))
  first = predict(params, rows, batch, None)['prediction']
  part = batch['episodes']['s8']['query']
  part['label'] = part['label'] + 1
  same = predict(params, rows, batch, None)['prediction']
  np.testing.assert_array_equal(first, same)
  part = batch['episodes']['s8']['support']
  part['label'] = part['label'] + 1
  other = predict(params, rows, batch, None)['prediction']
  assert jnp.abs(first - other).max() > 1e-4


def test_cbml_adapts_the_same_in_both_forms():
  model, params, rows = cbml_model()
  plain = dataclasses.replace(
    model,
    merge_fn=None,
    apply_fn=lambda p, e, part: model.merge_fn(p)(e, part),
    context_fn=lambda p, e, part: model.merge_fn(p).context(e, part),
  )
  inner = maml.InnerLoop(num_steps=2, adapt='mlp', learning_rate=0.03)
  batch = small_tasks.make_batch()
  losses = [
    quick_jit(meta_loss.meta_loss_fn(form, inner))(params, rows, batch, None)[0]
    for form in (model, plain)
  ]
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_shares_of_clusters_ignore_padding_and_sum_to_one():
  config = tasks.CBMLConfig(num_clusters=3)
  module = tasks.SoftClusters(5, config, rngs=nnx.Rngs(0))
  shares_of = quick_jit(module.shares)
  rows = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
  weights = np.asarray([1, 1, 0, 0], np.float32)
  shares = shares_of(rows, weights)
  np.testing.assert_allclose(shares.sum(), 1, rtol=1e-6)
  of_all = shares_of(rows, np.ones_like(weights))
  assert np.abs(shares - of_all).max() > 1e-4
  rows[2:] = 9
  np.testing.assert_allclose(shares, shares_of(rows, weights))
