# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Picks the algorithm of a collective over both axes, and calls it."""

import dataclasses
import functools
import math
from typing import Any, cast

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import (
  blocks,
  cost_model,
  hierarchical,
  ho_ring,
  narrow,
  ring,
  staggered,
)
from antjax.collectives.varying import to_varying
from antjax.mesh.mesh import GLOBAL_AXES, INTER, INTRA
from antjax.mesh.paro import Level, PaRO, VALID_CODES

# With fewer lanes no lane is left to overlap with those that exchange between
# groups; smaller messages cost more latency than they hide.
_MIN_STAGGERED_LANES = 4
_MIN_STAGGERED_BYTES = 8 << 20
_CPU_BUCKET_BYTES = 4 << 20
_RINGS: dict[str, Any] = {'ring': ring, 'ho_ring': ho_ring}


@dataclasses.dataclass(frozen=True)
class Collectives:
  """Collectives over both mesh axes; call its methods in `shard_map`.

  Attributes:
    algorithm: 'xla' (XLA's own), 'ring', 'hierarchical', 'ho_ring', or 'auto':
      for each message the one that `cost_model` predicts to be fastest.
    links: Speeds of the links, for 'auto'.
    payload_dtype: Dtype that wider floating-point arrays are rounded to when
      sent, such as 'bfloat16'. Sums are computed in at least fp32. None: no
      rounding.
    bucket_bytes: Maximum bytes of a message that combines leaves of a tree,
      counted over the whole mesh. 0: one message per leaf.
    sums_dtype: Dtype in which gradients are sent to be summed, inside groups
      and between them, by codes that keep groups' sums (second letter I):
      'bfloat16', or 'int8' with error feedback, see `narrow`. None: fp32.
  """

  algorithm: str = 'xla'
  links: cost_model.Links | None = None
  payload_dtype: Any = None
  bucket_bytes: int = 0
  sums_dtype: str | None = None

  def __post_init__(self) -> None:
    known = (*cost_model.ALGORITHMS, 'auto')
    if self.algorithm not in known:
      raise ValueError(
        f'Collectives(algorithm={self.algorithm!r}): use one of '
        f'{", ".join(known)}.'
      )
    if self.algorithm == 'auto' and self.links is None:
      raise ValueError(
        "Collectives(algorithm='auto') needs links=, the speeds of the links: "
        'cost_model.load(path) of what launch/plan.py --measure wrote, '
        'measure.measure(mesh), or Links(...) with known figures.'
      )
    if self.payload_dtype is not None:
      dtype = jnp.dtype(self.payload_dtype)
      if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
          f'Collectives(payload_dtype={dtype}): needed is a floating-point '
          "dtype, such as 'bfloat16', or None."
        )
      if self.algorithm == 'xla':
        raise ValueError(
          f"Collectives(algorithm='xla', payload_dtype={dtype}): XLA's own "
          "collectives send what they are given; use algorithm='hierarchical', "
          "'ho_ring', 'ring' or 'auto'."
        )
    if self.sums_dtype not in (None, *narrow.DTYPES):
      raise ValueError(
        f'Collectives(sums_dtype={self.sums_dtype!r}): use one of '
        f'{", ".join(narrow.DTYPES)}, or None for fp32.'
      )
    if self.bucket_bytes < 0:
      raise ValueError(
        f'Collectives(bucket_bytes={self.bucket_bytes}) must be at least 0.'
      )

  @property
  def is_typed(self) -> bool:
    """Whether `shard_map` can tell which results are equal on all devices.

    A result of `ppermute` counts as differing, so that `check_vma` must be off.
    """
    two_phase = self.algorithm == 'hierarchical' and self.payload_dtype is None
    return self.algorithm == 'xla' or two_phase

  def pick(
    self, op: cost_model.Op, num_bytes: int, num_groups: int, group_size: int
  ) -> cost_model.Algorithm:
    """Picks the algorithm for an array of `num_bytes` over the whole mesh."""
    if self.algorithm != 'auto':
      return cast(cost_model.Algorithm, self.algorithm)
    assert self.links is not None
    cluster = cost_model.Cluster(self.links, num_groups, group_size)
    fastest = cluster.fastest(op, num_bytes)
    if fastest == 'xla' and self.payload_dtype is not None:
      return 'hierarchical'
    return fastest

  # These equal `lax.all_gather`, `lax.psum_scatter` and `lax.psum` over
  # `GLOBAL_AXES`, tiled, but sum in another order than XLA.

  def all_gather(self, x: jax.Array, dim: int = 0) -> jax.Array:
    """Gathers the shards of all devices along `dim`."""
    dim = blocks.dim_of(x, dim, 'all_gather')
    n, m = lax.axis_size(INTER), lax.axis_size(INTRA)
    picked = self.pick('all_gather', _bytes(x) * n * m, n, m)
    if picked == 'xla':
      return lax.all_gather(
        to_varying(x), GLOBAL_AXES, axis=dim, tiled=True, to='invarying'
      )
    if picked == 'hierarchical':
      return hierarchical.all_gather(x, dim, self.payload_dtype)
    mine = to_varying(x).reshape(-1)
    whole = _RINGS[picked].gather(mine, self.payload_dtype)
    return blocks.join(whole, x.shape, dim)

  def reduce_scatter(self, x: jax.Array, dim: int = 0) -> jax.Array:
    """Sums whole arrays over all devices; each keeps its shard of `dim`.

    The number of devices must divide that dim.
    """
    dim = blocks.dim_of(x, dim, 'reduce_scatter')
    n, m = lax.axis_size(INTER), lax.axis_size(INTRA)
    picked = self.pick('reduce_scatter', _bytes(x), n, m)
    x = blocks.addend(x)
    if picked == 'xla':
      return lax.psum_scatter(x, GLOBAL_AXES, scatter_dimension=dim, tiled=True)
    whole = blocks.split(x, dim, n * m, 'reduce_scatter')
    if picked == 'hierarchical':
      return hierarchical.reduce_scatter(x, dim, self.payload_dtype)
    mine = _RINGS[picked].scatter(whole, self.payload_dtype)
    shape = [d // (n * m) if i == dim else d for i, d in enumerate(x.shape)]
    return mine.astype(x.dtype).reshape(shape)

  def all_reduce(self, x: jax.Array) -> jax.Array:
    """Sums arrays of any shape over all devices."""
    n, m = lax.axis_size(INTER), lax.axis_size(INTRA)
    picked = self.pick('all_reduce', _bytes(x), n, m)
    x = blocks.addend(x)
    if picked == 'xla':
      return lax.psum(x, (INTER, INTRA))
    if picked == 'hierarchical':
      return hierarchical.all_reduce(x, self.payload_dtype)

    def on_ring(x: jax.Array) -> jax.Array:
      algorithm, dtype = _RINGS[picked], self.payload_dtype
      mine = algorithm.scatter(blocks.flatten(x, n * m), dtype).astype(x.dtype)
      return blocks.unflatten(algorithm.gather(mine, dtype), x.shape)

    is_small = m < _MIN_STAGGERED_LANES or _bytes(x) < _MIN_STAGGERED_BYTES
    if picked == 'ring' or n == 1 or is_small:
      return on_ring(x)
    # XLA:CPU runs a device's collectives one after the other.
    shifted = functools.partial(
      staggered.all_reduce, payload_dtype=self.payload_dtype
    )
    return lax.platform_dependent(x, cpu=shifted, default=on_ring)


XLA = Collectives()


def sums_dtype_of(name: str) -> str | None:
  """`Collectives.sums_dtype` for the flag --sums_dtype."""
  return None if name == 'float32' else name


def for_mesh(
  algorithm: str, mesh: jax.sharding.Mesh, **options: Any
) -> Collectives:
  """Creates `Collectives` for an algorithm, with defaults that suit a mesh.

  XLA does not combine messages on CPU, where each waits for the slowest host
  several times: there leaves are combined into shared messages.
  """
  if mesh.devices.flat[0].platform == 'cpu':
    options = {'bucket_bytes': _CPU_BUCKET_BYTES, **options}
  return Collectives(algorithm, **options)


def _bytes(x: jax.Array) -> int:
  return math.prod(x.shape) * jnp.dtype(x.dtype).itemsize


def for_code(
  how: str | Collectives, mesh: jax.sharding.Mesh, paro: PaRO
) -> Collectives:
  """Collectives, also by the name of their algorithm, under a code.

  Raises:
    ValueError: The code does not use the algorithm or narrow payload; names the
      codes that do.
  """
  if isinstance(how, str):
    how = for_mesh(how, mesh)
  if how.sums_dtype is not None and paro.grads is not Level.INTRA:
    takers = [c for c in VALID_CODES if c[1] == Level.INTRA.letter]
    raise ValueError(
      f'Trainer(collectives=): sums_dtype={how.sums_dtype!r} is for the codes'
      f' {" ".join(takers)}, whose groups sum gradients in every micro-batch;'
      f' {paro.code} does not. For it use Collectives(payload_dtype=).'
    )
  if how.algorithm in ('xla', 'auto') and how.payload_dtype is None:
    return how
  name = how.algorithm
  if how.payload_dtype is not None:
    name += f' in {jnp.dtype(how.payload_dtype).name}'
  if not paro.global_moves:
    takers = [c for c in VALID_CODES if PaRO.from_code(c).global_moves]
    raise ValueError(
      f'Trainer(collectives={name}): under {paro.code} all arrays move along'
      " one mesh axis at a time, by XLA's own collectives. Use 'xla', or one of"
      f' the codes {" ".join(takers)}.'
    )
  if len(paro.global_moves) == 1:
    logging.warning(
      "Under %s only %s move by %s; the rest moves by XLA's own collectives.",
      paro.code,
      paro.global_moves[0],
      name,
    )
  return how
