# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The two-axis device mesh: groups of devices connected by fast links."""

from collections.abc import Sequence

from absl import logging
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

INTER = 'inter'  # Between groups: the slow links.
INTRA = 'intra'  # Inside a group: the fast links.
# Splitting an array over both axes intra-major makes the levels nest: a
# device's shard at level global lies inside its shard at level intra, so
# refining is a local slice and coarsening communicates along one axis only.
GLOBAL_AXES = (INTRA, INTER)
# Batches are split inter-major: a process then owns consecutive rows.
BATCH_AXES = (INTER, INTRA)


def make_mesh(
  *,
  intra: int | None = None,
  inter: int = -1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Arranges devices as `inter` groups of `intra` devices each.

  GPUs and CPUs are grouped in the order of their processes, so a group is a
  host, part of a host, or several whole hosts. TPUs are arranged by
  `mesh_utils` with each group inside a slice, so that `inter` crosses slices. A
  TPU group consists of whole physical axes if possible, otherwise of a box of
  neighboring chips.

  Args:
    intra: Number of devices in a group, the axis of the fast links. None: the
      devices of a process.
    inter: Number of groups. -1: as many as the devices form.
    devices: Devices to use. The default is all devices of the job.

  Raises:
    ValueError: The devices do not form such groups.
  """
  devices = list(jax.devices() if devices is None else devices)
  num = len(devices)
  if not devices:
    raise ValueError('make_mesh(devices=[]): there is no device.')
  if intra is None:
    intra = sum(d.process_index == devices[0].process_index for d in devices)
  if intra < 1 or num % intra:
    divisors = [d for d in range(1, num + 1) if num % d == 0]
    raise ValueError(
      f'make_mesh(intra={intra}): {num} devices do not form groups of '
      f'{intra}; use one of {", ".join(map(str, divisors))}.'
    )
  if inter not in (-1, num // intra):
    raise ValueError(
      f'make_mesh(intra={intra}, inter={inter}): that needs {inter * intra} '
      f'devices and there are {num}; use inter=-1 or {num // intra}.'
    )
  inter = num // intra
  if devices[0].platform == 'tpu':
    grid = _tpu_grid(devices, inter, intra)
  else:
    devices.sort(key=lambda d: (d.process_index, d.id))
    grid = np.array(devices).reshape(inter, intra)
    _warn_if_groups_straddle(grid)
  return Mesh(grid, (INTER, INTRA), axis_types=(AxisType.Auto,) * 2)


def _tpu_grid(devices: list[jax.Device], inter: int, intra: int) -> np.ndarray:
  slices = len({getattr(d, 'slice_index', 0) for d in devices})
  if inter % slices:
    raise ValueError(
      f'make_mesh(intra={intra}): {slices} TPU slices cannot hold {inter} '
      f'whole groups each inside one slice; intra must divide '
      f'{len(devices) // slices}, the devices of a slice.'
    )
  shape = inter // slices, intra
  try:
    return _boxes(devices, slices, shape, False)
  except NotImplementedError:  # A group is not a product of physical axes.
    return _boxes(devices, slices, shape, True)
  except AssertionError as error:
    raise ValueError(
      f'make_mesh(intra={intra}): the chips given are no box of a slice'
      f' ({" ".join(str(error).split())[:120]}); give those of whole slices, or'
      ' group them yourself: Trainer takes any jax.sharding.Mesh.'
    ) from error


def _boxes(
  devices: list[jax.Device],
  slices: int,
  shape: tuple[int, int],
  is_split: bool,
) -> np.ndarray:
  """Groups of neighbors in each slice; axes are cut if `is_split`."""
  if slices == 1:
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=is_split
    )
  return mesh_utils.create_hybrid_device_mesh(
    shape, (slices, 1), devices, allow_split_physical_axes=is_split
  )


def _warn_if_groups_straddle(grid: np.ndarray) -> None:
  """Warns if a group contains only part of several processes' devices."""
  owner = np.vectorize(lambda d: d.process_index)(grid)
  num_local = np.bincount(owner.ravel())
  for group in owner:
    procs, counts = np.unique(group, return_counts=True)
    if len(procs) > 1 and (counts < num_local[procs]).any():
      logging.warning(
        'make_mesh: a group of %d devices straddles processes %s without '
        'owning them whole; its "fast" axis crosses hosts.',
        grid.shape[1],
        procs.tolist(),
      )
      return


def num_groups(mesh: Mesh) -> int:
  """Number of groups: the size of axis `inter`."""
  return int(mesh.shape[INTER])


def group_size(mesh: Mesh) -> int:
  """Devices in one group: the size of axis `intra`."""
  return int(mesh.shape[INTRA])


def positions(mesh: Mesh) -> np.ndarray:
  """Devices [inter, intra, ...]; devices of a position hold the same rows."""
  order = [mesh.axis_names.index(axis) for axis in BATCH_AXES]
  by_axis = np.moveaxis(mesh.devices, order, (0, 1))
  return by_axis.reshape(*by_axis.shape[:2], -1)


def num_positions(mesh: Mesh) -> int:
  """Number of parts of a batch: all devices of a mesh from `make_mesh`."""
  return num_groups(mesh) * group_size(mesh)


def local_positions(mesh: Mesh) -> list[int]:
  """Indices of the parts of a batch that this process supplies."""
  first, me = positions(mesh)[..., 0].ravel(), jax.process_index()
  return [i for i, device in enumerate(first) if device.process_index == me]


def other_axes(mesh: Mesh) -> tuple[str, ...]:
  """Axes other than `inter` and `intra`, which the compiler shards over."""
  return tuple(a for a in mesh.axis_names if a not in BATCH_AXES)


def check_mesh(mesh: Mesh, where: str) -> None:
  """Raises ValueError unless the mesh has exactly the axes of `make_mesh`."""
  if tuple(mesh.axis_names) != (INTER, INTRA):
    raise ValueError(
      f"{where}: mesh axes are {tuple(mesh.axis_names)}; needed are ('inter', "
      "'intra'). Make the mesh with antjax.make_mesh(intra=...)."
    )


def own_mesh(mesh: Mesh, inter: str, intra: str, where: str) -> Mesh:
  """A user's mesh with two axes renamed to `inter` and `intra`, all automatic.

  Args:
    mesh: The user's mesh: these two axes and any others, in any order.
    inter: Name of the axis between groups, with slow links.
    intra: Name of the axis inside a group, with fast links.
    where: Name of the caller, for errors.

  Raises:
    ValueError: The mesh lacks these axes, an axis is explicit, or a position
      along both has devices of several processes.
  """
  names = tuple(mesh.axis_names)
  num, renamed = len(names), {inter: INTER, intra: INTRA}
  new_names = tuple(renamed.get(a, a) for a in names)
  given = f'{where}(mesh=..., inter={inter!r}, intra={intra!r})'
  if not {INTER, INTRA} <= set(new_names) or len(set(new_names)) < num:
    raise ValueError(
      f'{given}: the axes of the mesh are {names}; needed are two of them,'
      ' inter for the slow links between groups and intra for the fast ones'
      ' inside a group, and no other may be called so. Make the mesh with'
      ' antjax.make_mesh(intra=...), or add an axis of size 1 where all devices'
      ' are one group: jax.sharding.Mesh(mesh.devices[None],'
      " ('inter', *mesh.axis_names))."
    )
  if AxisType.Explicit in mesh.axis_types:
    raise ValueError(
      f'{given}: the mesh has explicit axes, and what antjax compiles takes'
      f' automatic ones: jax.make_mesh({mesh.devices.shape}, {names},'
      f' axis_types=(jax.sharding.AxisType.Auto,) * {num}).'
    )
  new = Mesh(mesh.devices, new_names, axis_types=(AxisType.Auto,) * num)
  for position in positions(new).reshape(num_positions(new), -1):
    if len(owners := sorted({d.process_index for d in position})) > 1:
      raise ValueError(
        f'{given}: axes {other_axes(new)} cross processes {owners}, each of'
        ' which would have to give the same rows of a batch. Order the devices'
        ' so that those axes lie inside a process.'
      )
  return new


def on_own_mesh(x: jax.Array, mesh: Mesh) -> jax.Array:
  """Moves an array from a user's mesh to the result of `own_mesh`.

  Raises:
    ValueError: It is sharded over axes other than `inter` and `intra`.
  """
  there = x.sharding
  if not isinstance(there, NamedSharding) or there.mesh == mesh:
    return x
  names = dict(zip(there.mesh.axis_names, mesh.axis_names))
  spec = P(*(jax.tree.map(names.get, axes) for axes in there.spec))
  if more := set(jax.tree.leaves(tuple(spec))) - set(BATCH_AXES):
    raise ValueError(
      f'Trainer(constants=...): an array is split over {sorted(more)}; needed'
      ' are copies along all axes but inter and intra.'
    )
  return jax.device_put(x, NamedSharding(mesh, spec))
