# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which code the plan takes, and why; shapes only, nothing is compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

from antjax.collectives.cost_model import Links
from antjax.jobs import plan as plan_job
from antjax.mesh.paro import ELASTIC_CODES, PaRO, VALID_CODES
from antjax.plan import planner, step_time

GB = 10**9
# The paper's cluster: 8 devices a group, 80 and 2000 Gbit/s each.
LINKS = Links(intra_bytes_per_s=250e9, uplink_bytes_per_s=8 * 10e9)


def f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def model(num_layers=32, dim=4096, num_lora=0):
  """About 7e9 parameters; of a stack each."""
  params = {
    'embed': f32(32000, dim),
    'layers': {'w': f32(num_layers, dim, 12 * dim)},
    'norm': f32(100),
  }
  if num_lora:
    params['layers']['lora'] = f32(num_layers, dim, num_lora)
  return params


def plan_of(params=None, **kwargs):
  settings = {
    'num_groups': 4,
    'group_size': 8,
    'links': LINKS,
    'num_micro_batches': 10,
    'compute_s': 0.0,
    'compute_dtype': jnp.bfloat16,
    'scanned': lambda name: name.startswith('layers'),
  }
  return planner.plan(params or model(), optax.adamw(1e-4), **settings | kwargs)


def test_rows_are_the_valid_codes_in_order():
  plan = plan_of()
  assert tuple(row.code for row in plan.rows) == VALID_CODES
  assert {r.code for r in plan.rows if r.is_elastic} == set(ELASTIC_CODES)
  assert all(row.fits for row in plan.rows)


def test_bytes_of_the_design_document():
  # Vp = 2 P, Vu = 2 T, Vg = 4 T; a bias of 100 elements stays whole.
  num = 32000 * 4096 + 32 * 4096 * 12 * 4096
  s, m = 10, 8
  A, E = 7 / 8, 3 / 4
  plan = plan_of()
  whole = 2 * E * 400 / m
  inter = {
    'NNN': 2 * E * 4 * num / m,
    'NII': 2 * E * 4 * num / m,
    'IIG': E * (4 + 2) * num / m,
    'IGG': E * (s * 4 + 2) * num / m,
    'ING': E * (4 + 2) * num / m,
  }
  for code, expected in inter.items():
    assert plan.row(code).inter_bytes_per_step == pytest.approx(
      expected + whole, rel=1e-9
    ), code
  # The stack is gathered twice, the embedding once.
  gathered = 2 * (32000 * 4096 + 2 * 32 * 4096 * 12 * 4096)
  assert plan.row('ING').intra_bytes == pytest.approx(A * gathered)


def test_the_guideline_takes_the_least_of_the_larger_time():
  plan = plan_of()
  assert plan.best.step_s == min(row.step_s for row in plan.rows)
  assert plan.best.code == 'NNG'  # Communication alone counts.
  assert plan.best.step_s == plan.best.comm_s
  assert 'NNG has the least' in plan.reason


def test_memory_decides_among_codes_that_are_as_fast():
  plan = plan_of(compute_s=1e5)
  assert plan.best.peak_bytes == min(row.peak_bytes for row in plan.rows)
  assert 'of the 14 codes as fast the least memory' in plan.reason


def test_a_step_waits_for_what_has_nothing_beside_it():
  plan = plan_of(compute_s=10.0)
  for row in plan.rows:
    assert 0 < row.exposed_s < row.comm_s or row.code.startswith('NN')
    assert row.step_s == pytest.approx(row.exposed_s + 100.0)
  # GGG moves most in its loop; at a step's end nothing hides NNG's exchange.
  ggg, nng = plan.row('GGG'), plan.row('NNG')
  assert nng.exposed_s == nng.comm_s
  assert ggg.exposed_s < 0.2 * ggg.comm_s
  assert 'exposed communication' in plan_of(device_bytes=16 * GB).reason


def test_the_devices_compiler_decides_what_hides():
  def exposed(kind, code='IIG', **kwargs):
    hiding = step_time.Hiding.of(kind, **kwargs)
    return plan_of(hiding=hiding).row(code).exposed_s

  assert exposed('h100') == exposed('TPU v6 lite') < exposed('TPU v5 lite')
  early = [exposed(x, early_sums=True) for x in ('v6e', 'h100')]
  assert early[0] < early[1]
  assert exposed('v6e') == exposed('TPU v6 lite')
  assert exposed('v5e') < exposed('cpu') == plan_of().row('IIG').comm_s
  assert exposed('h100', overlap=False) == exposed('cpu')
  # Sums leave early only where gradients are kept by group, and go to all.
  assert exposed('h100', early_sums=True) < exposed('h100')
  late = [exposed('h100', 'NNG', early_sums=x) for x in (True, False)]
  assert late[0] == late[1]
  # Parameters come late only where the update is split more finely.
  for code in ('NNG', 'GIG'):
    late = exposed('h100', code, late_params=True)
    assert (late < exposed('h100', code)) == (code == 'NNG')


def test_parameters_that_come_late_are_held_twice():
  late, plain = (plan_of(late_params=x) for x in (True, False))
  for row, other in zip(late.rows, plain.rows, strict=True):
    comes = PaRO.from_code(row.code).params_come_back
    assert (row.peak_bytes > other.peak_bytes) <= comes
    assert (row.state_bytes < other.state_bytes) == comes


