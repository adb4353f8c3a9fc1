# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which dim of an array is split, how it is padded, and what that costs."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.mesh.mesh import GLOBAL_AXES, INTRA, other_axes
from antjax.mesh.paro import Level

# Padding may at most double a leaf, else it stays replicated and is logged.
_MAX_GROWTH = 2.0
_WHOLE = P()
_said: set[str] = set()  # Lines that `log_whole_leaves` has logged.


@dataclasses.dataclass(frozen=True)
class LeafSpec:
  """How one array is split, the same dim at every level."""

  shape: tuple[int, ...]  # The array's true shape.
  dtype: np.dtype  # The array's dtype.
  # The dim that is split, or None for a replicated array.
  dim: int | None
  # Size of that dim padded to a multiple of the number of devices, so that
  # shards of every level have equal size and nest.
  padded_size: int = 0
  reason: str = ''  # Why `dim` is None; empty otherwise.
  # How the other dims are split over the mesh's automatic axes.
  auto: P = _WHOLE

  def stored_shape(self, level: Level) -> tuple[int, ...]:
    """Global shape in which the array is kept at a level."""
    if self.dim is None or level is Level.NONE:
      return self.shape
    shape = list(self.shape)
    shape[self.dim] = self.padded_size
    return tuple(shape)

  def stored(self, x: jax.Array, level: Level) -> jax.Array:
    """A whole array in the shape in which it is kept at a level."""
    return x if level is Level.NONE else self.pad(x)

  def partition_spec(self, level: Level) -> P:
    """`P()`, or the dim over 'intra' or over ('intra', 'inter').

    This is the view of `manual` code; `sharding` adds the automatic axes.
    """
    if self.dim is None or level is Level.NONE:
      return P()
    axes = INTRA if level is Level.INTRA else GLOBAL_AXES
    return P(*(None,) * self.dim, axes)

  def sharding(self, level: Level, mesh: Mesh) -> NamedSharding:
    manual = self.partition_spec(level)
    both = itertools.zip_longest(manual, self.auto)
    return NamedSharding(mesh, P(*(a or b for a, b in both)))

  def piece_shape(self, level: Level, mesh: Mesh) -> tuple[int, ...]:
    """Shape of a device's piece in `manual` code."""
    sharding = NamedSharding(mesh, self.partition_spec(level))
    return sharding.shard_shape(self.stored_shape(level))

  def constrain(self, x: jax.Array) -> jax.Array:
    """Splits a device's array over the automatic axes; in `manual` code."""
    return lax.with_sharding_constraint(x, self.auto) if self.auto else x

  def stacked(self, num_layers: int) -> 'LeafSpec':
    """The spec of a stack [num_layers, ...] of such arrays."""
    dim = None if self.dim is None else self.dim + 1
    shape = (num_layers, *self.shape)
    auto = P(None, *self.auto) if self.auto else P()
    return dataclasses.replace(self, shape=shape, dim=dim, auto=auto)

  def layer(self) -> 'LeafSpec':
    """The spec of one array of a stack; the inverse of `stacked`."""
    dim = None if self.dim is None else self.dim - 1
    return dataclasses.replace(
      self, shape=self.shape[1:], dim=dim, auto=P(*self.auto[1:])
    )

  def pad(self, x: jax.Array) -> jax.Array:
    """Appends zeros to the split dim, up to `padded_size`."""
    if self.dim is None or x.shape[self.dim] == self.padded_size:
      return x
    widths = [(0, 0)] * x.ndim
    widths[self.dim] = (0, self.padded_size - x.shape[self.dim])
    return jnp.pad(x, widths)

  def unpad(self, x: jax.Array) -> jax.Array:
    """Cuts the padding off; the inverse of `pad`."""
    if self.dim is None or x.shape == self.shape:
      return x
    return lax.slice_in_dim(x, 0, self.shape[self.dim], axis=self.dim)

  def bytes_per_device(self, level: Level, mesh: Mesh) -> int:
    """Bytes of this array's dtype that each device holds, padding counted."""
    sharding = self.sharding(level, mesh)
    local = sharding.shard_shape(self.stored_shape(level))
    return math.prod(local) * self.dtype.itemsize


def leaf_spec(
  shape: Sequence[int],
  dtype: Any = np.float32,
  *,
  num_devices: int,
  min_size: int = 1024,
  auto: P = _WHOLE,
) -> LeafSpec:
  """Chooses the dim to split: the largest divisible one, else least padding.

  Arrays of fewer than `min_size` elements stay whole: a collective for each
  would cost more than the memory it saves. `num_devices` counts inter x intra,
  so that shards have equal size at every level. A dim that `auto` splits over
  other axes is not split again.
  """
  shape, dtype = tuple(shape), np.dtype(dtype)
  size = math.prod(shape)
  whole = functools.partial(LeafSpec, shape, dtype, None, auto=auto)
  if not shape or size < min_size:
    return whole(reason=f'{size} elements')
  taken = {i for i, axes in enumerate(auto) if axes}
  free = [i for i in range(len(shape)) if i not in taken]
  if not free:
    return whole(reason=f'its dims are split over {auto} only')
  divisible = [i for i in free if shape[i] and shape[i] % num_devices == 0]
  if divisible:
    dim = max(divisible, key=lambda i: shape[i])
    return LeafSpec(shape, dtype, dim, shape[dim], auto=auto)
  padded = [-(-d // num_devices) * num_devices for d in shape]
  growth = [p / d if d else math.inf for p, d in zip(padded, shape)]
  dim = min(free, key=growth.__getitem__)
  if growth[dim] > _MAX_GROWTH:
    reason = f'padding {shape} to {num_devices} devices would over-double it'
    return whole(reason=reason)
  return LeafSpec(shape, dtype, dim, padded[dim], auto=auto)


def check_auto(auto: P, shape: Sequence[int], mesh: Mesh, name: str) -> None:
  """Rejects an impossible spec of a leaf over automatic axes.

  Raises:
    ValueError: Unknown axes, too many dims, or a dim that is not divisible.
  """
  known = set(other_axes(mesh))
  used = {a for a in jax.tree.leaves(tuple(auto)) if a is not None}
  if used <= known and len(auto) <= len(shape):
    sizes = [math.prod(mesh.shape[a] for a in jax.tree.leaves(x)) for x in auto]
    if not any(d % n for d, n in zip(shape, sizes)):
      return
  raise ValueError(
    f'Trainer(auto_specs=...): leaf {name} {tuple(shape)} cannot be split as'
    f' {auto}: needed are axes of {tuple(sorted(known))}, each of a size that'
    f' divides its dim, on the mesh {dict(mesh.shape)}.'
  )


def log_whole_leaves(specs: Mapping[str, LeafSpec]) -> list[str]:
  """Names the leaves that stay whole in one line, once; returns the names."""
  whole = {n: s for n, s in specs.items() if s.dim is None}
  if whole:
    size = sum(math.prod(s.shape) * s.dtype.itemsize for s in whole.values())
    text = (
      f'{len(whole)} of {len(specs)} leaves ({size} bytes) are split over'
      ' neither inter nor intra: '
    ) + ', '.join(f'{n} ({s.reason})' for n, s in whole.items())
    if text not in _said:
      # A warning, since absl hides lower levels outside its own app.run.
      logging.warning('%s', text)
      _said.add(text)
  return list(whole)
