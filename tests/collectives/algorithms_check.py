# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every algorithm against `lax`, on one mesh; a program for more devices.

algorithms_check.py <groups> <lanes> ...   # Pairs; one line for each.
"""

import os
import sys

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.collectives.choose import Collectives
from antjax.mesh.mesh import BATCH_AXES, GLOBAL_AXES, INTER, INTRA, make_mesh

DTYPES = ('float32', 'bfloat16', 'int32')
ALGORITHMS = ('ring', 'hierarchical', 'ho_ring')
PIECE = (3, 1, 5)  # Odd, and nothing divides.


def small_integers(shape, seed):
  """Sums over 16 devices are exact, whatever the dtype and order."""
  return np.random.default_rng(seed).integers(-8, 9, shape)


def in_shard_map(fn, n, m, *arrays):
  """`fn` on each device's row of arrays [N, ...]; its results, stacked."""
  devices = jax.devices()[: n * m]
  mesh = make_mesh(intra=m, devices=devices)

  def local(*rows):
    results = fn(*jax.tree.map(lambda x: x[0], rows))
    return jax.tree.map(lambda x: x[None], results)

  mapped = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=P(BATCH_AXES),
    out_specs=P(BATCH_AXES),
    check_vma=False,
  )
  return jax.jit(mapped)(*arrays)


def differences(n, m, dtype, dims=(0, 1, 2)):
  """Names of (algorithm, op, dim) that do not equal lax bit by bit."""
  num = n * m

  def everything(piece, addends, odd):
    got, want = {}, {}
    for dim in dims:
      want['all_gather', dim] = lax.all_gather(
        piece, GLOBAL_AXES, axis=dim, tiled=True
      )
      want['reduce_scatter', dim] = lax.psum_scatter(
        addends[dim], GLOBAL_AXES, scatter_dimension=dim, tiled=True
      )
    want['all_reduce', 0] = lax.psum(odd, (INTER, INTRA))
    for name in ALGORITHMS:
      how = Collectives(name)
      for dim in dims:
        got[name, 'all_gather', dim] = how.all_gather(piece, dim)
        got[name, 'reduce_scatter', dim] = how.reduce_scatter(addends[dim], dim)
      got[name, 'all_reduce', 0] = how.all_reduce(odd)
    flat = {'/'.join(map(str, key)): x for key, x in got.items()}
    return flat, {'/'.join(map(str, key)): x for key, x in want.items()}

  piece = small_integers((num, *PIECE), 0)
  addends = [
    small_integers(
      (num, *(d * num if i == dim else d for i, d in enumerate(PIECE))), dim
    )
    for dim in range(3)
  ]
  odd = small_integers((num, 7, 3), 5)
  cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), (piece, addends, odd))
  got, want = in_shard_map(everything, n, m, *cast)
  wrong = []
  for name, x in got.items():
    reference = want[name.split('/', 1)[1]]
    if x.dtype != reference.dtype or x.shape != reference.shape:
      wrong.append(f'{name}: {x.dtype}{x.shape}')
    elif not np.array_equal(np.asarray(x), np.asarray(reference)):
      wrong.append(name)
  return wrong


if __name__ == '__main__':
  os.environ['JAX_PLATFORMS'] = 'cpu'
  sizes = [int(arg) for arg in sys.argv[1:]]
  pairs = list(zip(sizes[::2], sizes[1::2]))
  jax.config.update('jax_num_cpu_devices', max(n * m for n, m in pairs))
  for groups, lanes in pairs:
    found = [name for d in DTYPES for name in differences(groups, lanes, d)]
    print(f'RESULT {groups}x{lanes}: {found or "equal"}', flush=True)
