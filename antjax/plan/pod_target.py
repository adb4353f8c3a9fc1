# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Devices and networks of absent pods of TPUs or GPUs."""

import dataclasses
import importlib.resources
import importlib.util
import math
import re
from typing import Any

from jax.experimental import topologies
import numpy as np

from antjax.collectives.cost_model import Links
from antjax.mesh.mesh import INTER, INTRA
from antjax.plan import event_model

# One-way GB/s of a device along one axis of its fast network, its GB/s to other
# groups, bf16 TFLOP/s, GB/s of its memory: published figures, not measured. A
# TPU has two links per axis; a chip of tpu7x is two devices.
_RATES = {
  'v4': (90, 6.25, 275, 1228),
  'v5e': (90, 3.125, 197, 819),
  'v5p': (180, 6.25, 459, 2765),
  'v6e': (180, 12.5, 918, 1640),
  'tpu7x': (180, 12.5, 1153.5, 3690),
  'h100': (450, 50, 989, 3350),
  'h200': (450, 50, 989, 4800),
  'b200': (900, 50, 2250, 8000),
  'gb200': (900, 50, 2500, 8000),
}
# Clocks in GHz: the peak over the operations of all matrix units in a cycle.
_CLOCKS = {'v4': 1.05, 'v5e': 1.5, 'v5p': 1.75, 'v6e': 1.75, 'tpu7x': 2.2}
# Latency of a ring step in seconds: a guess.
_LATENCIES_S = (5e-6, 20e-6)
# Memory of a device, as published by its vendor, and a usual slice.
_TPUS = {
  'v4': (32, '2x2x2'),
  'v5e': (16, '4x4'),
  'v5p': (95, '2x2x2'),
  'v6e': (32, '4x4'),
  'tpu7x': (96, '2x2x2'),
}
# Usual hosts x GPUs. The facts of a card are in gpus/<name>.txtpb.
_GPUS = {'h100': '2x8', 'h200': '2x8', 'b200': '2x8', 'gb200': '18x4'}
# Cards whose NVLink connects the hosts of a rack.
_RACKS = ('gb200',)
NAMES = (*_TPUS, *_GPUS)


