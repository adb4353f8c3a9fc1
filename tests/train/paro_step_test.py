# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every PaRO code trains exactly like plain data parallel on one device."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from antjax.train.trainer import Trainer
from tests.cases import code_pairs, covering, first_fast, pairs, slow_but
from tests.train import plain as plain_lib

# Sums over 32 examples in another order, through 3 AdamW steps: each step
# divides by sqrt(nu), which magnifies a relative error of 1e-7 in a small
# gradient to that of an update of size learning_rate.
SUM_ORDER_ATOL = 2e-5
NUM_STEPS = 3
BATCH = 32


def init_params():
  """Even, odd, tied, tiny and frozen leaves."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32) * 0.3

  return {
    'even': normal(16, 24),
    'odd': normal(24, 13),
    'tied': normal(13, 13),
    'bias': normal(13),
    'frozen': normal(13, 11),
    'scale': np.float32(1.5),
  }


def loss_fn(params, batch, rng):
  del rng
  h = jnp.tanh(batch['x'] @ params['even'])
  h = jnp.tanh(h @ params['odd'] + params['bias'][None])
  h = jnp.tanh(h @ params['tied']) @ params['tied'].T  # One leaf, used twice.
  y = params['scale'] * (h @ params['frozen'])
  return jnp.mean(jnp.square(y - batch['y']), axis=-1), batch['weight']


def optimizer():
  return optax.chain(
    optax.clip_by_global_norm(0.05), optax.adamw(1e-2, weight_decay=0.1)
  )


def batches(num=NUM_STEPS):
  rng = np.random.default_rng(1)
  for _ in range(num):
    yield {
      'x': rng.normal(size=(BATCH, 16)).astype(np.float32),
      'y': rng.normal(size=(BATCH, 11)).astype(np.float32),
      'weight': rng.uniform(0.5, 2, size=BATCH).astype(np.float32),
    }


def masked(batch, counts, intra, num_micro_batches):
  """Weight 0 for micro-batches that a group leaves out."""
  weight = batch['weight'].reshape(8, num_micro_batches, -1).copy()
  for device in range(8):
    weight[device, counts[device // intra] :] = 0
  return batch | {'weight': weight.reshape(-1)}


def reference(all_batches):
  return plain_lib.train(init_params(), loss_fn, optimizer(), all_batches)


def make_trainer(code, intra, num_micro_batches, **kwargs):
  return Trainer(
    loss_fn,
    optimizer(),
    mesh=make_mesh(intra=intra),
    paro=code,
    num_micro_batches=num_micro_batches,
    trainable=lambda name: name != 'frozen',
    min_shard_size=8,
    **kwargs,
  )


def check(trainer, counts=None, expected=None, start=None):
  start = start or init_params()
  state = trainer.init(start, seed=3)
  losses, norms = [], []
  for batch in batches():
    state, metrics = trainer.step(state, batch, counts)
    losses.append(float(metrics['loss']))
    norms.append(float(metrics['grad_norm']))
  params, expected_losses, expected_norms = expected
  np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
  np.testing.assert_allclose(norms, expected_norms, rtol=1e-4)
  actual = trainer.params(state)
  for name, value in params.items():
    np.testing.assert_allclose(
      actual[name], value, atol=SUM_ORDER_ATOL, err_msg=name
    )
  assert int(state.step) == NUM_STEPS
  moved = np.abs(np.asarray(actual['odd']) - start['odd']).max()
  assert moved > 100 * SUM_ORDER_ATOL  # The comparison means something.


FAST = [
  ('NNN', 4, 1),
  ('NIG', 4, 4),
  ('IIG', 2, 4),
  ('III', 8, 1),
  ('NGG', 1, 4),
  ('GGG', 4, 4),
]
# Every code on every mesh, and with and without micro-batches.
CASES = covering(
  itertools.product(VALID_CODES, (8, 4, 2, 1), (1, 4)), pairs, keep=FAST
)
# Every level of each part with all counts.
UNEQUAL = covering(
  itertools.product(ELASTIC_CODES, ((3, 1), (0, 4), (4, 0, 2, 1))),
  code_pairs,
  keep=[('NNN', (0, 4)), ('IIG', (3, 1))],
)


@pytest.fixture(scope='module')
def plain():
  return reference(batches())


@pytest.mark.parametrize(
  ('code', 'intra', 'num_micro_batches'), slow_but(CASES, *FAST)
)
def test_equals_plain_data_parallel(code, intra, num_micro_batches, plain):
  check(make_trainer(code, intra, num_micro_batches), expected=plain)


@pytest.mark.parametrize(
  ('code', 'counts'), slow_but(UNEQUAL, ('NNN', (0, 4)), ('IIG', (3, 1)))
)
def test_unequal_micro_batches_equal_weighted_gradient(code, counts):
  intra, counts = 8 // len(counts), list(counts)
  trainer = make_trainer(code, intra, 4)
  expected = reference(masked(b, counts, intra, 4) for b in batches())
  check(trainer, counts, expected)
  # Other counts, and none, run the same program.
  state = trainer.init(init_params(), seed=3)
  for other in ([1] * len(counts), counts, None):
    state, _ = trainer.step(state, next(batches()), other)
  assert trainer.compiled_step()._cache_size() == 1


def test_all_groups_idle_changes_nothing():
  trainer = make_trainer('IIG', 4, 2)
  state = trainer.init(init_params())
  before = jax.tree.map(np.asarray, (state.params, state.opt_state))
  state, metrics = trainer.step(state, next(batches()), [0, 0])
  after = jax.tree.map(np.asarray, (state.params, state.opt_state))
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert int(state.step) == 1
  assert float(metrics['weight']) == 0


@pytest.mark.parametrize('code', sorted(set(VALID_CODES) - set(ELASTIC_CODES)))
def test_counts_with_a_code_that_is_not_elastic_are_refused(code):
  with pytest.raises(ValueError, match='Elastic codes are NNN NNI'):
    make_trainer(code, 4, 4).step(None, next(batches()), [1, 2])


@pytest.mark.parametrize('code', first_fast('NIG', 'III', 'GGG'))
def test_mixed_precision_keeps_an_fp32_master(code):
  trainer = make_trainer(code, 4, 4, compute_dtype=jnp.bfloat16)
  state = trainer.init(init_params())
  for batch in batches():
    state, _ = trainer.step(state, batch)
  kept = jax.tree.leaves(state.params)
  assert {x.dtype for x in kept} == {jnp.dtype(jnp.bfloat16)}
  # The reference in bf16 compute, one device.
  expected, _, _ = reference(batches())
  actual = trainer.params(state)
  for name, value in actual.items():
    if name != 'frozen':
      assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected[name], atol=0.05, err_msg=name)
  # The step's copy is the rounded master, at its own level.
  whole = {x.name: x.spec for x in trainer.layout.leaves}['odd']
  copy = whole.unpad(np.asarray(state.params['odd']))
  np.testing.assert_array_equal(copy, actual['odd'].astype(jnp.bfloat16))


@pytest.mark.slow
def test_remat_gives_the_same_gradient(plain):
  check(make_trainer('IIG', 4, 4, remat_policy=True), expected=plain)


def test_state_is_donated():
  trainer = make_trainer('IIG', 4, 1)
  old = trainer.init(init_params())
  trainer.step(old, next(batches()))
  assert all(x.is_deleted() for x in jax.tree.leaves(old.opt_state))


def test_rng_gives_the_same_dropout_on_any_mesh():
  def noisy(params, batch, rng):
    keep = jax.random.bernoulli(rng, 0.5, batch['x'].shape)
    return loss_fn(params, batch | {'x': batch['x'] * keep}, None)

  losses = []
  for intra, code in ((8, 'NNN'), (2, 'GGG')):
    trainer = Trainer(
      noisy,
      optimizer(),
      mesh=make_mesh(intra=intra),
      paro=code,
      num_micro_batches=2,
    )
    state = trainer.init(init_params(), seed=5)
    first, second = list(batches(2))
    state, a = trainer.step(state, first)
    _, b = trainer.step(state, second)
    losses.append([float(a['loss']), float(b['loss'])])
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_batch_that_does_not_divide_is_refused():
  batch = jax.tree.map(lambda x: x[:24], next(batches()))
  with pytest.raises(ValueError, match=r"batch\['weight'\] has shape \(24,\)"):
    make_trainer('IIG', 4, 4).step(None, batch)


def test_mean_loss_is_refused():
  trainer = Trainer(
    lambda p, b, r: loss_fn(p, b, r)[0].mean(),
    optimizer(),
    mesh=make_mesh(intra=4),
  )
  state = trainer.init(init_params())
  with pytest.raises(ValueError, match='one loss for each example'):
    trainer.step(state, next(batches()))
