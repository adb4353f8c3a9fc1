# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Device meshes, and the padding and cost of arrays on them."""

import dataclasses
import itertools
import logging

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.mesh import sharding
from antjax.mesh.mesh import check_mesh, group_size, make_mesh, num_groups
from antjax.mesh.paro import Level


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  """Stands for a device of some process."""

  id: int
  process_index: int
  platform: str = 'cpu'


def fake(num_processes, per_process):
  return [
    FakeDevice(p * per_process + i, p)
    for p in range(num_processes)
    for i in range(per_process)
  ]


@pytest.mark.parametrize('intra', [1, 2, 4, 8])
def test_mesh_has_the_asked_groups(intra):
  mesh = make_mesh(intra=intra)
  assert mesh.axis_names == ('inter', 'intra')
  assert (num_groups(mesh), group_size(mesh)) == (8 // intra, intra)


@pytest.mark.parametrize('intra', [0, 3, 5, 16, -2])
def test_devices_that_form_no_such_groups_are_refused(intra):
  with pytest.raises(ValueError, match='use one of 1, 2, 4, 8'):
    make_mesh(intra=intra)


def test_a_group_is_a_process_unless_told():
  assert dict(make_mesh().shape) == {'inter': 1, 'intra': 8}


def test_inter_that_contradicts_the_devices_is_refused():
  with pytest.raises(ValueError, match='inter=-1 or 4'):
    make_mesh(intra=2, inter=3)
  assert num_groups(make_mesh(intra=2, inter=4)) == 4


def test_groups_are_hosts_whatever_order_devices_come_in(monkeypatch):
  seen = {}
  monkeypatch.setattr(
    'antjax.mesh.mesh.Mesh', lambda grid, *a, **k: seen.update(grid=grid)
  )
  make_mesh(intra=4, devices=fake(2, 4)[::-1])
  assert [[d.process_index for d in row] for row in seen['grid']] == [
    [0] * 4,
    [1] * 4,
  ]


def test_a_group_across_parts_of_hosts_is_said_aloud(monkeypatch, caplog):
  monkeypatch.setattr('antjax.mesh.mesh.Mesh', lambda *a, **k: None)
  with caplog.at_level(logging.WARNING, logger='absl'):
    make_mesh(intra=2, devices=fake(2, 3))
  assert 'straddles processes [0, 1]' in caplog.text
  caplog.clear()
  with caplog.at_level(logging.WARNING, logger='absl'):
    make_mesh(intra=6, devices=fake(2, 3))  # Whole hosts: no complaint.
  assert not caplog.text


@dataclasses.dataclass(frozen=True)
class FakeChip:
  """Stands for a TPU chip."""

  id: int
  coords: tuple[int, ...]
  slice_index: int
  device_kind: str
  core_on_chip: int = 0
  process_index: int = 0
  platform: str = 'tpu'


def chips(kind, sizes, num_slices):
  places = list(itertools.product(*(range(n) for n in sizes[::-1])))
  return [
    FakeChip(number * 1000 + i, place[::-1], number, kind)
    for number in range(num_slices)
    for i, place in enumerate(places)
  ]


@pytest.mark.parametrize('num_slices', [1, 2])
@pytest.mark.parametrize(
  ('kind', 'sizes'),
  [
    ('TPU v5 lite', (4, 4, 1)),
    ('TPU v5', (4, 4, 4)),
    ('TPU v6 lite', (8, 8, 1)),
    ('TPU v4', (2, 2, 3)),
  ],
)
def test_any_divisor_of_a_slice_makes_groups_of_neighbors(
  monkeypatch, kind, sizes, num_slices
):
  seen = []
  monkeypatch.setattr(
    'antjax.mesh.mesh.Mesh', lambda grid, *a, **k: seen.append(grid)
  )
  devices, per_slice = chips(kind, sizes, num_slices), int(np.prod(sizes))
  for intra in range(1, per_slice + 1):
    if per_slice % intra:
      continue
    make_mesh(intra=intra, devices=devices)
    for group in seen[-1]:
      assert len({chip.slice_index for chip in group}) == 1
      at = np.asarray([chip.coords for chip in group])
      assert np.prod(np.ptp(at, axis=0) + 1) == intra == len(group)


def test_chips_that_are_no_box_are_refused():
  given = chips('TPU v5 lite', (4, 4, 1), 1)[:6]
  with pytest.raises(ValueError, match='no box of a slice'):
    make_mesh(intra=2, devices=given)


def test_a_mesh_of_other_axes_is_refused():
  mesh = Mesh(np.array(jax.devices()), ('data',))
  with pytest.raises(ValueError, match='Make the mesh with antjax.make_mesh'):
    check_mesh(mesh, 'Trainer')


def test_the_largest_dim_that_divides_is_split():
  spec = sharding.leaf_spec((16, 64, 24), num_devices=8)
  assert spec.dim == 1
  assert spec.stored_shape(Level.GLOBAL) == (16, 64, 24)
  assert spec.partition_spec(Level.NONE) == P()
  assert spec.partition_spec(Level.INTRA) == P(None, 'intra')
  assert spec.partition_spec(Level.GLOBAL) == P(None, ('intra', 'inter'))


def test_an_odd_leaf_is_padded_not_replicated():
  spec = sharding.leaf_spec((37, 61), num_devices=8)
  assert (spec.dim, spec.padded_size) == (1, 64)
  assert spec.stored_shape(Level.INTRA) == (37, 64)
  assert spec.stored_shape(Level.NONE) == (37, 61)


@pytest.mark.parametrize(
  ('shape', 'reason'),
  [((), '1 elements'), ((31,), '31 elements'), ((3,) * 7, 'over-double')],
)
def test_whole_leaves_have_a_reason(shape, reason):
  spec = sharding.leaf_spec(shape, num_devices=8)
  assert spec.dim is None
  assert reason in spec.reason


def test_whole_leaves_are_listed_once_by_name(caplog):
  specs = {
    'kernel': sharding.leaf_spec((64, 64), num_devices=8),
    'bias': sharding.leaf_spec((64,), num_devices=8),
    'scale': sharding.leaf_spec((), num_devices=8),
  }
  with caplog.at_level(logging.INFO, logger='absl'):
    assert sharding.log_whole_leaves(specs) == ['bias', 'scale']
  assert len(caplog.records) == 1
  assert '2 of 3 leaves (260 bytes)' in caplog.text


@settings(max_examples=30)  # Each shape compiles.
@given(
  shape=st.lists(st.integers(1, 70), min_size=1, max_size=3),
  num_devices=st.sampled_from([1, 2, 3, 4, 6, 8]),
)
def test_pad_and_unpad_are_inverse_and_pieces_equal(shape, num_devices):
  spec = sharding.leaf_spec(shape, num_devices=num_devices, min_size=1)
  x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  padded = spec.pad(x)
  assert padded.shape == spec.stored_shape(Level.GLOBAL)
  np.testing.assert_array_equal(spec.unpad(padded), x)
  if spec.dim is not None:
    assert padded.shape[spec.dim] % num_devices == 0
    assert padded.size <= 2 * x.size


@pytest.mark.parametrize('level', Level)
def test_bytes_per_device_are_those_of_real_arrays(level):
  mesh = make_mesh(intra=4)
  spec = sharding.leaf_spec((37, 61), num_devices=8)
  x = jax.device_put(
    np.zeros(spec.stored_shape(level), np.float32),
    spec.sharding(level, mesh),
  )
  held = x.addressable_shards[0].data.nbytes
  assert spec.bytes_per_device(level, mesh) == held
