# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The collectives between real processes, in chunks of a MiB too."""

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from antjax.collectives import measure, staggered
from antjax.collectives.choose import Collectives
from antjax.mesh.mesh import GLOBAL_AXES, INTER, INTRA, make_mesh
from tests.multiprocess.run_workers import run_workers

pytestmark = pytest.mark.multiprocess


def work(lanes, size):
  mesh = make_mesh(intra=lanes)
  num = mesh.size

  def local():
    """How many devices got the right result, by name."""
    me = lax.axis_index(GLOBAL_AXES)
    place = jnp.arange(num * size, dtype=jnp.float32) % 97
    addend = place + me.astype(jnp.float32)
    total = place * num + num * (num - 1) / 2
    mine = lax.dynamic_slice_in_dim(place, me * size, size)
    my_total = lax.dynamic_slice_in_dim(total, me * size, size)
    right = {}
    for name in ('ring', 'hierarchical', 'ho_ring'):
      how = Collectives(name)
      right[name, 'all_gather'] = how.all_gather(mine) == place
      right[name, 'all_reduce'] = how.all_reduce(addend) == total
      right[name, 'reduce_scatter'] = how.reduce_scatter(addend) == my_total
    if lanes > 1:
      right['staggered', 'all_reduce'] = staggered.all_reduce(addend) == total
    counts = {
      '/'.join(key): jnp.all(x).astype(jnp.int32) for key, x in right.items()
    }
    return lax.psum(counts, (INTER, INTRA))

  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=(), out_specs=jax.P(), check_vma=False
  )
  counts = {k: int(v) for k, v in jax.jit(mapped)().items()}
  samples = measure.samples(mesh, sizes_bytes=(1 << 12,), repeats=1)
  return {'counts': counts, 'seconds': [s.seconds for s in samples]}


@pytest.mark.parametrize(
  ('hosts', 'lanes', 'size'),
  [
    (2, 2, 301),
    (2, 4, 1 << 18),
    (4, 2, 1 << 18),
    (4, 4, 1001),  # Groups that cross processes.
  ],
)
@pytest.mark.slow
def test_every_device_of_every_process_gets_the_right_result(
  hosts, lanes, size
):
  devices = 4 if size == 301 else 8
  results = run_workers(work, lanes, size, hosts=hosts, num_devices=devices)
  for result in results:
    assert len(result['counts']) == 10
    assert set(result['counts'].values()) == {devices}, result
    # Measured by one, known to all.
    assert result['seconds'] == results[0]['seconds']
