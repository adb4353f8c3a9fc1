# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The programs of the host-loop form: what they move, when they compile."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from antjax.plan.census import collectives
from antjax.train.elastic_step import ElasticStep
from antjax.train.micro_steps import local_groups
from antjax.train.trainer import Trainer
from tests.cases import slow_but
from tests.train.elastic_cases import (
  batches,
  init_params,
  make_trainer,
  micro_batch,
  parts_of,
)


@pytest.mark.parametrize('code', slow_but(ELASTIC_CODES, 'NIG', 'IIG'))
def test_micro_batches_never_cross_groups_and_finish_does_all_the_rest(code):
  """The collectives of the in-graph form, each in its program."""
  trainer = Trainer(
    lambda params, batch, rng: jnp.mean(jnp.tanh(batch @ params['w']), axis=1),
    optax.adamw(1e-2),
    mesh=make_mesh(intra=4),
    paro=code,
    num_micro_batches=4,
  )
  state = trainer.init({'w': np.ones((32, 64), np.float32)})
  step = trainer.elastic_step()
  step.begin(state)
  local = step.local
  micro = local.place(np.ones((16, 32), np.float32))
  local.add(micro)
  args = local._carry, local._view, local._device, micro, local._numbers[0]
  args += (None,)  # There are no constants.
  in_micro = census(local._add.lower(*args).compile().as_text(), 0)
  said = local.put(np.zeros((8, 6), np.float32))
  lowered = step._finish.lower(
    state, step._join([local.end()]), said, {}, {}, step._scale(1.0)
  )
  text = lowered.compile().as_text()
  inputs = trainer.step_inputs(np.ones((64, 32), np.float32))
  whole = trainer.compiled_step().lower(state, inputs).compile().as_text()
  found = collectives(whole, {'inter': 2, 'intra': 4})
  # Below 200 elements: losses, weights, norms; none of them in a micro-batch.
  assert in_micro == counted(c for c in found if c.in_loop)
  assert {axis for _, axis in in_micro} <= {'intra'}
  assert census(text, 200) == counted(
    c for c in found if not c.in_loop and c.num_elements >= 200
  )
  # The state is changed in place.
  header = text.split('input_output_alias={')[1].split('entry_computation')[0]
  assert header.count('may-alias') == len(jax.tree.leaves(state))


def census(text, min_elements):
  found = collectives(text, {'inter': 2, 'intra': 4})
  return counted(c for c in found if c.num_elements >= min_elements)


def counted(found):
  return collections.Counter((c.kind, c.axis) for c in found)


def test_arrays_go_from_mesh_to_mesh_without_copies_and_stay_in_place():
  trainer = make_trainer('IIG', 2, is_scanned=False)
  state = trainer.init(init_params(), seed=3)
  step = ElasticStep(trainer.step_spec(), parts_of(2, 2)[0])
  (batch,) = batches(1)

  def places(tree):
    return [
      {s.data.unsafe_buffer_pointer() for s in x.addressable_shards}
      for x in jax.tree.leaves(tree)
    ]

  step.begin(state)
  before = places((state.params, state.opt_state))
  carries = [part._carry for part in step.parts]
  sums = places(carries)
  for part in step.parts:
    for view, whole in zip(
      places(part._view[0]), places(state.params), strict=True
    ):
      assert len(view) == 4
      assert view <= whole
  for part in step.parts:
    part.add(part.place(micro_batch(batch, np.arange(4), 0)))
  joined = places(step._join([part._carry for part in step.parts]))
  state, _ = step.finish(state, {'num_valid': 1.0}, {})
  assert places((state.params, state.opt_state)) == before
  step.begin(state)
  assert places([part._carry for part in step.parts]) == sums
  half = len(sums) // 2
  for whole, one, two in zip(joined, sums[:half], sums[half:], strict=True):
    assert whole == one | two


def test_other_counts_and_scales_compile_nothing_again():
  trainer = make_trainer('IIG', 2)
  state = trainer.init(init_params(), seed=3)
  groups, devices = parts_of(2, 2)
  step = ElasticStep(trainer.step_spec(), groups)
  (batch,) = batches(1)
  for counts, scale in (((1, 2), 1.0), ((0, 4), 0.5), ((3, 3), 2.0)):
    step.begin(state)
    for part, mine, count in zip(step.parts, devices, counts, strict=True):
      for i in range(count):
        part.add(part.place(micro_batch(batch, mine, i)))
    state, _ = step.finish(state, {'num_valid': 1.0}, {}, lr_scale=scale)
  assert step._finish._cache_size() == 1
  assert [part._add._cache_size() for part in step.parts] == [1, 1]


def test_plans_are_the_least_and_the_most():
  trainer = make_trainer('NNN', 4)
  state = trainer.init(init_params())
  step = ElasticStep(trainer.step_spec(), [[0], [1]])
  for plans in ((2, 5), (3, 3)):
    step.begin(state)
    state, m = step.finish(state, *({'plan': p} for p in plans))
    np.testing.assert_array_equal(m['plans'], [plans[0], -plans[1]])


def test_a_group_must_lie_inside_a_process(monkeypatch):
  mesh = make_mesh(intra=4)
  assert local_groups(mesh) == [0, 1]

  class Device:
    def __init__(self, process_index):
      self.process_index = process_index

  class FakeMesh:
    axis_names = ('inter', 'intra')
    devices = np.array([[Device(0), Device(0)], [Device(1), Device(2)]])

  with pytest.raises(ValueError, match=r'group 1 of 2 .* processes \[1, 2\]'):
    local_groups(FakeMesh)


@pytest.mark.parametrize(
  'code', slow_but(sorted(set(VALID_CODES) - set(ELASTIC_CODES)), 'GIG')
)
def test_codes_that_are_not_elastic_are_refused(code):
  trainer = make_trainer(code, 4)
  trainer.init(init_params())
  with pytest.raises(ValueError, match='Elastic codes are NNN NNI'):
    trainer.elastic_step()


def test_a_micro_batch_that_cannot_be_split_is_refused():
  trainer = make_trainer('IIG', 4)
  trainer.init(init_params())
  batch = {'tasks': np.zeros((8, 6)), 'x': np.zeros((12, 6))}
  with pytest.raises(ValueError, match=r"batch\['x'\] has shape \(12, 6\)"):
    trainer.elastic_step().local.place(batch)
