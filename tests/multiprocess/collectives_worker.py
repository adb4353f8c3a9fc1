# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of tests/multiprocess/collectives_test.py; prints a line.

collectives_worker.py <lanes> <elements of a piece>
"""

import json
import sys

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import measure, staggered
from antjax.collectives.choose import Collectives
from antjax.jobs import job as job_lib
from antjax.mesh.mesh import GLOBAL_AXES, INTER, INTRA, make_mesh


def main(lanes, size):
  job_lib.initialize_distributed()
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
  result = {'counts': counts, 'seconds': [s.seconds for s in samples]}
  print('RESULT', json.dumps(result), flush=True)


if __name__ == '__main__':
  main(int(sys.argv[1]), int(sys.argv[2]))