def test_llama_7b_on_h100s_is_not_free_of_communication():
  # The larger of both times takes GGG, which moves most, for as fast as NNG.
  settings = plan_job.Config(
    model='llama-7b',
    inter=4,
    intra=8,
    intra_gbps=3600,
    uplink_gbps=3200,
    device_tflops=990,
    device='h100',
    device_gb=0,
    sequences=4,
  )
  links = plan_job.links_of(settings)
  plan = plan_job.make_plan(settings, links, 4, 8)
  nng, ggg = plan.row('NNG'), plan.row('GGG')
  assert ggg.comm_s < ggg.compute_s  # Hidden, the old way.
  assert nng.step_s < ggg.step_s
  assert ggg.step_s - ggg.compute_s < 0.1 * ggg.comm_s
  alone = dataclasses.replace(settings, overlap=False)
  late = plan_job.make_plan(alone, links, 4, 8)
  assert late.row('GGG').step_s == pytest.approx(9.58, rel=2e-3)
  assert late.row('NNG').step_s == pytest.approx(7.45, rel=2e-3)


def test_a_small_device_leaves_few_codes():
  plan = plan_of(device_bytes=16 * GB)
  assert not plan.row('NNG').fits
  assert plan.row('IIG').fits
  assert plan.best.code == 'IIG'
  assert 'fit into 16 GB a device' in plan.reason
  assert 'NNG would take' in plan.reason


def test_nothing_fits():
  plan = plan_of(device_bytes=GB)
  assert not any(row.fits for row in plan.rows)
  assert plan.best.code == 'GGG'
  assert plan.reason.startswith('No code fits into 1 GB a device: GGG needs')


def test_only_elastic_codes():
  plan = plan_of(elastic_only=True, compute_s=100.0)
  assert plan.best.code == 'IIG'


def test_without_overlap_times_add_up():
  plan = plan_of(hiding=step_time.NOTHING, compute_s=0.1)
  for row in plan.rows:
    assert row.step_s == pytest.approx(row.comm_s + 1.0)
  assert '+ compute 1 s' in plan.reason


def test_lora_on_a_model_too_large_to_replicate_takes_ing():
  params = model(num_layers=80, dim=8192, num_lora=288)  # 3 in 1000
  plan = plan_of(
    params,
    trainable=lambda name: 'lora' in name,
    device_bytes=80 * GB,
    activation_bytes=10 * GB,
  )
  assert not plan.row('NNG').fits
  assert plan.best.code == 'ING'
  zero_3 = plan.row('GGG')
  assert zero_3.step_s > 3 * plan.best.step_s


def test_frozen_leaves_have_no_gradient_and_no_state():
  plan = plan_of(trainable=lambda name: name == 'embed')
  row = plan.row('NNN')
  assert row.grads_bytes == 4 * 32000 * 4096
  # Master and two moments of 4 bytes each, and Adam's count.
  assert row.opt_state_bytes == 12 * 32000 * 4096 + 4


def test_the_uplink_is_shared_by_the_lanes_of_a_group():
  slow = plan_of(links=Links(250e9, 10e9))
  fast = plan_of(links=Links(250e9, 80e9))
  g = (slow.row('GGG').comm_s, fast.row('GGG').comm_s)
  inter = fast.row('GGG').inter_bytes_per_step / 10e9
  assert g[0] - g[1] == pytest.approx(7 * inter)


def test_latency_counts_each_message():
  links = Links(250e9, 80e9, intra_latency_s=1e-3)
  with_latency = plan_of(links=links).row('ING').comm_s
  # 10 micro-batches gather the embedding once, 32 layers twice; at the end two
  # leaves are scattered and the whole one reduced, in two phases.
  steps = 7 * (10 * (1 + 2 * 32) + 2 + 2)
  assert with_latency - plan_of().row('ING').comm_s == pytest.approx(
    steps * 1e-3
  )


def test_a_transient_is_a_layer_of_a_stack_or_the_whole_leaf():
  stacked = plan_of().row('IIG')
  kept = plan_of(regather=False).row('IIG')
  whole = plan_of(scanned=None).row('IIG')
  layer = 4096 * 12 * 4096
  # Kept layers are 31 more copies in bf16.
  assert kept.transient_bytes - stacked.transient_bytes == 31 * layer * 2
  assert whole.transient_bytes > stacked.transient_bytes


def test_the_frontier_is_not_beaten():
  plan = plan_of()
  front = plan.frontier()
  assert plan.best in front
  for row in front:
    assert not any(
      r.peak_bytes < row.peak_bytes and r.comm_s < row.comm_s for r in plan.rows
    )
  assert [r.peak_bytes for r in front] == sorted(
    (r.peak_bytes for r in front), reverse=True
  )


@pytest.mark.parametrize('shape', [(1, 8), (8, 1), (1, 1)])
def test_degenerate_meshes_move_nothing_along_an_axis_of_one(shape):
  plan = plan_of(num_groups=shape[0], group_size=shape[1])
  for row in plan.rows:
    assert (row.inter_bytes_per_step == 0) == (shape[0] == 1), row.code
    if shape[1] == 1:
      assert row.intra_bytes_per_step == 0


@pytest.mark.parametrize(
  'kwargs', [{'num_groups': 0}, {'num_micro_batches': 0}, {'compute_s': -1.0}]
)
def test_impossible_settings(kwargs):
  with pytest.raises(ValueError, match=next(iter(kwargs))):
    plan_of(**kwargs)
