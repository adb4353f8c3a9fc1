# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Steps of five jobs under every code, compiled for two pods, equal the plan.

`make test-slow PART=pods` installs XLA's compilers; no device is needed.
"""

import gc
import re

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import pytest

from antjax.embedding import pooled
from antjax.jobs import compile_for_pod, pod_models
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.manual import manual
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from antjax.plan.pod_target import Target
from tests.jobs.compile_for_pod_test import config, needs_cuda, needs_libtpu

H100, V6E = 'h100:2x8', 'v6e:2x2'
JOBS = ('tiny', 'gmeta', 'clicks', 'bahe', 'llm_rec')  # tiny: of the job lm.
# The exceptions: remarks of lines that differ from the plan and count as equal,
# with the jobs that have them. docs/plan.md explains them.
_EVERYWHERE = {
  'losses, norms, leaves kept whole': JOBS,
  'rows asked for, and how many rounds that takes': ('gmeta', 'clicks', 'bahe'),
}
_EXCEPTIONS = {
  H100: _EVERYWHERE,
  V6E: _EVERYWHERE
  | {
    'padded to tiles': JOBS,
    'the compiler takes an all-reduce and keeps a piece': ('clicks',),
    'edges of pieces that are no whole tiles': ('clicks',),
  },
}


@pytest.fixture(autouse=True)
def _the_program_is_forgotten():
  yield
  jax.clear_caches()
  gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize('code', VALID_CODES)
@pytest.mark.parametrize('job', JOBS)
@pytest.mark.parametrize(
  'topology',
  [pytest.param(H100, marks=needs_cuda), pytest.param(V6E, marks=needs_libtpu)],
)
def test_the_step_of_each_job_under_each_code_is_as_planned(
  topology, job, code
):
  result = compile_for_pod.report(
    config(topology=topology, model=job, paro=code, sequences=2, seq_len=256)
  )
  assert result['mesh'] == ([2, 8] if topology == H100 else [2, 4])
  assert result['equals_plan'] and result['fits']
  assert result['crosses_groups_in_loop'] == (code not in ELASTIC_CODES)
  for line in result['lines']:
    if line['found'] != line['planned']:
      assert job in _EXCEPTIONS[topology].get(line['note'], ()), line


@pytest.mark.slow
@pytest.mark.parametrize(
  'topology',
  [pytest.param(H100, marks=needs_cuda), pytest.param(V6E, marks=needs_libtpu)],
)
def test_the_kernel_of_lookups_compiles_in_gradients_of_both_orders(topology):
  target = Target.of(topology, 1)
  pod_models.prepare(target)
  mesh = mesh_lib.make_mesh(devices=target.devices(), intra=target.group_size)
  everywhere = NamedSharding(mesh, P(mesh_lib.GLOBAL_AXES))
  num = mesh.devices.size

  def loss(rows, indices, weights):
    found = pooled.pool_rows(rows, indices, weights, engine='kernel')
    return sum(jnp.sum(jnp.sin(x)) for x in found)

  def after_a_step(rows, indices, weights):
    return loss(rows - jax.grad(loss)(rows, indices, weights), indices, weights)

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=everywhere)

  grads = manual(
    jax.grad(after_a_step, (0, 2)),
    mesh,
    in_specs=P(mesh_lib.GLOBAL_AXES),
    out_specs=P(mesh_lib.GLOBAL_AXES),
  )
  sizes = (num * 64, 3), (num * 64, 1, 2)
  args = (
    shape(num * 100, 128),
    [shape(*size, dtype=jnp.int32) for size in sizes],
    [shape(*size) for size in sizes],
  )
  platform = 'cuda' if target.is_gpu else 'tpu'
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    lowered = jax.jit(grads).trace(*args).lower(lowering_platforms=(platform,))
  name = 'mosaic_gpu' if target.is_gpu else 'tpu_custom_call'
  # Sums and two for each gradient: of the step and of the loss after it.
  assert lowered.compile().as_text().count(f'custom_call_target="{name}') >= 6


@pytest.mark.parametrize(
  ('topology', 'ring', 'gather', 'all_reduce'),
  [
    ('v5e:1x4', 45, 45, 45),
    ('v5e:4x4', 90, 90, 90),  # Two lines.
    ('v5e:16x16', 90, 90, 180),
    ('v5e:8x16', 90, 90, 90),  # One of them a line.
    ('v5p:2x2x4', 180, 180, 270),
    ('v5p:4x4x4', 180, 270, 540),
    ('tpu7x:2x2x1', 210, 210, 210),  # 7/8 of 180 are 3/4 of 210.
  ],
)
def test_an_all_reduce_takes_all_axes_of_a_slice(
  topology, ring, gather, all_reduce
):
  target = Target.of(topology)
  links = target.links(target.group_size)
  assert [
    links.intra_bytes_per_s,
    links.intra_gather_bytes_per_s,
    links.intra_all_reduce_bytes_per_s,
  ] == pytest.approx([x * 1e9 for x in (ring, gather, all_reduce)])
  assert target.links(2).intra_all_reduce_bytes_per_s is None


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(
  ('topology', 'gathers', 'sums'),
  [
    ('v5e:4x4', '1DAllGather', '2 axes'),
    ('v5e:16x16', '1DAllGather', '2 axes'),
    ('v5p:2x2x4', '1DAllGather', '3 axes'),
    ('v5p:4x4x4', '3 axes', '3 axes'),  # As an all-reduce.
  ],
)
def test_libtpu_gathers_on_one_ring_and_sums_on_all_axes(
  topology, gathers, sums
):
  target = Target.of(topology, 1)
  mesh = mesh_lib.make_mesh(intra=target.group_size, devices=target.devices())

  def algorithm(fn, spec):
    mapped = jax.shard_map(
      fn, mesh=mesh, in_specs=spec, out_specs=P(), check_vma=False
    )
    x = jax.ShapeDtypeStruct(
      (4096, 4096), 'float32', sharding=NamedSharding(mesh, spec)
    )
    text = jax.jit(mapped).lower(x).compile().as_text()
    if axes := re.search(r'num_dims:(\d)', text):
      return f'{axes[1]} axes'
    return re.search(r'"emitter":"(1DAllGather)', text)[1]

  def gather(x):
    return lax.all_gather(x, mesh_lib.INTRA, tiled=True)

  assert algorithm(gather, P(mesh_lib.INTRA)) == gathers
  assert algorithm(lambda x: lax.psum(x, mesh_lib.INTRA), P()) == sums
