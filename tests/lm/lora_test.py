# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA: no change at birth, exact when merged, and alone in training."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.layers.functional import params_of
from antjax.lm import adapter_file, lora, quantized, split
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from tests.cases import slow_but
from tests.lm import tiny_models

CONFIG = dataclasses.replace(tiny_models.CONFIGS['llama'], lora_scale=2.0)
TOKENS = jnp.asarray(tiny_models.TOKENS)
TARGETS = ('query', 'value', 'down')


@pytest.fixture(scope='module')
def params():
  return tiny_models.params_of(CONFIG)


def test_adapters_start_as_nothing_and_merge_exactly(params):
  model = Transformer.of(CONFIG, params)
  lora.add(model, rank=2, targets=TARGETS, rngs=nnx.Rngs(0))
  adapted = params_of(model)
  new = set(adapted['layers']) - set(params['layers'])
  assert new == {f'{n}_lora_{part}' for n in TARGETS for part in 'ab'}
  assert adapted['layers']['down_lora_a'].shape == (3, 48, 2)

  @jax.jit
  def logits(params, tokens):
    return Transformer.of(CONFIG, params).logits(tokens)

  plain = logits(params, TOKENS)
  np.testing.assert_array_equal(logits(adapted, TOKENS), plain)
  # As if trained.
  layers = {
    k: x + 0.1 * jnp.cos(jnp.arange(x.size).reshape(x.shape)) if k in new else x
    for k, x in adapted['layers'].items()
  }
  adapted = {**adapted, 'layers': layers}
  model = Transformer.of(CONFIG, adapted)
  lora.merge(model)
  merged = params_of(model)
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  expected = logits(adapted, TOKENS)
  np.testing.assert_allclose(logits(merged, TOKENS), expected, atol=1e-4)
  assert np.abs(expected - plain).max() > 0.1
  np.testing.assert_array_equal(merged['layers']['up'], params['layers']['up'])


def test_new_dora_adapters_of_a_16_bit_model_change_no_bit(params, tmp_path):
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  model = Transformer.of(CONFIG, half)
  lora.add(model, rank=2, targets=TARGETS, dora=True, rngs=nnx.Rngs(0))
  adapter_file.save(tmp_path / 'adapter', model)
  read = Transformer.of(CONFIG, half)
  adapter_file.load(tmp_path / 'adapter', read)

  @jax.jit
  def logits(params):
    return Transformer.of(CONFIG, params).logits(TOKENS)

  for adapted in (model, read):
    np.testing.assert_array_equal(logits(params_of(adapted)), logits(half))


@pytest.mark.parametrize(
  ('code', 'is_module'),
  slow_but([('NNN', False), ('IIG', True)], ('NNN', False)),
)
def test_new_dora_adapters_computed_in_16_bits_change_no_bit(
  params, code, is_module
):
  model = Transformer.of(CONFIG, params)
  lora.add(model, rank=2, targets=TARGETS, dora=True, rngs=nnx.Rngs(0))
  adapted = params_of(model)
  batch = {'tokens': np.tile(tiny_models.TOKENS, (8, 1))}

  def model_of(tree):
    return tree if is_module else Transformer.of(CONFIG, tree)

  def predicted(params, trained, num_steps=0):
    trainer = Trainer(
      lambda p, b, rng: model_of(p).loss(b),
      optax.sgd(0.1),
      mesh=make_mesh(intra=4),
      paro=code,
      compute_dtype=lora.computing(jnp.bfloat16),
      trainable=lora.matching(trained),
      scanned=lambda name: name.startswith('layers'),
      min_shard_size=8,
    )
    given = Transformer.of(CONFIG, params) if is_module else params
    state = trainer.init(given)
    for _ in range(num_steps):
      state, _ = trainer.step(state, batch)

    def predict_fn(p, b, rng):
      return {'logits': model_of(p).logits(b['tokens'])}

    held = params_of(model_of(state.params))['layers']
    dtypes = {name: x.dtype.name for name, x in held.items()}
    return trainer.predict(state, [batch], predict_fn)['logits'], dtypes

  plain, _ = predicted(params, 'layers')
  new, dtypes = predicted(adapted, lora.PATTERN)
  np.testing.assert_array_equal(new, plain)
  kept = {name for name, dtype in dtypes.items() if dtype == 'float32'}
  assert kept == {f'{x}_lora_m' for x in TARGETS}
  trained, again = predicted(adapted, lora.PATTERN, 1)
  assert again == dtypes
  assert np.abs(trained - plain).max() > 0


@pytest.mark.slow
def test_only_adapters_are_trained(params):
  def init(key):
    model = Transformer.of(CONFIG, params)
    lora.add(model, rank=2, rngs=nnx.Rngs(key))
    return params_of(model)

  trainer = Trainer(
    lambda params, batch, rng: Transformer.of(CONFIG, params).loss(batch),
    optax.adamw(0.05),
    mesh=make_mesh(intra=4),
    paro='IIG',
    trainable=lora.matching(lora.PATTERN),
    scanned=lambda name: name.startswith('layers'),
    min_shard_size=1,
  )
  state = trainer.init(init, seed=0)
  batch = {'tokens': np.tile(tiny_models.TOKENS[:1], (8, 1))}
  state = trainer.fit(state, iter([batch] * 4), 4)
  trained = jax.device_get(trainer.params(state))
  for name, x in params['layers'].items():
    np.testing.assert_array_equal(trained['layers'][name], x)
  assert np.abs(trained['layers']['query_lora_b']).max() > 0
  before, after = (
    Transformer.of(CONFIG, p).loss({'tokens': TOKENS[:1]})[0][0]
    for p in (params, trained)
  )
  assert after < before - 0.1


@pytest.mark.parametrize(
  'options', [{'rank': 0}, {'rank': 2, 'targets': ('gate', 'bogus')}]
)
def test_wrong_adapters_are_refused(params, options):
  with pytest.raises(ValueError, match='one or more targets of query, key'):
    lora.add(Transformer.of(CONFIG, params), **options, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='no regular expression'):
    lora.matching('(')


def test_a_half_without_layers_is_refused(params):
  high = split.HighEncoder(Transformer.of(CONFIG, params), 3)
  with pytest.raises(ValueError, match='HighEncoder without layers'):
    lora.add(high, rank=2, rngs=nnx.Rngs(0))


def test_a_plain_optimizer_skips_quantized_matrices(params):
  model = Transformer.of(CONFIG, params)
  quantized.quantize(model.layers, 'int8')
  lora.add(model, rank=2, rngs=nnx.Rngs(0))
  before = jax.tree.map(np.asarray, params_of(model)['layers'])
  optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

  @nnx.jit
  @nnx.grad
  def grads_of(model):
    return model.loss({'tokens': TOKENS})[0].mean()

  optimizer.update(model, grads_of(model))
  after = params_of(model)['layers']
  for name in ('query', 'query_scale', 'down', 'down_scale'):
    np.testing.assert_array_equal(after[name], before[name])
  assert (after['query_lora_b'] != 0).any()
