# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""No training step adds floats by a scatter with repeated indices on a GPU.

jaxlib 0.10.2 to 0.11.0 compiles such a scatter to a compare-and-swap loop,
hundreds of times too slow (jax issue 38806, openxla/xla issue 46225). The text
is read as it is lowered for CUDA, which takes no GPU.
"""

import re

import jax
from jax._src.lib.mlir import ir
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.layers import functional
from antjax.layers.functional import Functional
from antjax.lm.transformer import Transformer
from antjax.meta import maml, task_network
from tests.cases import slow_but
from tests.ctr.antm2c import model_test as click_models
from tests.ctr.bahe import small_clicks
from tests.ctr.bahe import store_tower_test as store_towers
from tests.ctr.llm_rec import model_test as text_models
from tests.ctr.llm_rec import next_item_test as next_items
from tests.lm import tiny_models
from tests.meta import oracle
from tests.train.state_shapes import state_shapes


def _places(location):
  """'file:line in function' of the innermost calls."""
  named = re.findall(r'"([^"]+)"\("([^"]+)":(\d+)', str(location))
  places = [f'{file}:{line} in {name}' for name, file, line in named]
  return ' < '.join(places[:3]) or str(location)


def slow_scatters(fn, *args):
  """Where a function, lowered for CUDA, adds floats at repeated indices."""
  traced = (
    jax.jit(fn).trace(*args) if not hasattr(fn, 'trace') else fn.trace(*args)
  )
  lowered = traced.lower(lowering_platforms=('cuda',))
  found = []

  def visit(op):
    if op.name == 'stablehlo.scatter':
      body = [inner.operation for inner in op.regions[0].blocks[0]]
      is_float = isinstance(body[0].operands[0].type.element_type, ir.FloatType)
      adds = any(inner.name == 'stablehlo.add' for inner in body)
      if adds and is_float and not op.attributes['unique_indices'].value:
        found.append(_places(op.location))
    return ir.WalkResult.ADVANCE

  lowered.compiler_ir('stablehlo').operation.walk(visit)
  return found


def step_of(trainer, params, batch):
  """A training step, whole, and its arguments; the state is of shapes only."""
  state = state_shapes(trainer, params)
  inputs = trainer.step_inputs(batch)
  return trainer.compiled_step(), state, inputs


def language_model():
  config = tiny_models.CONFIGS['llama']
  params = Functional(Transformer, config).init(jax.random.key(0))
  tokens = np.ones((8, 6), np.int32)
  trainer = antjax.Trainer(
    lambda params, batch, rng: Transformer.of(config, params).loss(batch),
    optax.sgd(0.1),
    mesh=antjax.make_mesh(intra=4),
    paro='IIG',
    scanned=lambda name: name.startswith('layers'),
    min_shard_size=8,
  )
  return step_of(trainer, params, {'tokens': tokens})


def meta_learner():
  inner = maml.InnerLoop(adapt='all', order=2)
  sharded = oracle.Sharded(inner, antjax.make_mesh(intra=4), 'IIG', 'global')
  batch = oracle.batches_for(inner)[0]
  return step_of(sharded.trainer, sharded.params, batch)


def clicks(name):
  model = click_models.model_of(name)
  trainer, _ = click_models.trainer_of(model, intra=2)
  batch = model.prepare(click_models.clicks().batch(np.arange(64), 64))
  return step_of(trainer, model.init_params, batch)


def next_item(encoder):
  mesh = antjax.make_mesh(intra=4)
  model = next_items.NextItemModel(encoder, next_items.NUM_ITEMS, 0)
  tables = model.tables(mesh)

  def loss_fn(params, rows, batch, rng):
    found = tables.lookup(rows, batch['ids'])
    return model.loss(params, batch['ids'], found, rng)

  trainer = antjax.Trainer(
    loss_fn, optax.adam(0.01), mesh=mesh, tables=tables, min_shard_size=1
  )
  rng = np.random.default_rng(0)
  drawn = rng.integers(1, next_items.NUM_ITEMS, (32, 4))
  batch = model.prepare(next_items.cycles(32, rng), drawn)
  return step_of(trainer, model.init_params(jax.random.key(0)), batch)


def llm_rec(family, negatives, **vector):
  loss = text_models.LossConfig(negatives=negatives, num_negatives=4)
  options = {}
  if vector:
    vector = text_models.VectorConfig(**vector)
    options = {'pooling': 'mean', 'vector': vector}
  merge, params = functional.split(
    text_models.model_of(family, loss, **options)
  )
  examples = text_models.small_catalogue.examples(text_models.B, seed=1)
  batch = text_models.inputs_of(family, loss)(examples, 1)
  step = jax.grad(lambda params, batch: jnp.sum(merge(params).loss(batch)[0]))
  return step, params, batch


def behaviors(pooling):
  mesh = antjax.make_mesh(intra=4)
  model = small_clicks.store_model(mesh, kind='din', pooling=pooling)
  trainer = store_towers.make_trainer(model, mesh)
  params = functional.params_of(model)
  batch = model.prepare(small_clicks.batch(30, size=32, seed=0), 8)
  return step_of(trainer, params, batch)


def rating_loss():
  levels = task_network.RatingLevels()
  return (
    jax.grad(lambda x, y: levels.loss(x, y).sum()),
    jnp.ones((4, 5)),
    (jnp.arange(4.0)),
  )


STEPS = {
  'language model': language_model,
  'meta-learner': meta_learner,
  'ratings': rating_loss,
  'deepfm': lambda: clicks('deepfm'),
  'din': lambda: clicks('din'),
  'ple': lambda: clicks('ple'),
  'sasrec': lambda: next_item(next_items.SASREC),
  'gru': lambda: next_item(next_items.GRU),
  'bert, shared': lambda: llm_rec('bert', 'shared'),
  't5, own': lambda: llm_rec('t5', 'own', normalize=True, word_dim=6),
  'bahe, last': lambda: behaviors('last'),
  'bahe, mean': lambda: behaviors('mean'),
}


# The other steps have their scatters.
_FAST = 'language model', 'ratings', 'din', 'sasrec', 'bert, shared'


@pytest.mark.parametrize('name', slow_but(STEPS, *_FAST))
def test_no_step_adds_floats_by_a_slow_scatter(name):
  step, *args = STEPS[name]()
  assert not slow_scatters(step, *args)


def test_such_a_scatter_is_found():
  found = slow_scatters(
    jax.grad(lambda x, ids: x[ids].sum()), jnp.ones(4), jnp.zeros(2, int)
  )
  assert len(found) == 1 and 'scatter_test.py' in found[0]