@dataclasses.dataclass(frozen=True)
class Target:
  """A kind of device, with the number and connection of devices.

  Attributes:
    kind: Generation of TPU or name of a GPU.
    shape: Chips of a slice, e.g. 4x4, or hosts x GPUs.
    num_slices: Number of TPU slices, or of racks of hosts connected by NVLink.
  """

  kind: str
  shape: str
  num_slices: int

  @classmethod
  def of(cls, topology: str, num_slices: int | None = None) -> 'Target':
    """Reads 'v5e:4x4', 'h100:4x8' or only a kind.

    Raises:
      ValueError: The kind is unknown, or has no slices.
    """
    kind, _, shape = topology.partition(':')
    if kind not in NAMES:
      raise ValueError(
        f'topology={topology!r}: known are {", ".join(NAMES)}, alone or with a'
        ' shape, as v5e:4x4 (chips of a slice) or h100:4x8 (hosts x GPUs).'
      )
    if kind in _TPUS:
      return cls(kind, shape or _TPUS[kind][1], num_slices or 2)
    if not re.fullmatch(r'([1-9]\d*x[1-9]\d*)?', shape):
      raise ValueError(
        f'topology={topology!r}: needed are hosts x GPUs, as {kind}:4x8.'
      )
    if (num_slices or 1) > 1 and kind not in _RACKS:
      raise ValueError(
        f'num_slices={num_slices}: NVLink joins the GPUs of one host of {kind};'
        ' give all hosts in the topology, and leave num_slices out.'
      )
    return cls(kind, shape or _GPUS[kind], num_slices or 1)

  @property
  def is_gpu(self) -> bool:
    return self.kind in _GPUS

  @property
  def name(self) -> str:
    """Readable name."""
    many = f'{self.num_slices} x ' if self.num_slices > 1 else ''
    return f'{many}{self.kind}:{self.shape}'

  @property
  def device_bytes(self) -> int:
    """Memory of a device."""
    if not self.is_gpu:
      return _TPUS[self.kind][0] * 2**30
    found = re.search(r'device_memory_size: (\d+)', _card(self.kind))
    assert found
    return int(found[1])

  def links(self, group_size: int) -> Links:
    """Published speeds of its links, for groups of a given size.

    In a slice they follow what libtpu 0.0.52 compiles (tests/plan/pods_test.py
    reads it): gathers and reductions go around one ring through all chips, both
    ways, whatever the number of axes; an all-reduce takes all axes at once, and
    a gather becomes one where that is faster.
    """
    fast, slow, *_ = _RATES[self.kind]
    ring, slow = fast * 1e9, slow * 1e9 * group_size
    shape = [] if self.is_gpu else [int(n) for n in self.shape.split('x')]
    sizes = [n for n in shape if n > 1]
    if group_size != self.group_size or not sizes:
      return Links(ring, slow, *_LATENCIES_S)
    # Of what the devices of one chip exchange nothing crosses ICI.
    ring *= (1 - 1 / group_size) / (1 - 1 / math.prod(sizes))
    # An axis that is not closed is a line, with one way for each direction.
    if self.kind in ('v5e', 'v6e'):
      is_closed = all(n == 16 for n in sizes)
    else:
      is_closed = all(n % 4 == 0 for n in shape)
    all_axes = ring * len(sizes) / (1 if is_closed else 2)
    if len(sizes) == 1:  # Else there is a ring through all chips.
      ring = all_axes
    return Links(
      *(ring, slow, *_LATENCIES_S),
      intra_gather_bytes_per_s=max(ring, all_axes / 2),
      intra_all_reduce_bytes_per_s=all_axes,
    )

  @property
  def flops_per_s(self) -> float:
    """Published peak of a device for bf16 products."""
    return _RATES[self.kind][2] * 1e12

  def rates(self, efficiency: float) -> event_model.Device:
    """Published rates of a device, of products a share."""
    memory, clock = _RATES[self.kind][3] * 1e9, _CLOCKS.get(self.kind, 0) * 1e9
    return event_model.Device(efficiency * self.flops_per_s, memory, clock)

  def devices(self) -> list[Any]:
    """Its devices, without hardware.

    Raises:
      RuntimeError: The compiler is not installed, or cannot be loaded.
      ValueError: There are no such slices.
    """
    return self._gpus() if self.is_gpu else self._tpus()

  def _gpus(self) -> list[Any]:
    if not is_installed('jax_plugins.xla_cuda13'):
      raise RuntimeError(
        f"topology={self.name} needs XLA's compiler for NVIDIA GPUs, which is"
        ' not installed: pip install antjax[pod_gpu]; no GPU is needed.'
      )
    return list(
      topologies.get_topology_desc(
        platform='cuda',
        topology=f'{self.num_slices}x{self.shape}',
        target_config=_card(self.kind),
      ).devices
    )

  def _tpus(self) -> list[Any]:
    # A v4 chip is one device in jobs, but two by libtpu's default.
    options = {'chip_config_name': 'megacore'} if self.kind == 'v4' else {}
    try:
      description = topologies.get_topology_desc(
        platform='tpu',
        topology_name=f'{self.kind}:{self.shape}',
        num_slices=self.num_slices,
        **options,
      )
    except Exception as error:  # Various errors of XLA.
      _check_libtpu()
      raise ValueError(
        f'topology={self.kind}:{self.shape}, num_slices={self.num_slices}:'
        f' libtpu knows no such slices ({" ".join(str(error).split())[:200]});'
        ' e.g. v5e:4x4, v4:2x2x1, v5p:2x2x2, v6e:4x4.'
      ) from error
    return list(description.devices)

  @property
  def group_size(self) -> int:
    """Number of devices connected by fast links: a slice, host or rack."""
    sizes = [int(n) for n in self.shape.split('x')]
    if self.is_gpu and self.kind not in _RACKS:
      return sizes[-1]
    cores = 2 if self.kind == 'tpu7x' else 1
    return int(np.prod(sizes)) * cores

  def networks(self, devices: np.ndarray) -> dict[str, str]:
    """Axis -> networks that it uses, for devices [inter, intra] of a mesh."""
    fast, slow = ('NVLink', 'fabric') if self.is_gpu else ('ICI', 'DCN')
    by_process = self.is_gpu and self.kind not in _RACKS

    def home(device: Any) -> int:
      if by_process:
        return int(device.process_index)
      return int(getattr(device, 'slice_index', None) or 0)

    homes = np.vectorize(home, otypes=[int])(devices)
    found = {}
    for axis, lines in ((INTRA, homes), (INTER, homes.T)):
      kinds = [len(set(line.tolist())) for line in lines]
      names = [fast] * (min(kinds) < lines.shape[1] or lines.shape[1] == 1)
      names += [slow] * (max(kinds) > 1)
      found[axis] = ', '.join(names)
    found['both'] = ', '.join(
      n for n in (fast, slow) if any(n in x for x in found.values())
    )
    return found


def is_installed(module: str) -> bool:
  """Whether a module can be imported; imports neither it nor its parents."""
  name = ''
  for part in module.split('.'):  # `find_spec` raises if a parent is missing.
    name = f'{name}.{part}' if name else part
    if importlib.util.find_spec(name) is None:
      return False
  return True


def _card(kind: str) -> str:
  folder = importlib.resources.files('antjax.plan') / 'gpus'
  return (folder / f'{kind}.txtpb').read_text(encoding='utf-8')


def _check_libtpu() -> None:
  """Raises RuntimeError if libtpu cannot even describe a single host."""
  try:
    topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')
  except Exception as error:
    raise RuntimeError(
      'libtpu is installed but does not load:'
      f' {" ".join(str(error).split())[:300]}. Another process may hold it, or'
      ' its version may not go with this jaxlib: pip install -U jax libtpu.'
    ) from error
