# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The low-rank form of the inner loop against the plain one."""

import functools
import logging

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.layers import fast_weights
from antjax.layers.mlp import MLP
from antjax.meta import maml

# Sizes that occur nowhere else, so that a shape names an array.
TASKS, SUPPORT, QUERY, WIDTH = 4, 7, 5, 6
# Both forms compute the same sums in another order; float64.
TOLERANCE = 1e-11


class Model(nnx.Module):
  """An MLP, a norm, a layer that is called twice, and a head."""

  def __init__(self, rngs):
    self.mlp = MLP(WIDTH, (9, 8), activation=jnp.tanh, rngs=rngs)
    self.norm = nnx.LayerNorm(8, rngs=rngs)
    self.again = nnx.Linear(8, 8, rngs=rngs)
    self.head = nnx.Linear(8, 1, rngs=rngs)

  def __call__(self, x):
    x = self.norm(self.mlp(x))
    x = self.again(jnp.tanh(self.again(x)))
    return self.head(x)[:, 0]


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


def problem(model_class=Model):
  graphdef, state = nnx.split(model_class(nnx.Rngs(0)))
  params = jax.tree.map(
    lambda x: x.astype(jnp.float64), nnx.to_pure_dict(state)
  )
  rng = np.random.default_rng(0)
  data = tuple(
    jnp.asarray(rng.normal(size=shape))
    for rows in (SUPPORT, QUERY)
    for shape in ((TASKS, rows, WIDTH), (TASKS, rows))
  )
  return functools.partial(nnx.merge, graphdef), params, data


def loss_fn(model, rows, data):
  del rows
  x, y = data
  return jnp.mean((model(x) - y) ** 2)


def meta_loss(params, data, merge_fn, inner, low_rank):
  def task(support_x, support_y, query_x, query_y):
    if low_rank:
      model, _ = maml.adapt_task(
        loss_fn, params, {}, (support_x, support_y), inner, merge_fn=merge_fn
      )
    else:
      adapted = maml.adapt(
        lambda params, data: loss_fn(merge_fn(params), None, data),
        params,
        (support_x, support_y),
        inner,
      )
      model = merge_fn(adapted)
    return loss_fn(model, None, (query_x, query_y))

  return jax.vmap(task)(*data)


def value_and_grad(merge_fn, params, data, inner, low_rank):
  return jax.jit(
    jax.value_and_grad(
      lambda params: meta_loss(params, data, merge_fn, inner, low_rank).mean()
    )
  )(params)


def assert_same(left, right):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCE),
    left,
    right,
  )


@pytest.mark.parametrize('remat', [False, True])
@pytest.mark.parametrize('order', [1, 2])
@pytest.mark.parametrize('num_steps', [1, 3])
def test_low_rank_equals_plain(num_steps, order, remat):
  problem_ = problem()
  inner = maml.InnerLoop(
    num_steps=num_steps, order=order, learning_rate=0.1, remat=remat
  )
  plain = value_and_grad(*problem_, inner, low_rank=False)
  low_rank = value_and_grad(*problem_, inner, low_rank=True)
  assert_same(low_rank, plain)


def test_low_rank_equals_plain_for_a_part_of_the_model():
  problem_ = problem()
  inner = maml.InnerLoop(
    num_steps=2, learning_rate=0.1, adapt=lambda name: 'layers/1' in name
  )
  plain = value_and_grad(*problem_, inner, low_rank=False)
  assert_same(value_and_grad(*problem_, inner, low_rank=True), plain)


def test_no_task_has_a_copy_of_a_kernel():
  merge_fn, params, data = problem()
  inner = maml.InnerLoop(num_steps=2, learning_rate=0.1)

  def text(low_rank):
    return str(
      jax.make_jaxpr(
        jax.grad(lambda p: meta_loss(p, data, merge_fn, inner, low_rank).mean())
      )(params)
    )

  copies = [f'f64[{TASKS},{i},{o}]' for i, o in ((WIDTH, 9), (9, 8), (8, 8))]
  assert all(copy in text(low_rank=False) for copy in copies)
  assert not any(copy in text(low_rank=True) for copy in copies)


@pytest.mark.parametrize(
  'model_class, name', [(Tied, 'encoder/kernel'), (Scanned, 'inner/kernel')]
)
def test_a_kernel_used_otherwise_adapts_plainly_and_is_named(
  model_class, name, caplog
):
  problem_ = problem(model_class)
  inner = maml.InnerLoop(num_steps=2, learning_rate=0.1)
  plain = value_and_grad(*problem_, inner, low_rank=False)
  with caplog.at_level(logging.INFO, logger='absl'):
    low_rank = value_and_grad(*problem_, inner, low_rank=True)
  assert_same(low_rank, plain)
  assert name in caplog.text
  assert 'head/kernel' not in caplog.text


def test_inner_gradients_stay_on_their_device_in_shard_map():
  merge_fn, params, _ = problem()
  rng = np.random.default_rng(1)
  data = tuple(
    jnp.asarray(rng.normal(size=shape))
    for rows in (SUPPORT, QUERY)
    for shape in ((16, rows, WIDTH), (16, rows))
  )
  inner = maml.InnerLoop(num_steps=2, learning_rate=0.1)
  mesh = jax.make_mesh((8,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
  for low_rank in (False, True):
    # The parameters are equal on all devices, the tasks are not: without care
    # the inner gradients would be summed over the devices.
    sharded = jax.jit(
      jax.shard_map(
        lambda params, data: meta_loss(params, data, merge_fn, inner, low_rank),
        mesh=mesh,
        in_specs=(P(), P('x')),
        out_specs=P('x'),
      )
    )(params, data)
    whole = meta_loss(params, data, merge_fn, inner, low_rank)
    np.testing.assert_allclose(sharded, whole, rtol=0, atol=TOLERANCE)


def test_merge_fn_must_give_a_module():
  _, params, data = problem()
  with pytest.raises(ValueError, match='an nnx.Module is needed'):
    maml.adapt_task(
      loss_fn,
      params,
      {},
      data[:2],
      maml.InnerLoop(),
      merge_fn=lambda params: params,
    )


def test_names_of_leaves_are_those_of_pure_dicts_and_states():
  graphdef, state = nnx.split(Model(nnx.Rngs(0)))
  del graphdef
  names = list(fast_weights.named_leaves(state))
  assert names == list(fast_weights.named_leaves(nnx.to_pure_dict(state)))
  assert 'mlp/layers/0/kernel' in names
