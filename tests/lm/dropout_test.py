# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`nnx.Dropout` in a layer of a user's own."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.collectives import layer_loop
from antjax.layers import functional
from antjax.lm import Block, Config, generate, packed, Transformer
from antjax.lm.transformer import merge
from antjax.mesh.paro import VALID_CODES
from tests.cases import slow_but

CONFIG = Config(
  vocab_size=31, num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24
)
TOKENS = np.arange(16 * 6, dtype=np.int32).reshape(16, 6) % 31


class Dropping(Block):
  """Dropout behind the MLP, and in a module of a list."""

  def __init__(self, config, *, rngs):
    super().__init__(config, rngs=rngs)
    self.drop = nnx.Dropout(0.3, rngs=rngs)
    self.more = nnx.List([nnx.Dropout(0.3, rngs=rngs)])

  def mlp(self, h_BTD):
    return self.more[0](self.drop(super().mlp(h_BTD)))


def make(key, config=CONFIG, block=Dropping):
  return Transformer(config, rngs=nnx.Rngs(key), block=block)


def masks(model, rng):
  """Masks of each layer's two dropouts and of the first again."""
  graphdef, stack = model.seeded(rng).stack()
  ones, found = jnp.ones((*TOKENS.shape, 16)), []
  for i in range(CONFIG.num_layers):
    block = merge(graphdef, jax.tree.map(lambda x: x[i], stack))
    found += [block.drop(ones), block.more[0](ones), block.drop(ones)]
  return np.stack(found)


def test_masks_differ_by_layer_use_row_and_key():
  model = make(0)
  first, again, other = (masks(model, jax.random.key(i)) for i in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  rows = [row for x in (*first, *other) for row in x]
  assert len({x.tobytes() for x in rows}) == len(rows)
  assert np.mean(first == 0) == pytest.approx(0.3, abs=0.02)


def test_without_keys_it_is_refused_until_it_is_evaluated():
  model = make(0)
  for run in (
    lambda: model.loss({'tokens': TOKENS}),
    lambda: generate.generate(
      model, TOKENS, np.full(16, 6), jax.random.key(0), num_tokens=2
    ),
  ):
    with pytest.raises(ValueError, match=r'model.seeded\(rng\).*model.eval'):
      run()
  want = make(0, block=Block).hidden(TOKENS)
  model.eval()
  for x in (model, model.seeded(jax.random.key(0))):
    np.testing.assert_array_equal(x.hidden(TOKENS), want)


def test_parameters_are_those_of_a_block_and_of_keeps_dropout():
  model = make(0)
  params = functional.params_of(model)
  assert jax.tree.structure(params) == jax.tree.structure(
    functional.params_of(make(0, block=Block))
  )
  key = jax.random.key(3)
  built = Transformer.of(CONFIG, params, block=Dropping).seeded(key)
  np.testing.assert_array_equal(
    built.hidden(TOKENS), model.seeded(key).hidden(TOKENS)
  )


def trained(
  code='NNN',
  num_steps=3,
  first=0,
  config=CONFIG,
  fit=None,
  intra=4,
  devices=None,
  **options,
):
  trainer = antjax.Trainer(
    lambda model, batch, rng: model.seeded(rng).loss(batch),
    optax.sgd(0.5, momentum=0.9),
    mesh=antjax.make_mesh(intra=intra, devices=devices),
    paro=code,
    scanned=lambda name: name.startswith('layers'),
    min_shard_size=1,
    **{'num_micro_batches': 2} | options,
  )
  state = trainer.init(functools.partial(make, config=config), seed=0)
  losses = []
  state = trainer.fit(
    state,
    [{'tokens': (TOKENS + i) % 31} for i in range(first, num_steps)],
    num_steps=num_steps,
    on_step=lambda _, metrics: losses.append(float(metrics['loss'])),
    **(fit or {}),
  )
  return functional.params_of(trainer.params(state)), losses


@pytest.fixture(scope='module')
def want():
  return trained()


def assert_same(got, want):
  np.testing.assert_allclose(got[1], want[1], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got[0], want[0]
  )


@pytest.mark.parametrize('code', slow_but(VALID_CODES, 'IIG'))
def test_every_code_equals_data_parallel(code, want):
  assert_same(trained(code, intra=2), want)


# (devices, of a group, micro-batches): other products than 8 x 2.
@pytest.mark.slow
@pytest.mark.parametrize(
  'num_devices,intra,num_micro_batches',
  [(1, 1, 16), (1, 1, 2), (2, 1, 1), (4, 2, 4), (8, 2, 1)],
)
def test_any_devices_and_micro_batches_have_the_same_masks(
  num_devices, intra, num_micro_batches, want
):
  devices = jax.devices()[:num_devices]
  options = {'num_micro_batches': num_micro_batches}
  got = trained('IIG', intra=intra, devices=devices, **options)
  assert_same(got, want)


@pytest.mark.slow
def test_layers_with_keys_are_fetched_ahead(monkeypatch):
  runs, run = [], layer_loop.run
  monkeypatch.setattr(
    layer_loop, 'run', lambda *args: runs.append(1) or run(*args)
  )
  config = dataclasses.replace(CONFIG, pattern='wg', window=3, num_layers=4)
  want = trained('NNN', config=config)
  assert not runs
  assert_same(trained('IIG', config=config, overlap=True), want)
  assert runs


@pytest.mark.slow
def test_a_resumed_run_repeats_the_masks(tmp_path):
  want = trained('IIG', num_steps=4)
  fit = {'checkpoint_dir': str(tmp_path / 'run'), 'checkpoint_every': 2}
  trained('IIG', num_steps=2, fit=fit)
  params, losses = trained('IIG', num_steps=4, first=2, fit=fit)
  assert losses == want[1][2:]
  jax.tree.map(np.testing.assert_array_equal, params, want[0])


def test_chunks_of_packed_texts_have_masks_of_their_own():
  model = make(0).seeded(jax.random.key(0))
  same = np.tile(TOKENS[:1], (4, 1))
  lane = packed.Lane(same, np.ones_like(same))
  rows = np.asarray(packed.hidden(model, [lane], num_chunks=2)).reshape(4, -1)
  assert len({x.tobytes() for x in rows}) == 4
