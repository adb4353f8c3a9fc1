# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The low-rank form of the inner loop against the plain one."""

import functools
import itertools
import logging

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.layers import fast_plan, fast_weights
from antjax.layers.mlp import MLP
from antjax.meta import maml
from tests.cases import covering, first_fast, pairs

# Sizes that occur nowhere else, so that a shape names an array. A kernel of
# WIDTH columns or more gains from pairs at SUPPORT rows, also called twice.
TASKS, SUPPORT, QUERY, WIDTH, NUM_ROWS = 6, 4, 5, 24, 7
# Both forms compute the same sums in another order, in float64; relative to the
# largest entry of an array.
TOLERANCE = 1e-11


class Model(nnx.Module):
  """An MLP, a norm, a layer that is called twice, and a head."""

  def __init__(self, rngs):
    self.mlp = MLP(WIDTH, (20, 18), activation=jnp.tanh, rngs=rngs)
    self.norm = nnx.LayerNorm(18, rngs=rngs)
    self.again = nnx.Linear(18, 18, rngs=rngs)
    self.head = nnx.Linear(18, 1, rngs=rngs)

  def __call__(self, x):
    x = self.norm(self.mlp(x))
    x = self.again(jnp.tanh(self.again(x)))
    return self.head(x)[:, 0]


class Towers(nnx.Module):
  """Its first layer is called twice, each time on another input."""

  def __init__(self, rngs):
    self.tower = nnx.Linear(WIDTH, 20, rngs=rngs)
    self.head = nnx.Linear(20, 1, rngs=rngs)

  def __call__(self, x):
    first = self.tower(x[:1])
    rows = jnp.stack([x, jnp.sin(x)], axis=1)
    return self.head(jnp.tanh(self.tower(rows).sum(1) + first))[:, 0]


class Sparse(nnx.Module):
  """A layer has no bias, another one is never called."""

  def __init__(self, rngs):
    self.first = nnx.Linear(WIDTH, 20, rngs=rngs)
    self.middle = nnx.Linear(20, 20, use_bias=False, rngs=rngs)
    self.unused = nnx.Linear(20, 20, rngs=rngs)
    self.head = nnx.Linear(20, 1, rngs=rngs)

  def __call__(self, x):
    return self.head(jnp.tanh(self.middle(jnp.tanh(self.first(x)))))[:, 0]


class Scaled(nnx.Linear):
  """Its bias is not just added to its product."""

  def __call__(self, inputs):
    return jnp.exp(self.bias[...])[None] * self.dot_general(
      inputs, self.kernel[...], (((inputs.ndim - 1,), (0,)), ((), ()))
    )


class OddBiases(nnx.Module):
  """A bias that its own layer uses otherwise, and one that is read twice."""

  def __init__(self, rngs):
    self.scaled = Scaled(WIDTH, 20, rngs=rngs)
    self.read = nnx.Linear(20, 18, rngs=rngs)
    self.head = nnx.Linear(18, 1, rngs=rngs)

  def __call__(self, x):
    x = jnp.tanh(self.read(self.scaled(x)))
    return self.head(x * self.read.bias[...][None])[:, 0]


class Tied(nnx.Module):
  """Its kernel is read by its layer and, transposed, by the decoder."""

  def __init__(self, rngs):
    self.encoder = nnx.Linear(WIDTH, 9, rngs=rngs)
    self.head = nnx.Linear(WIDTH, 1, rngs=rngs)

  def __call__(self, x):
    x = jnp.tanh(self.encoder(x)) @ self.encoder.kernel[...].T
    return self.head(x)[:, 0]


class Scanned(nnx.Module):
  """A layer that runs inside an inner scan."""

  def __init__(self, rngs):
    self.inner = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
    self.head = nnx.Linear(WIDTH, 1, rngs=rngs)

  def __call__(self, x):
    x, _ = jax.lax.scan(
      lambda x, _: (jnp.tanh(self.inner(x)), None), x, length=2
    )
    return self.head(x)[:, 0]


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def _made(model_class):
  """A model's graph and parameters, by one program and not one for each."""
  graphdef, state = nnx.split(nnx.jit(model_class)(nnx.Rngs(0)))
  return graphdef, jax.tree.map(np.asarray, nnx.to_pure_dict(state))


def problem(model_class=Model, num_tasks=TASKS):
  """Returns merge_fn, parameters with rows, and data of every task."""
  graphdef, params = _made(model_class)
  rng = np.random.default_rng(0)
  # Biases start at zero, which would hide a wrong one.
  model = jax.tree.map(
    lambda x: jnp.asarray(x + 0.1 * rng.normal(size=x.shape)),
    params,
  )
  rows = rng.normal(size=(num_tasks, NUM_ROWS, WIDTH))
  data = tuple(
    (
      jnp.asarray(rng.integers(NUM_ROWS, size=(num_tasks, num_rows))),
      jnp.asarray(rng.normal(size=(num_tasks, num_rows))),
    )
    for num_rows in (SUPPORT, QUERY)
  )
  params = {'model': model, 'rows': jnp.asarray(rows)}
  return functools.partial(nnx.merge, graphdef), params, data


