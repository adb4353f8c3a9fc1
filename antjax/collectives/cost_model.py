# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Predicts the time of collectives on links of two speeds.

An alpha-beta model: a step of a ring costs a latency (alpha) and its bytes at
the speed of its link (beta). With n groups of m devices, N = n m, an array of
S bytes and pieces q = S / N, an all-gather takes

  ring          (N-1) steps, each as slow as its slowest hop
  hierarchical  (n-1) (a_e + q / Be) + (m-1) (a_i + n q / Bi)
  ho_ring       max((n-1) (a_e + q / Be) + (m-1) (a_i + q / Bi),
                    n (m-1) (a_i + q / Bi))

where Bi, a_i are bandwidth and latency of a device's link in its group, a_e is
the latency between groups, and Be a device's bandwidth between groups while all
m of its group send: its own cap or its share of the uplink. A reduce-scatter is
the reverse and takes as long; an all-reduce is one of each. The formulas of
`hierarchical` and `ho_ring` are our own derivation. The overlap in the last
line is the idea of HO-Ring ("Rethinking Memory and Communication Costs for
Efficient Data Parallel Training of Large Language Models", section 3.2).
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
from typing import Literal

import numpy as np

from antjax import paths
from antjax.mesh.mesh import INTER, INTRA

Op = Literal['all_gather', 'reduce_scatter', 'all_reduce']
Algorithm = Literal['xla', 'ring', 'hierarchical', 'ho_ring']
ALGORITHMS: tuple[Algorithm, ...] = ('xla', 'ring', 'hierarchical', 'ho_ring')
OPS: tuple[Op, ...] = ('all_gather', 'reduce_scatter', 'all_reduce')


@dataclasses.dataclass(frozen=True)
class Timing:
  """Measured time of a collective over both axes on one mesh."""

  op: Op  # The collective.
  algorithm: Algorithm  # The algorithm used.
  num_groups: int  # Groups of the mesh.
  group_size: int  # Devices of a group.
  sizes_bytes: tuple[int, ...]  # Sizes of the whole array in bytes, ascending.
  seconds: tuple[float, ...]  # Seconds that each size took.

  def __post_init__(self) -> None:
    _check('op', self.op, OPS)
    _check('algorithm', self.algorithm, ALGORITHMS)
    sizes, times = tuple(self.sizes_bytes), tuple(self.seconds)
    object.__setattr__(self, 'sizes_bytes', sizes)  # JSON gives lists.
    object.__setattr__(self, 'seconds', times)
    ascending = all(a < b for a, b in zip(sizes, sizes[1:], strict=False))
    are_times = all(0 <= t < math.inf for t in times)
    if not (sizes and len(sizes) == len(times) and ascending and are_times):
      raise ValueError(
        f'Timing(sizes_bytes={sizes}, seconds={times}): needed are ascending '
        'sizes and as many times, at least one.'
      )

  def at(self, num_bytes: float) -> float:
    """Seconds for an array of `num_bytes`, by linear interpolation.

    Below the smallest size the time is constant; beyond the largest it grows at
    the last measured rate. One line would not fit an implementation that
    switches algorithms by size.
    """
    sizes, times = self.sizes_bytes, self.seconds
    if num_bytes <= sizes[-1]:
      return float(np.interp(num_bytes, sizes, times))
    if len(sizes) == 1:
      return times[0] * num_bytes / sizes[0]
    slope = (times[-1] - times[-2]) / (sizes[-1] - sizes[-2])
    return times[-1] + max(slope, 0.0) * (num_bytes - sizes[-1])


@dataclasses.dataclass(frozen=True)
class Links:
  """Speeds of a cluster's links, one direction."""

  intra_bytes_per_s: float  # Bandwidth of one device's link inside its group.
  # Bandwidth that all devices of a group share to other groups.
  uplink_bytes_per_s: float
  intra_latency_s: float = 0.0  # Latency of a step inside a group.
  inter_latency_s: float = 0.0  # Latency of a step between groups.
  # Maximum bandwidth of a single device to other groups; None if only the
  # uplink limits it.
  device_inter_bytes_per_s: float | None = None
  # Measured times of the algorithms, if any; these override predictions from
  # the links.
  timings: tuple[Timing, ...] = ()
  # Bandwidth of a gather inside a group; None if that of the link. On cores a
  # device also copies its own block, so a pair takes twice as long a byte.
  intra_gather_bytes_per_s: float | None = None
  # Bandwidth of both halves of an all-reduce inside a group; None if they run
  # as a reduction and a gather. On a torus all axes can share it.
  intra_all_reduce_bytes_per_s: float | None = None

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      is_latency = field.name.endswith('latency_s')
      if field.name == 'timings' or value is None:
        continue
      if not (value >= 0 if is_latency else value > 0):
        raise ValueError(
          f'Links({field.name}={value}): needed is a number '
          f'{">= 0, in seconds" if is_latency else "> 0, in bytes a second"}.'
        )

  def intra_seconds_per_byte(self, op: Op) -> float:
    """Seconds of a byte that a device sends inside its group."""
    once = 1 / self.intra_bytes_per_s
    gathered = 1 / (self.intra_gather_bytes_per_s or self.intra_bytes_per_s)
    if op == 'all_reduce':
      if self.intra_all_reduce_bytes_per_s:
        return 1 / self.intra_all_reduce_bytes_per_s
      return (once + gathered) / 2  # A reduction, then a gather.
    return gathered if op == 'all_gather' else once

  def lane_bytes_per_s(self, num_lanes: int) -> float:
    """Bandwidth per device between groups while `num_lanes` of a group send."""
    share = self.uplink_bytes_per_s / num_lanes
    if self.device_inter_bytes_per_s is None:
      return share
    return min(share, self.device_inter_bytes_per_s)


@dataclasses.dataclass(frozen=True)
class Sample:
  """One timed collective along one axis."""

  op: Op  # The collective.
  axis: str  # 'inter' or 'intra'.
  num_bytes: float  # Bytes of the larger side, on one device.
  num_groups: int  # Number of groups of the mesh.
  group_size: int  # Devices of a group.
  seconds: float  # Time that it took.
  # Devices of each group that took part; all if None.
  num_lanes: int | None = None


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Groups of devices and the links that connect them."""

  links: Links
  num_groups: int  # n
  group_size: int  # Devices of a group, m.

  def seconds(self, op: Op, algorithm: Algorithm, num_bytes: float) -> float:
    """Predicts a collective on `num_bytes` over both axes, on all devices.

    Uses `links.timings` of the same mesh shape if there are any, else the
    formulas. 'xla' is assumed to be a flat ring, in the order of blocks for all
    but the all-reduce (see `_flat`).

    Raises:
      ValueError: Unknown op or algorithm.
    """
    _check('op', op, OPS)
    _check('algorithm', algorithm, ALGORITHMS)
    links, n, m = self.links, self.num_groups, self.group_size
    for t in links.timings:
      if (t.op, t.algorithm) == (op, algorithm):
        if (t.num_groups, t.group_size) == (n, m):
          return t.at(num_bytes)
    piece, byte_s = num_bytes / (n * m), links.intra_seconds_per_byte(op)
    if algorithm in ('xla', 'ring'):
      in_block_order = algorithm == 'xla' and op != 'all_reduce'
      once = self._flat(piece, byte_s, in_block_order)
    else:
      inter_step = links.inter_latency_s + piece / links.lane_bytes_per_s(m)
      inter = (n - 1) * inter_step
      if algorithm == 'hierarchical':
        step = links.intra_latency_s + n * piece * byte_s
        once = inter + (m - 1) * step
      else:
        step = links.intra_latency_s + piece * byte_s
        once = max(inter + (m - 1) * step, n * (m - 1) * step)
    return once * (2 if op == 'all_reduce' else 1)

  def _flat(self, piece: float, byte_s: float, in_block_order: bool) -> float:
    """A ring over all devices.

    In the order of devices, one hop of each group crosses groups. Blocks are
    intra-major, so a ring in block order, as of a library that uses ranks as
    given, crosses groups at each hop.
    """
    links, n, m = self.links, self.num_groups, self.group_size
    steps = n * m - 1
    intra = links.intra_latency_s + piece * byte_s
    if n == 1:
      return steps * intra
    lanes = m if in_block_order else 1
    inter = links.inter_latency_s + piece / links.lane_bytes_per_s(lanes)
    return steps * (inter if m == 1 or in_block_order else max(intra, inter))

  def axis_seconds(self, op: Op, axis: str, num_bytes: float) -> float:
    """Predicts a collective along one axis, on all its lanes or groups at once.

    `num_bytes` is the size of the larger side on one device: the result of an
    all-gather, the operand of the others.

    Raises:
      ValueError: Unknown op or axis.
    """
    _check('op', op, OPS)
    _check('axis', axis, (INTER, INTRA))
    links = self.links
    if axis == INTRA:
      size, latency = self.group_size, links.intra_latency_s
      byte_s = links.intra_seconds_per_byte(op)
    else:
      size, latency = self.num_groups, links.inter_latency_s
      byte_s = 1 / links.lane_bytes_per_s(self.group_size)
    once = (size - 1) * (latency + num_bytes / size * byte_s)
    return once * (2 if op == 'all_reduce' else 1)

  def fastest(self, op: Op, num_bytes: float) -> Algorithm:
    """The algorithm with the least predicted time; the first of ties."""
    return min(ALGORITHMS, key=lambda a: self.seconds(op, a, num_bytes))


def fit(samples: Sequence[Sample]) -> Links:
  """Fits links to timings, by least squares of relative errors.

  Samples along `inter` with `num_lanes=1` determine the cap of one device, the
  others the uplink. A job with one group, or with groups of one device, cannot
  time one of the axes, which then gets the figures of the other. All-gathers
  inside groups have a bandwidth of their own if other samples are there, too,
  with the same latency.

  Raises:
    ValueError: There are no samples along either axis.
  """
  per_axis: dict[str, tuple[float, float]] = {}
  one_lane: tuple[float, float] | None = None
  gathered: float | None = None
  group_size = 1
  for axis in (INTRA, INTER):
    along = [s for s in samples if s.axis == axis and _size(s) > 1]
    group_size = max([group_size, *(s.group_size for s in along)])
    shared = [s for s in along if axis == INTRA or _lanes(s) == s.group_size]
    gathers = [s for s in shared if axis == INTRA and s.op == 'all_gather']
    others = [s for s in shared if s not in gathers] or shared
    if others:
      per_axis[axis] = _alpha_beta(others)
    if 0 < len(others) < len(shared):
      gathered = _rate(gathers, per_axis[axis][0])
    single = [s for s in along if axis == INTER and _lanes(s) == 1]
    if single and group_size > 1:
      one_lane = _alpha_beta(single)
  if not per_axis:
    raise ValueError(
      'cost_model.fit: there are no timings along an axis of several devices; '
      'time collectives of several sizes on a mesh of at least two.'
    )
  any_axis = next(iter(per_axis.values()))
  intra_latency, intra_rate = per_axis.get(INTRA, any_axis)
  inter_latency, lane_rate = per_axis.get(INTER, any_axis)
  uplink = lane_rate * group_size
  # A single device that is as fast as all together has no cap of its own.
  device = one_lane[1] if one_lane and one_lane[1] < 0.9 * uplink else None
  return Links(
    *(intra_rate, uplink, intra_latency, inter_latency, device),
    intra_gather_bytes_per_s=gathered,
  )


def _alpha_beta(samples: Sequence[Sample]) -> tuple[float, float]:
  """(latency of a step in s, bytes/s of a device) from timings of one axis."""
  steps = [(_size(s) - 1) * (2 if s.op == 'all_reduce' else 1) for s in samples]
  alpha, beta = fit_line(
    steps,
    [k * s.num_bytes / _size(s) for k, s in zip(steps, samples, strict=True)],
    [s.seconds for s in samples],
  )
  return alpha, 1 / beta


def _rate(samples: Sequence[Sample], latency: float) -> float:
  """Bytes/s of a device that, with such a latency of a step, fit gathers."""
  steps, times = np.array([(_size(s) - 1, s.seconds) for s in samples]).T
  rates = steps * [s.num_bytes / _size(s) for s in samples] / times
  beta = rates @ (1 - latency * steps / times) / (rates @ rates)
  return float(1 / beta if beta > 0 else np.max(rates))


def fit_line(
  counts: Sequence[float], sizes: Sequence[float], times: Sequence[float]
) -> tuple[float, float]:
  """(a >= 0, b > 0) of time = a * count + b * size, by relative errors."""
  rows = np.stack([np.asarray(counts, float), np.asarray(sizes, float)], 1)
  scaled = rows / np.asarray(times)[:, None]
  ones = np.ones(len(times))
  (alpha, beta), *_ = np.linalg.lstsq(scaled, ones, rcond=None)
  if alpha < 0:  # Short ones are faster a byte, as in a burst.
    alpha, is_long = 0.0, rows[:, 1] == np.max(rows[:, 1])
    beta = np.mean(np.asarray(times)[is_long] / rows[is_long, 1])
  if beta <= 0:  # Only noise: use the fastest sample.
    beta = np.min(np.asarray(times) / rows[:, 1])
  return float(alpha), float(beta)


def _size(sample: Sample) -> int:
  return sample.group_size if sample.axis == INTRA else sample.num_groups


def _lanes(sample: Sample) -> int:
  return sample.num_lanes or sample.group_size


def save(links: Links, path: str | pathlib.Path) -> None:
  """Writes links as JSON, atomically."""
  text = json.dumps(dataclasses.asdict(links), indent=2)
  path = paths.local(path)
  with paths.replaced(path) as new:
    new.write_text(text + '\n')


def load(path: str | pathlib.Path) -> Links:
  """Reads what `save` wrote.

  Raises:
    ValueError: There is no such file, or it holds something else.
  """
  try:
    content = paths.fetched(path, 'links').read_bytes()
  except OSError as error:
    raise ValueError(
      f'links={path}: cannot be read ({error.strerror}); launch/plan.py'
      ' --measure writes such a file.'
    ) from error
  try:
    fields = json.loads(content)
    timings = tuple(Timing(**t) for t in fields.pop('timings', ()))
    return Links(**fields, timings=timings)
  except (AttributeError, TypeError, ValueError) as error:
    names = ', '.join(f.name for f in dataclasses.fields(Links))
    raise ValueError(
      f'{path}: no speeds of links can be read ({error}); needed is a JSON '
      f'object with {names}. Measure them again with launch/plan.py --measure.'
    ) from error


def _check(what: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise ValueError(
      f'cost_model: {what}={value!r}; use one of {", ".join(known)}.'
    )
