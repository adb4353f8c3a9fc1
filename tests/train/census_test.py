# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which collective of which axis stands where in the compiled step.

The table is that of the design document: what a code moves inside the
micro-batch loop and what once at the step's end. XLA likes to hoist and sink
collectives out of loops, which would turn one code into another.
"""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from antjax.train.trainer import Trainer

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


def replica_groups(line):
  """The device groups of a collective, from its list or its iota form."""
  iota = re.search(
    r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line
  )
  if iota:
    rows, columns = int(iota[1]), int(iota[2])
    dims = [int(d) for d in iota[3].split(',')]
    ids = np.arange(np.prod(dims)).reshape(dims)
    if iota[4]:
      ids = ids.transpose([int(d) for d in iota[4].split(',')])
    return ids.reshape(rows, columns).tolist()
  mesh = re.search(r'replica_groups=mesh\[(.*?)\].*?\{(.*?)\}', line)
  if mesh:
    axes = re.findall(r"'(\w+)'=(\d+)", mesh[1])
    over = re.findall(r"'(\w+)'", mesh[2])
    ids = np.arange(8).reshape([int(n) for _, n in axes])
    last = [i for i, (name, _) in enumerate(axes) if name in over]
    first = [i for i in range(len(axes)) if i not in last]
    ids = ids.transpose(first + last)
    size = int(np.prod([int(axes[i][1]) for i in last]))
    return ids.reshape(-1, size).tolist()
  plain = re.search(r'replica_groups=\{(\{.*?\})\}', line)
  return [
    [int(i) for i in group.split(',')]
    for group in re.findall(r'\{([\d,]+)\}', plain[1])
  ]


AXES = {
  ((0, 1, 2, 3), (4, 5, 6, 7)): 'intra',
  ((0, 4), (1, 5), (2, 6), (3, 7)): 'inter',
  (tuple(range(8)),): 'both',
}


def census(text, min_elements):
  """(in loop, at end): counts of (kind, axis) of collectives on arrays."""
  in_loop, at_end = collections.Counter(), collections.Counter()
  for line in text.splitlines():
    kind = re.search(rf' ({AG}|{RS}|{AR})(?:-start)?\(', line)
    if not kind:
      continue
    result = line.split(' = ', 1)[1].split(kind[0])[0]
    shapes = re.findall(r'\w+\[([\d,]*)\]', result)
    sizes = [[int(d or 1) for d in dims.split(',')] for dims in shapes]
    size = max(int(np.prod(dims)) for dims in sizes)
    if size < min_elements:
      continue  # Scalars: losses, weights, norms.
    groups = tuple(tuple(sorted(g)) for g in replica_groups(line))
    place = in_loop if 'while/body' in line else at_end
    place[kind[1], AXES.get(tuple(sorted(groups)), 'other')] += 1
  return in_loop, at_end


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
  state = trainer.init({'w': np.ones((32, 64), np.float32)})
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
  text = compiled_text(code, counts=[4, 1])
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
  assert len(re.findall(r'\(\d+, \{\}, may-alias\)', header)) == len(
    jax.tree.leaves(
      Trainer(
        lambda p, b, r: b,
        optax.adamw(1e-2),
        mesh=make_mesh(intra=4),
        paro='IIG',
      ).init({'w': np.ones((32, 64), np.float32)})
    )
  )
