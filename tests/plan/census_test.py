# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which collective of which axis stands where in the compiled step.

The table is that of the design document: what a code moves inside the
micro-batch loop and what once at the step's end. XLA likes to hoist and sink
collectives out of loops, which would turn one code into another.
"""

import collections
import functools
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from antjax.plan.census import collectives
from antjax.train.trainer import Trainer
from tests.train.state_shapes import state_shapes

AG, RS, AR = 'all-gather', 'reduce-scatter', 'all-reduce'
IN_LOOP = {
  'params': {
    'N': [],
    'I': [(AG, 'intra')],
    'G': [(AG, 'inter'), (AG, 'intra')],
  },
  'grads': {
    'N': [],
    'I': [(RS, 'intra')],
    'G': [(RS, 'intra'), (RS, 'inter')],
  },
}
SYNC_AT_END = {  # Gradients to the optimizer's level.
  'NN': [(RS, 'intra'), (AR, 'inter'), (AG, 'intra')],
  'NI': [(RS, 'intra'), (AR, 'inter')],
  'NG': [(RS, 'intra'), (RS, 'inter')],
  'II': [(AR, 'inter')],
  'IG': [(RS, 'inter')],
  'GG': [],
}
UPDATE_AT_END = {  # Updated parameters from the optimizer's level to theirs.
  'NN': [],
  'II': [],
  'GG': [],
  'NI': [(AG, 'intra')],
  'NG': [(AG, 'inter'), (AG, 'intra')],
  'IG': [(AG, 'inter')],
}


def expected(code):
  p, g, o = code
  in_loop = IN_LOOP['params'][p] + IN_LOOP['grads'][g]
  at_end = SYNC_AT_END[g + o] + UPDATE_AT_END[p + o]
  return collections.Counter(in_loop), collections.Counter(at_end)


def census(text, min_elements):
  """(in loop, at end): counts of (kind, axis) of collectives on arrays."""
  in_loop, at_end = collections.Counter(), collections.Counter()
  for c in collectives(text, {'inter': 2, 'intra': 4}):
    if c.num_elements >= min_elements:  # Below: losses, weights, norms.
      (in_loop if c.in_loop else at_end)[c.kind, c.axis] += 1
  return in_loop, at_end


@functools.cache
def compiled_text(code, counts=None):
  def loss_fn(params, batch, rng):
    del rng
    return jnp.mean(jnp.square(jnp.tanh(batch @ params['w'])), axis=1)

  trainer = Trainer(
    loss_fn,
    optax.adamw(1e-2),
    mesh=make_mesh(intra=4),
    paro=code,
    num_micro_batches=4,
  )
  state = state_shapes(trainer, {'w': np.ones((32, 64), np.float32)})
  batch = np.ones((64, 32), np.float32)
  inputs = trainer.step_inputs(batch, counts)
  return trainer.compiled_step().lower(state, inputs).compile().as_text()


@pytest.mark.parametrize(
  'code',
  [
    code
    if code in ('NNN', 'NIG', 'IIG', 'GGG')
    else pytest.param(code, marks=pytest.mark.slow)
    for code in VALID_CODES
  ],
)
def test_collectives_are_those_of_the_code(code):
  in_loop, at_end = census(compiled_text(code), min_elements=200)
  want_in_loop, want_at_end = expected(code)
  assert in_loop == want_in_loop
  assert at_end == want_at_end


@pytest.mark.parametrize(
  'code',
  [
    code if code == 'IIG' else pytest.param(code, marks=pytest.mark.slow)
    for code in ELASTIC_CODES
  ],
)
def test_elastic_loops_never_cross_groups(code):
  text = compiled_text(code, counts=(4, 1))
  in_loop, _ = census(text, min_elements=0)  # Not even a scalar may cross.
  assert {axis for _, axis in in_loop} <= {'intra'}
  assert in_loop == expected(code)[0]


def test_the_census_sees_a_collective_that_does_not_belong():
  with pytest.raises(AssertionError):
    assert census(compiled_text('III'), 200) == expected('IIG')


def test_state_is_aliased_in_place():
  text = compiled_text('IIG')
  header = text.split('input_output_alias={')[1].split('entry_computation')[0]
  # step, params, count, mu, nu, rng.
  assert len(re.findall(r'\(\d+, \{\}, may-alias\)', header)) == 6
