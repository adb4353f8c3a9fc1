# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads collectives, their axes and their loops from compiled text.

XLA moves collectives into and out of loops, combines them, and on TPU turns
those between slices into host transfers. Only the compiled text shows what a
program really moves.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import math
import re

import numpy as np

from antjax.mesh.mesh import INTER, INTRA
from antjax.plan import hlo_schedule, hlo_text
from antjax.train.gradient import FIRST_MICRO_BATCH, LAST_MICRO_BATCH

ALL_GATHER = 'all-gather'
REDUCE_SCATTER = 'reduce-scatter'
ALL_REDUCE = 'all-reduce'
ALL_TO_ALL = 'all-to-all'
PERMUTE = 'collective-permute'
_KINDS = (
  *(ALL_GATHER, REDUCE_SCATTER, ALL_REDUCE, ALL_TO_ALL, PERMUTE),
  *('ragged-all-to-all', 'collective-broadcast'),
)
# Names by libtpu of the host transfers that replace collectives between slices.
_TRANSFER_KINDS = {
  'ALL_GATHER': ALL_GATHER,
  'REDUCE_SCATTER': REDUCE_SCATTER,
  'ALL_REDUCE': ALL_REDUCE,
  'ALL_TO_ALL': ALL_TO_ALL,
  'ONE_TO_ONE': PERMUTE,
}
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.\-]+) = (.*)$')
_OPCODE = re.compile(r' ([a-z][a-z0-9\-]*)\(')
_PEELED = re.compile(rf'op_name="[^"]*({FIRST_MICRO_BATCH}|{LAST_MICRO_BATCH})')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of the program.

  Attributes:
    kind: HLO opcode, e.g. 'all-gather', also for its asynchronous and host
      transfer forms.
    axis: 'intra', 'inter', 'both', or 'other' for part of an axis.
    loops: Trip counts of the loops around it, outermost first; None if unknown.
    num_bytes: Bytes of the larger side on one device (the gathered array, or
      the array before it is scattered), summed over arrays of a combined
      collective.
    num_elements: The same in elements.
    dtype: HLO type of the (first) array sent, e.g. 'f32'.
    intra_bytes: Bytes that a device sends inside its group each time, on
      average over devices; over both axes, as if in two phases.
    inter_bytes: The same to other groups; times the group size, the bytes on a
      group's uplink.
    is_dcn: Whether it is a transfer between TPU slices.
    name: Name of the instruction.
    chain: On TPU, a number shared by the parts of an asynchronous collective,
      which are fused with concurrent computation.
    shapes: Dims of the larger side of each array of a combined collective.
    source: Its operation in the program, e.g. 'jit(step)/while/body/psum'; for
      a collective that XLA inserted, the operation that needs it.
    is_hidden: Whether a matrix product runs at the same time.
    peeled: Name scope of a micro-batch outside of the loop; empty if in none.
  """

  kind: str
  axis: str
  loops: tuple[int | None, ...]
  num_bytes: int
  num_elements: int
  dtype: str
  intra_bytes: float
  inter_bytes: float
  is_dcn: bool = False
  name: str = ''
  chain: str = ''
  shapes: tuple[tuple[int, ...], ...] = ()
  source: str = ''
  is_hidden: bool = False
  peeled: str = ''

  @property
  def in_loop(self) -> bool:
    return bool(self.loops)

  def num_runs(self, unknown: int = 1) -> int:
    """Number of runs; loops of unknown trip count run `unknown` times."""
    return math.prod(unknown if n is None else n for n in self.loops)


def collectives(
  text: str, mesh_shape: Mapping[str, int], slow: Sequence[str] = (INTER,)
) -> list[Collective]:
  """Lists the collectives of a compiled program, in the order of its text.

  There is one entry for each place from which a collective is called.

  Args:
    text: `jitted.lower(...).compile().as_text()`.
    mesh_shape: `mesh.shape` of the mesh it was compiled for. For several TPU
      slices the text is the program of one slice; groups must be inside slices,
      as in `make_mesh`.
    slow: Axes of the mesh between groups, here called `inter`; all others
      together are `intra`.

  Raises:
    ValueError: The text has an unknown form.
  """
  return program(text, mesh_shape, slow).read()


def program(
  text: str, mesh_shape: Mapping[str, int], slow: Sequence[str] = (INTER,)
) -> 'Program':
  """The program of a text; for the arguments see `collectives`."""
  axes = list(mesh_shape)
  order = sorted(axes, key=lambda axis: axis not in slow)  # Stable.
  ids = np.arange(math.prod(mesh_shape.values())).reshape(
    [mesh_shape[axis] for axis in axes]
  )
  ids = ids.transpose([axes.index(axis) for axis in order])
  num_groups = math.prod(mesh_shape[axis] for axis in slow)
  return Program(text, ids.reshape(num_groups, -1))


class Program:
  """The computations of one module's text.

  Attributes:
    bodies: Computation -> lines of its instructions, in order.
    entry: Name of the first one; empty if the text has none.
  """

  def __init__(self, text: str, groups: np.ndarray):
    """Takes the text of a program and its devices [groups, group size]."""
    self.bodies: dict[str, list[str]] = {}
    self.entry = ''
    num_groups, group_size = groups.shape
    self._size = group_size
    name = None
    for line in text.splitlines():
      header = _COMPUTATION.match(line)
      if header and not line.startswith('HloModule'):
        name = header[2]
        self.bodies[name] = []
        if header[1]:
          self.entry = name
      elif line == '}' or line.startswith('}, '):  # '}}' ends attributes.
        name = None
      elif name is not None:
        self.bodies[name].append(line)
    partitions = re.search(r'num_partitions=(\d+)', text.split('\n', 1)[0])
    num = int(partitions[1]) if partitions else num_groups * group_size
    # For several TPU slices the text is the program of one slice.
    self._num_devices = num
    if num % group_size or num_groups * group_size % num:
      raise ValueError(
        f'census.collectives: a program of {num} partitions does not fit a mesh'
        f' of {num_groups} groups of {group_size}; pass the mesh.shape it was'
        ' compiled for.'
      )
    # Devices numbered group by group.
    self._place = np.argsort(groups.reshape(-1)).tolist()

  def read(self) -> list[Collective]:
    if not self.entry:
      return []
    hidden = hlo_schedule.hidden(self.bodies)
    return [
      dataclasses.replace(c, is_hidden=c.name in hidden)
      for c in self._walk(self.entry)
    ]

  @functools.cache  # noqa: B019 - lives as long as the program does.
  def _walk(self, computation: str) -> tuple[Collective, ...]:
    """Collectives of a computation and of all computations it calls."""
    found: list[Collective] = []
    chains = set[str]()
    lines = self.bodies.get(computation, [])
    for line in lines:
      instruction = _INSTRUCTION.match(line)
      opcode = _OPCODE.search(line) if instruction else None
      if not instruction or not opcode:
        continue
      name, op = instruction[1], opcode[1]
      result = line[instruction.start(2) : opcode.start()]
      rest = line[opcode.end() :]
      if op == 'while':
        found += self._loop(rest)
      elif op in ('send', 'recv'):
        found += self._transfer(name, op, result, rest, lines)
      elif (kind := op.removesuffix('-start')) in _KINDS:
        found.append(self._collective(name, kind, op, result, rest))
      elif not op.endswith(('-done', '-update')):
        for called in hlo_text.called(rest):
          parts = [c for c in self._walk(called) if c.chain not in chains]
          found += parts
          chains |= {c.chain for c in parts if c.chain}
    return tuple(found)

  def _loop(self, rest: str) -> Iterator[Collective]:
    body = re.search(r'body=%?([\w.\-]+)', rest)
    assert body, rest
    trips = self.trips(rest)
    peeled = _PEELED.search(rest)
    for inner in self._walk(body[1]):
      yield dataclasses.replace(
        inner,
        loops=(trips, *inner.loops),
        peeled=peeled[1] if peeled else inner.peeled,
      )

  def trips(self, rest: str) -> int | None:
    """Number of iterations of a `while`; None if it is not known."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
    if known:
      return int(known[1])
    condition = re.search(r'condition=%?([\w.\-]+)', rest)
    assert condition, rest
    return self._bound(condition[1])

  def _bound(self, condition: str) -> int | None:
    """N of a condition `i < N`; loops of `lax` count from 0 by 1."""
    constants = dict[str, int]()
    for line in self.bodies.get(condition, []):
      constant = re.match(
        r'\s+%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)', line
      )
      if constant:
        constants[constant[1]] = int(constant[2])
      root = re.match(
        r'\s+ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT', line
      )
      if root:
        return constants.get(root[1])
    return None

  def _collective(
    self, name: str, kind: str, op: str, result: str, rest: str
  ) -> Collective:
    parts = hlo_text.elements(result)
    # ((operands), (results), contexts); an all-reduce may have only results.
    if op.endswith('-start') and (
      kind != ALL_REDUCE or parts[0].lstrip().startswith('(')
    ):
      result = parts[1] if len(parts) > 1 else parts[0]
    arrays, shapes = hlo_text.arrays(result), hlo_text.shapes(result)
    size, num = hlo_text.num_bytes(arrays), sum(n for _, n in arrays)
    dtype = arrays[0][0]
    chain = re.search(r'chain_id="(\w+)"', rest)
    found = re.search(r'op_name="([^"]*)"', rest)
    source = found[1] if found else ''
    if kind == PERMUTE:
      pairs = [
        (self._place[a], self._place[b])
        for a, b in hlo_text.source_target_pairs(rest)
      ]
      axis = self._axis_of_pairs(pairs)
      crossing = sum(a // self._size != b // self._size for a, b in pairs)
      inside = sum(a != b for a, b in pairs) - crossing
      return Collective(
        *(kind, axis, (), size, num, dtype),
        intra_bytes=size * inside / self._num_devices,
        inter_bytes=size * crossing / self._num_devices,
        name=name,
        shapes=tuple(shapes),
        source=source,
      )
    groups = [
      [self._place[device] for device in group]
      for group in hlo_text.replica_groups(rest, self._num_devices)
    ]
    if kind == REDUCE_SCATTER:
      times = len(groups[0])
      size, num = size * times, num * times
      dim = re.search(r' dimensions=\{(\d+)\}', rest)
      at = int(dim[1]) if dim else 0
      shapes = [
        tuple(n * times if i == at else n for i, n in enumerate(dims))
        for dims in shapes
      ]
    intra, inter = self._sent(kind, size, groups)
    axis = self._axis(groups)
    return Collective(
      *(kind, axis, (), size, num, dtype, intra, inter),
      name=name,
      chain=chain[1] if chain else '',
      shapes=tuple(shapes),
      source=source,
    )

  def _transfer(
    self, name: str, op: str, result: str, rest: str, lines: Sequence[str]
  ) -> Iterator[Collective]:
    """A collective between slices, represented by its send."""
    pairs = re.search(r'_xla_send_recv_source_target_pairs="?(\{.*?\}\})', rest)
    if pairs and op == 'send':  # A permute that XLA:GPU has split.
      rest = f'source_target_pairs={pairs[1]}'
      whole = hlo_text.elements(result)[0]
      yield self._collective(name, PERMUTE, PERMUTE, whole, rest)
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', rest)
    if op == 'recv' or not kind:
      return
    if kind[1] not in _TRANSFER_KINDS:
      raise ValueError(
        f'census.collectives: transfer {kind[1]!r} of {name} is not known; add'
        ' it to _TRANSFER_KINDS.'
      )
    meeting = re.search(r'_xla_host_transfer_rendezvous="[^"]*"', rest)
    sent = hlo_text.arrays(hlo_text.elements(result)[0])
    larger = sent
    for line in lines:
      if meeting and meeting[0] in line and ' recv(' in line:
        received = hlo_text.arrays(
          hlo_text.elements(line.split(' = ', 1)[1])[0]
        )
        larger = max(sent, received, key=hlo_text.num_bytes)
    size, num = hlo_text.num_bytes(larger), sum(n for _, n in larger)
    target = rest.split('_xla_megascale_target=', 1)[1].split('_xla_', 1)[0]
    if kind[1] == 'ONE_TO_ONE':
      share = (
        target.count('->') / len(hlo_text.slices(target)) / self._num_devices
      )
    else:
      share = _share(_TRANSFER_KINDS[kind[1]], len(hlo_text.slices(target)))
    yield Collective(
      *(_TRANSFER_KINDS[kind[1]], INTER, (), size, num, larger[0][0]),
      intra_bytes=0.0,
      inter_bytes=size * share,
      is_dcn=True,
      name=name,
    )

  def _sent(
    self, kind: str, size: int, groups: list[list[int]]
  ) -> tuple[float, float]:
    """(intra, inter) bytes sent per device; over both axes, in two phases."""
    intra = inter = 0.0
    for group in groups:
      num_rows = len({device // self._size for device in group})
      lanes = len(group) / num_rows
      if kind == ALL_TO_ALL:
        intra += size * (lanes - 1) / len(group)
        inter += size * (num_rows - 1) / num_rows
      else:
        intra += size * _share(kind, lanes)
        inter += size * _share(kind, num_rows) / lanes
    return intra / len(groups), inter / len(groups)

  def _axis(self, groups: list[list[int]]) -> str:
    num_rows = self._num_devices // self._size
    for group in groups:
      rows = {device // self._size for device in group}
      lanes = {device % self._size for device in group}
      if len(group) != len(groups[0]):
        return 'other'
      if not (len(rows) == 1 or len(rows) == num_rows):
        return 'other'
      if not (len(lanes) == 1 or len(lanes) == self._size):
        return 'other'
      if len(rows) * len(lanes) != len(group):
        return 'other'
    if len(groups[0]) == self._num_devices and 1 < self._size < len(groups[0]):
      return 'both'
    return INTRA if len(rows) == 1 else INTER

  def _axis_of_pairs(self, pairs: list[tuple[int, int]]) -> str:
    if all(a // self._size == b // self._size for a, b in pairs):
      return INTRA
    same_lane = all(a % self._size == b % self._size for a, b in pairs)
    return INTER if same_lane else 'both'


def _share(kind: str, num: float) -> float:
  """Share of the larger side that each of `num` devices sends to others."""
  return (2 if kind == ALL_REDUCE else 1) * (num - 1) / num
