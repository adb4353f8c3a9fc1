# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Gradients sent in fewer bytes: the bytes, the loss curves, the residuals.

The model is a language model of bytes of real English. `pytest -s -m slow` of
this file prints the rows of benchmarks/results/narrow_sums_virtual_2026-12.md.
"""

import dataclasses
import functools
import itertools
import pathlib

import jax
import numpy as np
import optax
import pytest

import antjax
from antjax.data import shakespeare
from antjax.layers.functional import Functional
from antjax.lm import Config, Transformer
from antjax.plan import census
from tests.cases import slow_but
from tests.train import layerwise_test as small
from tests.train.state_shapes import state_shapes

# Chosen before the first run. Runs that differ in their seed alone differ by
# about 1 % of the loss after a few hundred steps: a curve is level if it cannot
# be told from another seed's. The mean of 50 steps (10 of 30) has the noise of
# single batches removed, which are the same in all runs.
LEVEL = 0.01
CODES = ('NIG', 'IIG', 'III')
# Bytes of a sum, of those in fp32; an int8 block of 256 has a scale of 4 bytes,
# and blocks of small pieces have fewer elements.
SHARE = {'bfloat16': 0.5, 'int8': 0.27}
MODEL = Config(
  vocab_size=256,
  num_layers=4,
  embed_dim=64,
  num_heads=4,
  num_kv_heads=2,
  mlp_dim=192,
)
SMALL = dataclasses.replace(MODEL, num_layers=2, embed_dim=32, mlp_dim=96)
BATCH, LENGTH = 32, 64


def batches(text, num, size=BATCH):
  """Sequences of bytes from random places of a text."""
  rng = np.random.default_rng(0)
  data = np.frombuffer(text, np.uint8).astype(np.int32)
  for _ in range(num):
    starts = rng.integers(0, len(data) - LENGTH, size)
    yield {'tokens': data[starts[:, None] + np.arange(LENGTH)]}


def language_model(code, sums_dtype, config=MODEL):
  trainer = antjax.Trainer(
    lambda params, batch, rng: Transformer.of(config, params).loss(batch),
    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3)),
    mesh=antjax.make_mesh(intra=4),
    paro=code,
    num_micro_batches=2,
    scanned=lambda name: name.startswith('layers'),
    collectives=antjax.Collectives(sums_dtype=sums_dtype),
  )
  return trainer, Functional(Transformer, config).init


@functools.cache
def curve(code, sums_dtype, config, text, num_steps, size):
  trainer, init = language_model(code, sums_dtype, config)
  state = trainer.init(init, seed=1)
  losses = []
  for batch in batches(text, num_steps, size):
    state, metrics = trainer.step(state, batch)
    losses.append(metrics['loss'])
  return np.array(jax.device_get(losses))


def bytes_of_sums(code, sums_dtype):
  """Bytes a device sends a step for gradients: in its group, and to others."""
  trainer, init = language_model(code, sums_dtype)
  state = state_shapes(trainer, init)
  inputs = trainer.step_inputs(next(batches(bytes(1000), 1)))
  text = trainer.compiled_step().lower(state, inputs).compile().as_text()
  inside = between = 0.0
  for c in census.collectives(text, trainer.mesh.shape):
    # Leaves that are whole, and other small sums, stay as they are. Gathers
    # are those of parameters, but between groups under III, of sums.
    is_gather = c.kind == census.ALL_GATHER
    if c.num_elements < 2000 or (is_gather and 'III' != code):
      continue
    inside += 0 if is_gather else c.num_runs() * c.intra_bytes
    between += c.num_runs() * c.inter_bytes
  return inside, between


@functools.cache
def whole_bytes(code):
  inside, between = bytes_of_sums(code, None)
  assert inside > 0 and between > 0
  return inside, between


@pytest.mark.parametrize(
  ('code', 'sums_dtype'),
  slow_but(itertools.product(CODES, SHARE), ('III', 'int8')),
)
def test_half_and_a_quarter_of_the_bytes(code, sums_dtype):
  inside, between = whole_bytes(code)
  narrow_inside, narrow_between = bytes_of_sums(code, sums_dtype)
  print(f'| {code} | {sums_dtype} | {narrow_inside / inside:.3f}', end=' | ')
  print(f'{narrow_between / between:.3f} | of {inside:.0f} | {between:.0f} |')
  share = SHARE[sums_dtype]
  assert share - 0.02 < narrow_inside / inside <= share
  assert share - 0.02 < narrow_between / between <= share


def _of_docs():
  pages = pathlib.Path(__file__).parents[2].glob('docs/*.md')
  return b'\n'.join(page.read_bytes() for page in sorted(pages))


def check_level(code, sums_dtype, config, text, num_steps, last, size=BATCH):
  want = curve(code, None, config, text, num_steps, size)
  assert want[-last:].mean() < 0.9 * want[:5].mean()  # It learns.
  got = curve(code, sums_dtype, config, text, num_steps, size)
  means = [x.reshape(-1, last).mean(1) for x in (want, got)]
  apart = np.abs(means[1] / means[0] - 1)
  print(
    f'| {code} | {sums_dtype} | {means[0][-1]:.4f} | {means[1][-1]:.4f} |'
    f' {100 * apart[-1]:.2f}% | {100 * apart.max():.2f}% |'
  )
  assert np.abs(got - want).max() > 0  # It is rounded.
  assert apart[-1] < LEVEL


@pytest.mark.slow
@pytest.mark.parametrize('sums_dtype', SHARE)
def test_loss_curves_are_level_after_30_steps(sums_dtype):
  check_level('IIG', sums_dtype, SMALL, _of_docs(), 30, 10, size=16)


@pytest.mark.slow
@pytest.mark.parametrize('sums_dtype', SHARE)
@pytest.mark.parametrize('code', CODES)
def test_loss_curves_are_level_after_500_steps(code, sums_dtype, tmp_path):
  text = '\n'.join(shakespeare.read(shakespeare.fetch(tmp_path))).encode()
  check_level(code, sums_dtype, MODEL, text, 500, 50)


def _train(**kwargs):
  """(losses, residuals) of steps of a small model, IIG with int8 sums."""
  how = antjax.Collectives(sums_dtype='int8')
  trainer = small.trainer_of('IIG', collectives=how, **kwargs)
  state = trainer.init(small.init_params())
  losses, residuals = [], []
  for batch in small.batches():
    state, metrics = trainer.step(state, batch)
    losses.append(float(metrics['loss']))
    leaves = jax.tree.leaves(jax.device_get(state.residuals))
    residuals.append(np.concatenate([x.ravel() for x in leaves]))
  return losses, residuals


@functools.cache
def _plain_loop():
  return _train(scanned=small.scanned)


@pytest.mark.parametrize(
  'how',
  [
    {'overlap': True},
    {'overlap': True, 'early_sums': True},
    pytest.param({'regather': False}, marks=pytest.mark.slow),
    pytest.param({'options': {'layers_per_step': 2}}, marks=pytest.mark.slow),
    pytest.param({'loss_scale': 2.0**10}, marks=pytest.mark.slow),
  ],
)
def test_every_form_of_the_layer_loop_sends_the_same(how):
  losses, residuals = _train(scanned=small.scanned, **how)
  want_losses, want_residuals = _plain_loop()
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  for got, want in zip(residuals, want_residuals, strict=True):
    # An addend between two int8 values, an ulp apart in the two programs, may
    # be rounded to either: its residual is then a whole step of int8 away.
    apart = np.abs(got - want) > 1e-5
    assert apart.mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('code', ['III', 'IIG'])
def test_residuals_are_in_checkpoints(code, tmp_path, caplog):
  how = antjax.Collectives(sums_dtype='int8')

  def fitted(trainer, folder, num_steps):
    # The iterator has no position and is advanced by hand.
    done = antjax.train.checkpoint.latest_step(tmp_path / folder) or 0
    rest = list(small.batches(4))[done:]
    state = trainer.init(small.init_params())
    where = str(tmp_path / folder)
    return trainer.fit(state, iter(rest), num_steps, checkpoint_dir=where)

  def trainer_of(intra):
    return small.trainer_of(code, intra, scanned=small.scanned, collectives=how)

  trainer = trainer_of(4)
  straight = fitted(trainer, 'straight', 4)
  fitted(trainer, 'halves', 2)
  resumed = fitted(trainer, 'halves', 4)
  assert np.abs(jax.tree.leaves(resumed.residuals)[0]).max() > 0
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)
  assert 'residuals start at zero' not in caplog.text
  # On another mesh the parts of groups are others.
  state = fitted(trainer_of(2), 'halves', 4)
  assert 'residuals start at zero' in caplog.text
  assert not any(np.any(x) for x in jax.tree.leaves(state.residuals))


def test_a_step_without_weight_keeps_the_residuals():
  how = antjax.Collectives(sums_dtype='int8')
  trainer = small.trainer_of('IIG', scanned=small.scanned, collectives=how)
  state = trainer.init(small.init_params())
  first, second, _ = small.batches()
  state, _ = trainer.step(state, first)
  before = jax.tree.map(np.asarray, state.residuals)
  state, _ = trainer.step(state, second, [0, 0])
  jax.tree.map(np.testing.assert_array_equal, before, state.residuals)
  num_bytes = sum(x.nbytes for x in jax.tree.leaves(before)) / 8
  assert trainer.bytes_per_device()['residuals'] == num_bytes


def test_what_has_no_residuals_is_refused():
  how = antjax.Collectives(sums_dtype='int8')
  with pytest.raises(ValueError, match='NII NIG III IIG GIG.*NNG does not'):
    small.trainer_of('NNG', collectives=how)
  with pytest.raises(ValueError, match='use one of bfloat16, int8'):
    antjax.Collectives(sums_dtype='int4')
  trainer = small.trainer_of('IIG', collectives=how)
  trainer.init(small.init_params())
  with pytest.raises(ValueError, match="use sums_dtype='bfloat16'"):
    trainer.elastic_step()