def with_rates(params, inner):
  """Adds learned rates, another one for every leaf."""
  rates = maml.init_rates(params['model'], inner, ('row',))['log_rates']
  rates = {
    name: rate.astype(jnp.float64) + 0.1 * i
    for i, (name, rate) in enumerate(sorted(rates.items()))
  }
  return params | {'log_rates': rates}


def loss_fn(model, rows, data):
  index, y = data
  return jnp.mean((model(rows['row'][index]) - y) ** 2)


def meta_loss(params, data, merge_fn, inner, low_rank):
  def loss(model, rows, data):
    return loss_fn(model if low_rank else merge_fn(model), rows, data)

  def task(rows, support, query):
    problem = maml.Problem(
      loss_fn=loss,
      params=params['model'],
      support=support,
      inner=inner,
      rows={'row': rows},
      merge_fn=merge_fn if low_rank else None,
      log_rates=params.get('log_rates'),
    )
    return loss(*maml.adapt_task(problem), query)

  return jax.vmap(task)(params['rows'], *data)


def value_and_grad(merge_fn, params, data, inner, low_rank):
  return jax.jit(
    jax.value_and_grad(
      lambda params: meta_loss(params, data, merge_fn, inner, low_rank).mean()
    )
  )(params)


def assert_same(left, right):
  def same(x, y):
    atol = TOLERANCE * float(jnp.abs(y).max())
    np.testing.assert_allclose(x, y, rtol=0, atol=atol)

  jax.tree.map(same, left, right)


def assert_forms_agree(merge_fn, params, data, inner):
  plain = value_and_grad(merge_fn, params, data, inner, low_rank=False)
  low_rank = value_and_grad(merge_fn, params, data, inner, low_rank=True)
  assert_same(low_rank, plain)
  return low_rank[1]


def plan_of(model_class, **kwargs):
  merge_fn, params, data = problem(model_class)
  inner = maml.InnerLoop(**kwargs)
  first = jax.tree.map(lambda x: x[0], (params['rows'], data[0]))
  return fast_plan.make_plan(
    loss_fn,
    merge_fn,
    params['model'],
    {'row': first[0]},
    first[1],
    adapted=inner.adapted_names(params['model']),
    adapt_rows=inner.adapts('rows/row'),
  )


@pytest.mark.parametrize(
  'num_steps, order, adapt',
  first_fast(
    *covering(itertools.product((1, 2, 3), (2, 1), ('all', 'mlp')), pairs)
  ),
)
def test_low_rank_equals_plain(num_steps, order, adapt):
  # Each leaf has another rate, and so has a bias not that of its kernel.
  inner = maml.InnerLoop(
    num_steps=num_steps,
    order=order,
    learning_rate=0.1,
    adapt=adapt,
    learn_rates=True,
  )
  merge_fn, params, data = problem()
  params = with_rates(params, inner)
  grads = assert_forms_agree(merge_fn, params, data, inner)
  assert all(grad != 0 for grad in grads['log_rates'].values())


@pytest.mark.parametrize(
  'order, remat',
  first_fast((1, False), *((2, x) for x in (0, 1))),
)
def test_low_rank_equals_plain_at_one_fixed_rate(order, remat):
  inner = maml.InnerLoop(
    num_steps=2, order=order, learning_rate=0.1, remat=remat
  )
  assert_forms_agree(*problem(), inner)


@pytest.mark.parametrize(
  'model_class, order',
  first_fast(
    (Towers, 1),
    *((model_class, 2) for model_class in (Towers, Sparse, OddBiases)),
  ),
)
def test_low_rank_equals_plain_for_other_models(model_class, order):
  inner = maml.InnerLoop(num_steps=2, order=order, learning_rate=0.1)
  assert_forms_agree(*problem(model_class), inner)


@pytest.mark.slow
@pytest.mark.parametrize('adapt', ['bias', 'layers/1', 'kernel', 'row'])
def test_low_rank_equals_plain_for_a_part_of_the_model(adapt):
  inner = maml.InnerLoop(
    num_steps=2, learning_rate=0.1, adapt=lambda name: adapt in name
  )
  assert_forms_agree(*problem(), inner)


def test_a_small_kernel_adapts_as_a_copy():
  assert set(plan_of(Model).plain) == {
    *('norm/bias', 'norm/scale', 'head/bias', 'head/kernel')
  }


def test_only_a_bias_that_is_just_added_adapts_by_pairs():
  biases = {layer.bias for layer in plan_of(OddBiases).low_rank.values()}
  assert biases == {None}


@pytest.mark.parametrize(
  'adapt, constant',
  [
    ('mlp', ['mlp/layers/0/kernel']),
    ('all', []),
    (lambda name: 'layers' in name, ['mlp/layers/0/kernel']),
    (lambda name: 'layers/1' in name, ['mlp/layers/1/kernel']),
    # Its second call reads what its first one gave.
    (lambda name: name == 'again/kernel', []),
    (lambda name: 'layers/0/bias' in name or 'layers/1' in name, []),
  ],
)
def test_a_layer_whose_input_nothing_changes_is_found(adapt, constant):
  layers = plan_of(Model, adapt=adapt).low_rank
  assert [path for path, layer in layers.items() if layer.constant] == constant


