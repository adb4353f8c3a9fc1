# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The plan against what a trainer really holds and its program really moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.collectives import cost_model
from antjax.mesh.paro import VALID_CODES
from antjax.plan import census, plan_check, planner
from antjax.plan.moves import moves
from tests.train.state_shapes import state_shapes

N, M, S, L = 2, 4, 4, 3
LINKS = cost_model.Links(intra_bytes_per_s=1e9, uplink_bytes_per_s=1e8)
FAST = (('IIG', 'scanned'),)
# What else a step moves: 6 sums and a norm, and in XLA's text the counters of
# its loops; all smaller than the least leaf that is moved.
SCALARS = 24


def is_moved_edge(c):
  """Whether XLA evens out pieces for an optimizer that sees true shapes.

  Where its state is split inside groups, the 33 columns of `odd` are four
  pieces of 10, padded; in their true shape they are pieces of 9, and up to
  three columns cross to the neighbour. The plan leaves it out.
  """
  is_of_odd = c.kind == 'collective-permute' and c.shapes == ((13, 3),)
  return is_of_odd and c.axis == 'intra' and not c.in_loop


def init_params():
  def ones(*shape):
    return np.full(shape, 0.1, np.float32)

  return {
    'first': ones(10, 32),  # Padded: 10 does not divide by 8, 32 does.
    'odd': ones(13, 33),
    'bias': ones(40),  # Whole: too small to be split.
    'frozen': ones(24, 32),
    'layers': {'w': ones(L, 32, 32), 'v': ones(L, 31, 32)},
  }


def loss_fn(params, batch, rng):
  del rng

  def body(h, layer):
    h = jnp.tanh(h @ layer['w'].astype(h.dtype))
    return h + h[:, :31] @ layer['v'].astype(h.dtype)

  h = antjax.scan_layers(body, batch @ params['first'], params['layers'])
  h = h @ params['frozen'].T
  return jnp.mean(h[:, :13] @ params['odd'], axis=1) + jnp.sum(params['bias'])


def scanned(name):
  return name.startswith('layers')


def trainable(name):
  return name != 'frozen'


def trainer_of(code, **kwargs):
  return antjax.Trainer(
    loss_fn,
    optax.adamw(1e-2),
    mesh=antjax.make_mesh(intra=M),
    paro=code,
    num_micro_batches=S,
    min_shard_size=64,
    trainable=trainable,
    **kwargs,
  )


def collectives_of(trainer):
  """Collectives of the compiled step, but for scalars."""
  state = state_shapes(trainer, init_params())
  inputs = trainer.step_inputs(np.ones((8 * S * 2, 10), np.float32))
  text = trainer.compiled_step().lower(state, inputs).compile().as_text()
  found = census.collectives(text, trainer.mesh.shape)
  return [c for c in found if c.num_elements > SCALARS]


def plan_of(**kwargs):
  settings = {
    'num_groups': N,
    'group_size': M,
    'links': LINKS,
    'num_micro_batches': S,
    'compute_s': 0.0,
    'min_shard_size': 64,
    'trainable': trainable,
  }
  return planner.plan(init_params(), optax.adamw(1e-2), **settings | kwargs)


@pytest.mark.parametrize(
  'kwargs',
  [
    {},
    {'scanned': scanned, 'compute_dtype': jnp.bfloat16},
  ],
  ids=['fp32', 'mixed-scanned'],
)
def test_state_bytes_are_those_that_live(kwargs):
  plan = plan_of(**kwargs)
  for code in VALID_CODES:
    state = jax.tree.map(
      lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
      state_shapes(trainer_of(code, **kwargs), init_params()),
    )
    row = plan.row(code)

    def live(tree, device):
      return sum(
        shard.data.nbytes
        for x in jax.tree.leaves(tree)
        for shard in x.addressable_shards
        if shard.device == device
      )

    for device in jax.devices():
      assert live(state.params, device) == row.params_bytes, code
      rest = live((state.master, state.opt_state), device)
      assert rest == row.opt_state_bytes, code


CASES = {
  'whole': {},
  'scanned': {'scanned': scanned},
  'kept': {'scanned': scanned, 'regather': False},
}


@pytest.mark.parametrize(
  'code, case',
  [
    pytest.param(
      *(code, case), marks=() if (code, case) in FAST else pytest.mark.slow
    )
    for code in VALID_CODES
    for case in CASES
  ],
)
def test_bytes_moved_are_those_of_the_compiled_step(code, case):
  kwargs = CASES[case]
  trainer = trainer_of(code, **kwargs)
  found = [c for c in collectives_of(trainer) if not is_moved_edge(c)]
  # A padded leaf is updated in its true shape, of which devices hold unequal
  # parts at the optimizer's level I: neighbors hand on edges.
  edges = [c for c in found if c.kind == census.PERMUTE]
  padding = 13 * (40 - 33)
  assert all(not c.in_loop and c.num_elements <= padding for c in edges)
  assert not edges or code.endswith('I')
  found = [c for c in found if c not in edges]
  row = plan_of(**kwargs).row(code)
  # The whole leaf may share its all-reduce with the scalars.
  slack = 4 * SCALARS * 2
  for axis in ('intra', 'inter'):
    in_loop = sum(
      getattr(c, f'{axis}_bytes') * c.num_runs() for c in found if c.in_loop
    )
    at_end = sum(getattr(c, f'{axis}_bytes') for c in found if not c.in_loop)
    assert in_loop == S * getattr(row, f'{axis}_bytes')
    assert at_end == pytest.approx(
      getattr(row, f'{axis}_bytes_at_end'), abs=slack
    )
  assert {(m.kind, m.axis, m.in_loop) for m in moves(trainer.layout)} == {
    (c.kind, c.axis, c.in_loop) for c in found
  }


@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_narrow_sums_are_planned_as_they_are_sent(dtype):
  how, whole = antjax.Collectives(sums_dtype=dtype), plan_of(scanned=scanned)
  trainer = trainer_of('III', scanned=scanned, collectives=how)
  found = collectives_of(trainer)
  lines = plan_check.compare(trainer.layout, found, num_micro_batches=S)
  sums = [x for x in lines if x.kind == census.ALL_TO_ALL]
  assert [(x.axis, x.in_loop) for x in sums] == [
    ('intra', True),
    ('inter', False),
  ]
  assert all(x.is_equal for x in lines if x.planned), lines
  plan = plan_of(scanned=scanned, sums_dtype=dtype)
  row, wide = plan.row('III'), whole.row('III')
  assert row.inter_bytes_at_end < 0.6 * wide.inter_bytes_at_end
  assert plan.best.code[1] == 'I' and plan.row('GGG') == whole.row('GGG')


@pytest.mark.slow
@pytest.mark.parametrize('code', VALID_CODES)
def test_elements_moved_in_mixed_precision(code):
  # XLA:CPU widens some bf16 arrays before it moves them: elements count here.
  trainer = trainer_of(code, scanned=scanned, compute_dtype=jnp.bfloat16)
  found = collectives_of(trainer)
  lines = plan_check.compare(trainer.layout, found, num_micro_batches=S)
  planned = [line for line in lines if line.planned]
  assert planned and all(line.is_equal for line in lines)
  assert all(abs(line.found - line.planned) <= 2 * SCALARS for line in planned)
