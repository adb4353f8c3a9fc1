# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Several steps in one call of the devices equal the same steps one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.loop import FitOptions
from antjax.train.trainer import Trainer
from tests.cases import first_fast
from tests.train.positioned import Positioned

_BATCH = 32


class _Batches(Positioned):
  """Refills its arrays, as loaders may; the last of `num` batches is small."""

  def __init__(self, num=100, last=_BATCH, refill=True):
    super().__init__(self._batch_of, num)
    self._last, self._refill = last, refill
    self._batch = {
      'ids': {'item': np.zeros((_BATCH, 3), np.int64)},
      'y': np.zeros(_BATCH, np.float32),
    }

  def _batch_of(self, number):
    rng = np.random.default_rng(number)
    self._batch['ids']['item'][:] = rng.integers(0, 53, (_BATCH, 3))
    self._batch['y'][:] = rng.normal(size=_BATCH)
    size = self._last if number == self._num - 1 else _BATCH
    if not self._refill:
      self._batch = jax.tree.map(np.array, self._batch)
    return jax.tree.map(lambda x: x[:size], self._batch)


@functools.cache
def _trainer(code='IIG', num_devices=8, **options):
  mesh = make_mesh(
    intra=min(4, num_devices), devices=jax.devices()[:num_devices]
  )
  tables = EmbeddingTables(
    [TableSpec('item', 53, 4, 'global', Adagrad(0.1), init_scale=1.0)],
    {'item': 'item'},
    mesh=mesh,
  )

  def loss_fn(params, rows, batch, rng):
    x = tables.lookup(rows, batch['ids'])['item'].reshape(-1, 12)
    x += 0.1 * jax.random.normal(rng, x.shape)
    return jnp.square(jnp.tanh(x @ params['w1']) @ params['w2'] - batch['y'])

  options = {'tables': tables, 'min_shard_size': 8} | options
  return Trainer(loss_fn, optax.adam(0.01), mesh=mesh, paro=code, **options)


def _params():
  rng = np.random.default_rng(0)
  return {
    'w1': rng.normal(size=(12, 8)).astype(np.float32),
    'w2': rng.normal(size=8).astype(np.float32),
  }


def _fit(trainer, num_steps, batches=None, **options):
  told = []
  state = trainer.fit(
    trainer.init(_params()),
    _Batches() if batches is None else batches,
    num_steps,
    on_step=lambda step, metrics: told.append((step, metrics)),
    **options,
  )
  return state, told


def _assert_same(one, other):
  (state, told), (expected, expected_told) = one, other
  assert [step for step, _ in told] == [step for step, _ in expected_told]
  for (_, found), (_, wanted) in zip(told, expected_told, strict=True):
    for name in 'loss', 'grad_norm', 'weight', 'num_examples':
      np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)
  for found, wanted in zip(
    jax.tree.leaves((state.params, state.opt_state, state.tables)),
    jax.tree.leaves((expected.params, expected.opt_state, expected.tables)),
    strict=True,
  ):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  assert int(state.step) == int(expected.step)


def test_a_loader_may_refill_its_arrays():
  trainer = _trainer()
  _assert_same(
    _fit(trainer, 5), _fit(trainer, 5, batches=_Batches(refill=False))
  )


@pytest.mark.parametrize(
  'code, num_devices',
  first_fast(('IIG', 8), ('NNN', 1), ('GGG', 8), ('NIG', 8)),
)
def test_calls_equal_steps(code, num_devices, tmp_path):
  trainer = _trainer(code, num_devices)
  evaluated = []
  options = {
    'steps_per_call': 3,
    'evaluate_fn': lambda state: evaluated.append(int(state.step)) or {},
    'evaluate_every': 4,
    'checkpoint_every': 5,
    'checkpoint_dir': str(tmp_path),
  }
  expected = _fit(trainer, 10)
  _, first = _fit(trainer, 7, **options)
  state, rest = _fit(trainer, 10, **options)
  _assert_same((state, first[:-1] + rest[:-1]), expected)
  assert evaluated == [4, 7, 8, 10]


@pytest.mark.slow
def test_data_end_where_they_end():
  trainer = _trainer()
  expected = _fit(trainer, 99, _Batches(9, last=16))
  found = _fit(trainer, 99, _Batches(9, last=16), steps_per_call=3)
  assert len(found[1]) == 9
  _assert_same(found, expected)


def test_a_stop_takes_effect_after_its_call():
  trainer, asked = _trainer(), []

  def should_stop():
    asked.append(True)
    return len(asked) > 4

  with pytest.raises(KeyboardInterrupt, match='stopped at step 9'):
    _fit(trainer, 30, steps_per_call=3, should_stop=should_stop)


def test_what_cannot_be_is_refused():
  with pytest.raises(ValueError, match=r'steps_per_call=0.*\n? ?1 or more'):
    FitOptions(steps_per_call=0)
  trainer = _trainer(row_staleness=1)
  with pytest.raises(ValueError, match='row_staleness=1.*steps_per_call=2'):
    _fit(trainer, 3, steps_per_call=2)