def test_a_constant_input_is_multiplied_once():
  merge_fn, params, data = problem()

  def num_products(num_steps, adapt):
    inner = maml.InnerLoop(num_steps=num_steps, adapt=adapt)
    jaxpr = jax.make_jaxpr(
      jax.grad(lambda p: meta_loss(p, data, merge_fn, inner, True).mean())
    )(params)
    # The gradient of the first kernel: one product a forward product.
    return sum(
      eqn.primitive.name == 'dot_general'
      and sorted(eqn.outvars[0].aval.shape) == [20, WIDTH]
      for eqn in jaxpr.eqns
    )

  # Support and query.
  assert [num_products(k, 'mlp') for k in (1, 3)] == [2, 2]
  assert num_products(3, 'all') > 2


def test_first_order_does_not_go_back_through_the_support():
  merge_fn, params, data = problem()
  inner = maml.InnerLoop(num_steps=1, order=1)

  def num_products(stop):
    def loss(params):
      held = jax.lax.stop_gradient(params) if stop else params
      return meta_loss(held, data, merge_fn, inner, True).mean()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params)
    return sum(eqn.primitive.name == 'dot_general' for eqn in jaxpr.eqns)

  # Backward of the query: `x W` of 5 calls, two products each; scores and
  # change of 6 pairs (the layer called twice has two a call), one each.
  assert num_products(stop=False) - num_products(stop=True) == 5 * 2 + 6 * 2


@pytest.mark.slow
def test_no_task_has_a_copy_of_a_kernel():
  merge_fn, params, data = problem()
  inner = maml.InnerLoop(num_steps=2, learning_rate=0.1)

  def text(low_rank):
    return str(
      jax.make_jaxpr(
        jax.grad(lambda p: meta_loss(p, data, merge_fn, inner, low_rank).mean())
      )(params)
    )

  kernels = ((WIDTH, 20), (20, 18), (18, 18))
  copies = [f'f64[{TASKS},{i},{o}]' for i, o in kernels]
  assert all(copy in text(low_rank=False) for copy in copies)
  assert not any(copy in text(low_rank=True) for copy in copies)


@pytest.mark.parametrize(
  'model_class, name',
  first_fast((Tied, 'encoder/kernel'), (Scanned, 'inner/kernel')),
)
def test_a_kernel_used_otherwise_adapts_plainly_and_is_named(
  model_class, name, caplog
):
  inner = maml.InnerLoop(num_steps=2, learning_rate=0.1)
  with caplog.at_level(logging.INFO, logger='absl'):
    assert_forms_agree(*problem(model_class), inner)
  assert name in caplog.text
  assert 'head/kernel' not in caplog.text


@pytest.mark.parametrize(
  'adapt, order',
  [
    pytest.param('mlp', 2, marks=pytest.mark.slow),
    pytest.param('all', 1, marks=pytest.mark.slow),
  ],
)
def test_inner_gradients_stay_on_their_device_in_shard_map(adapt, order):
  merge_fn, params, data = problem(num_tasks=16)
  inner = maml.InnerLoop(
    num_steps=2, learning_rate=0.1, adapt=adapt, order=order, learn_rates=True
  )
  params = with_rates(params, inner)
  specs = {'model': P(), 'rows': P('x'), 'log_rates': P()}
  mesh = jax.make_mesh((8,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
  for low_rank in (False, True):
    # The parameters are equal on all devices, the tasks are not: without care
    # the inner gradients would be summed over the devices.
    def loss(params, low_rank=low_rank):
      losses = jax.shard_map(
        lambda params, data: meta_loss(params, data, merge_fn, inner, low_rank),
        mesh=mesh,
        in_specs=(specs, P('x')),
        out_specs=P('x'),
      )(params, data)
      return losses.mean()

    sharded = jax.jit(jax.value_and_grad(loss))(params)
    whole = value_and_grad(merge_fn, params, data, inner, low_rank)
    assert_same(sharded, whole)


def test_merge_fn_must_give_a_module():
  _, params, data = problem()
  problem_of_a_dict = maml.Problem(
    loss_fn=loss_fn,
    params=params['model'],
    support=data[0],
    inner=maml.InnerLoop(),
    merge_fn=lambda params: params,
  )
  with pytest.raises(ValueError, match='an nnx.Module is needed'):
    maml.adapt_task(problem_of_a_dict)


def test_names_of_leaves_are_those_of_pure_dicts_and_states():
  graphdef, state = nnx.split(Model(nnx.Rngs(0)))
  del graphdef
  names = list(fast_weights.named_leaves(state))
  assert names == list(fast_weights.named_leaves(nnx.to_pure_dict(state)))
  assert 'mlp/layers/0/kernel' in names
