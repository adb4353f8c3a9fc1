# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sums of rows by bags, by XLA or by a kernel of the device.

A bag is a row of ids, of which padding is negative. The vector of bag g is the
sum over its entries n of w_n rows[index_n]. The sum of products

  T(rows, w, x) = sum_n w_n <rows[index_n], x[bag of n]>

is linear in each of its three arguments, and its derivatives are the three
functions here: `_pool` (by x), `_add` (by rows) and `_dots` (by w). Each is the
derivative of another, so gradients of every order are made of the same kernel.

A kernel sums bags that follow each other in a list of entries. Sums by row are
such bags too: entries are sorted by row, the runs of a row are cut into bags of
a bounded size, and the sums of a row's bags are summed. The order of all sums
is fixed.
"""

from collections.abc import Callable, Sequence
import functools
from typing import get_args, Literal

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.embedding import pooled_gpu, pooled_sparse_core
from antjax.embedding.lookup import num_below, take_rows

# Shape suffixes: R = rows, D = width, N = entries of all bags, G = bags, B =
# bags of one kind, K = entries of each of these.

Engine = Literal['xla', 'kernel']
Shapes = tuple[tuple[int, int], ...]  # (bags, entries of each), by kind.


# Function (rows [R, D], index [N], weights [N] or None, starts [G + 1]) -> sums
# [G, D] of the entries from starts[g] to starts[g + 1], in the dtype of rows.
Kernel = Callable[..., jax.Array]
_RUN = 64  # Most entries of a row in a bag.


def pool_rows(
  rows_RD: jax.Array,
  indices: Sequence[jax.Array],
  weights: Sequence[jax.Array] | None = None,
  *,
  engine: Engine | Kernel = 'xla',
) -> list[jax.Array]:
  """Sums of rows by bags of several kinds, in one call of a kernel.

  Has gradients of every order with respect to rows and weights, in reverse
  mode. Products and sums are in float32.

  Args:
    rows_RD: float32 or bfloat16.
    indices: int32 [..., K] for each kind of bags; entries below 0, or of R or
      more, add nothing.
    weights: Factors of the entries, of the shapes of `indices`. None: 1.
    engine: 'xla' gathers rows and sums them. 'kernel' is the kernel of the
      device, see `kernel_for`, or XLA's form if there is none for such rows.

  Returns:
    Arrays [..., D] of the dtype of rows, one for each kind of bags.

  Raises:
    ValueError: The engine is unknown, or weights have other shapes.
  """
  if not callable(engine) and engine not in get_args(Engine):
    raise ValueError(f'engine={engine!r}: unknown; use xla or kernel.')
  shapes = tuple((int(np.prod(x.shape[:-1])), x.shape[-1]) for x in indices)
  if weights is not None:
    for x, w in zip(indices, weights, strict=True):
      if x.shape != w.shape:
        raise ValueError(
          f'pool_rows: indices {x.shape} need weights of that shape; got'
          f' {w.shape}.'
        )
  index_N = jnp.concatenate([x.reshape(-1) for x in indices])
  weights_N = None
  if weights is not None:
    weights_N = jnp.concatenate([w.reshape(-1) for w in weights])
  kernel = engine if callable(engine) else None
  if engine == 'kernel':
    kernel = kernel_for(rows_RD.shape[1], device_kind())
  if kernel is None or not index_N.size:
    sums_GD = _pool_by_xla(rows_RD, index_N, weights_N, shapes)
  else:
    sums_GD = _pool(kernel, shapes, rows_RD, index_N, weights_N)
  ends = np.cumsum([num for num, _ in shapes])[:-1]
  parts = jnp.split(sums_GD, ends)
  return [
    part.reshape(*x.shape[:-1], -1)
    for x, part in zip(indices, parts, strict=True)
  ]


def look_up(
  rows_RD: jax.Array,
  indices: Sequence[jax.Array],
  are_summed: Sequence[bool],
  engine: Engine | Kernel,
) -> list[jax.Array]:
  """Rows [..., D] of each of several arrays [...], or sums over its last axis.

  One gather, or one kernel if there are sums: so its transpose is one, too.
  """
  if any(are_summed):
    bags = [
      x if is_summed else x[..., None]
      for x, is_summed in zip(indices, are_summed, strict=True)
    ]
    return pool_rows(rows_RD, bags, engine=engine)
  index_N = jnp.concatenate([x.reshape(-1) for x in indices])
  found_ND = take_rows(rows_RD, _outside(index_N, rows_RD.shape[0]))
  parts = jnp.split(found_ND, np.cumsum([x.size for x in indices])[:-1])
  return [
    part.reshape(*x.shape, -1) for x, part in zip(indices, parts, strict=True)
  ]


def device_kind() -> str:
  """Kind of the devices that are compiled for: of the mesh, or the default."""
  mesh = jax.sharding.get_abstract_mesh()
  device = getattr(mesh, 'abstract_device', None)
  return device.device_kind if device else jax.devices()[0].device_kind


def kernel_for(dim: int, kind: str) -> Kernel | None:
  """The kernel for rows of a width on a kind of device; None: XLA's form.

  NVIDIA GPUs from Hopper on have that of `pooled_gpu`, TPUs with SparseCores
  that of `pooled_sparse_core`.
  """
  for module in (pooled_gpu, pooled_sparse_core):
    if module.is_for(dim, kind):
      return module.sums
  return None


def _bags_of(shapes: Shapes) -> jax.Array:
  """The bag of each entry, int32 [N]."""
  first, found = 0, []
  for num, size in shapes:
    bags_BK = lax.broadcasted_iota(jnp.int32, (num, size), 0)
    found.append((first + bags_BK).reshape(-1))
    first += num
  return jnp.concatenate(found)


def _outside(index_N: jax.Array, num_rows: int) -> jax.Array:
  """Indices whose padding is `num_rows`."""
  return jnp.where(index_N < 0, num_rows, index_N)


def _pool_by_xla(rows_RD, index_N, weights_N, shapes):
  found_ND = take_rows(rows_RD, _outside(index_N, rows_RD.shape[0]))
  found_ND = found_ND.astype(jnp.float32)
  if weights_N is not None:
    found_ND *= weights_N.astype(jnp.float32)[:, None]
  ends = np.cumsum([num * size for num, size in shapes])[:-1]
  parts = [
    part.reshape(*shape, -1).sum(axis=1)
    for part, shape in zip(jnp.split(found_ND, ends), shapes, strict=True)
  ]
  return jnp.concatenate(parts).astype(rows_RD.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pool(kernel, shapes, rows_RD, index_N, weights_N):
  starts, first = [], 0
  for num, size in shapes:
    starts.append(first + size * jnp.arange(num, dtype=jnp.int32))
    first += num * size
  starts_G = jnp.concatenate([*starts, jnp.full(1, first, jnp.int32)])
  return kernel(rows_RD, index_N, weights_N, starts_G)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _add(kernel, shapes, num_rows, x_GD, index_N, weights_N):
  """Sums [R, D], by index, of weights times the vector of the entry's bag."""
  is_there_N = (index_N >= 0) & (index_N < num_rows)
  lists = [jnp.where(is_there_N, index_N, num_rows), _bags_of(shapes)]
  if weights_N is not None:
    lists.append(weights_N)
  index_N, bag_N, *rest = lax.sort(lists, num_keys=1, is_stable=True)
  place_N = jnp.arange(index_N.size, dtype=jnp.int32)
  is_new_N = (index_N != jnp.roll(index_N, 1)) | (place_N % _RUN == 0)
  run_N = jnp.cumsum(is_new_N, dtype=jnp.int32) - 1
  num_runs = min(index_N.size, num_rows + 1 + -(-index_N.size // _RUN))
  starts_M = num_below(run_N, jnp.arange(num_runs + 1, dtype=jnp.int32))
  weights_N = rest[0] if rest else None
  sums_MD = kernel(x_GD.astype(jnp.float32), bag_N, weights_N, starts_M)
  row_M = index_N.at[starts_M[:-1]].get(mode='fill', fill_value=num_rows)
  starts_R = num_below(row_M, jnp.arange(num_rows + 1, dtype=jnp.int32))
  every_M = jnp.arange(num_runs, dtype=jnp.int32)
  return kernel(sums_MD, every_M, None, starts_R).astype(x_GD.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dots(kernel, shapes, rows_RD, index_N, x_GD):
  """Derivative by the weights, float32 [N]; by XLA."""
  del kernel
  found_ND = take_rows(rows_RD, _outside(index_N, rows_RD.shape[0]))
  x_ND = x_GD.astype(jnp.float32)[_bags_of(shapes)]
  return jnp.sum(found_ND.astype(jnp.float32) * x_ND, axis=1)


def _pool_forward(kernel, shapes, rows_RD, index_N, weights_N):
  kept = rows_RD, index_N, weights_N
  return _pool(kernel, shapes, *kept), kept


def _pool_backward(kernel, shapes, kept, x_GD):
  rows_RD, index_N, weights_N = kept
  num_rows, dots_N = rows_RD.shape[0], None
  if weights_N is not None:
    dots_N = _dots(kernel, shapes, rows_RD, index_N, x_GD)
    dots_N = dots_N.astype(weights_N.dtype)
  grads_RD = _add(kernel, shapes, num_rows, x_GD, index_N, weights_N)
  return grads_RD, None, dots_N


def _add_forward(kernel, shapes, num_rows, x_GD, index_N, weights_N):
  kept = x_GD, index_N, weights_N
  return _add(kernel, shapes, num_rows, *kept), kept


def _add_backward(kernel, shapes, num_rows, kept, rows_RD):
  del num_rows
  x_GD, index_N, weights_N = kept
  dots_N = None
  if weights_N is not None:
    dots_N = _dots(kernel, shapes, rows_RD, index_N, x_GD)
    dots_N = dots_N.astype(weights_N.dtype)
  return _pool(kernel, shapes, rows_RD, index_N, weights_N), None, dots_N


def _dots_forward(kernel, shapes, rows_RD, index_N, x_GD):
  kept = rows_RD, index_N, x_GD
  return _dots(kernel, shapes, *kept), kept


def _dots_backward(kernel, shapes, kept, weights_N):
  rows_RD, index_N, x_GD = kept
  num_rows = rows_RD.shape[0]
  return (
    _add(kernel, shapes, num_rows, x_GD, index_N, weights_N),
    None,
    _pool(kernel, shapes, rows_RD, index_N, weights_N),
  )


_pool.defvjp(_pool_forward, _pool_backward)
_add.defvjp(_add_forward, _add_backward)
_dots.defvjp(_dots_forward, _dots_backward)
