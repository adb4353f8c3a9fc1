# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Operations of products and memory traffic of instructions in compiled text.

A fusion reads its operands and writes its result, but of an array of which it
slices or updates a part only that. Operations are those of matrix products; a
convolution counts as the product with its sizes, a library's kernel as none.
"""

from collections.abc import Mapping, Sequence
import functools
import math
import re
from typing import NamedTuple

from antjax.plan import hlo_text

_INSTRUCTION = re.compile(
  r'\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^()]*)(.*)'
)
_CONTRACTED = re.compile(r'lhs_contracting_dims=\{([\d,]*)\}')
# Neither computed nor moved, or moved beside what is computed.
_FREE = frozenset(
  """parameter constant get-tuple-element tuple bitcast after-all partition-id
  replica-id opt-barrier copy-start copy-done slice-start slice-done""".split()
)
_PARTS = ('dynamic-slice', 'gather', 'slice')
_UPDATE = 'dynamic-update-slice'


class Instruction(NamedTuple):
  """One line of a computation."""

  is_root: bool
  name: str
  type: str  # Type of its result.
  op: str  # HLO opcode.
  operands: tuple[str, ...]
  rest: str  # Text after the operands.

  @property
  def num_bytes(self) -> int:
    """Bytes of its result."""
    if '[' not in self.type:  # A token.
      return 0
    return hlo_text.num_bytes(hlo_text.arrays(self.type))


class Costs:
  """Costs of the instructions of a program, by its computations' lines."""

  def __init__(self, bodies: Mapping[str, Sequence[str]]):
    self._bodies = bodies

  @functools.cache  # noqa: B019 - lives as long as the program does.
  def instructions(self, computation: str) -> dict[str, Instruction]:
    """Name -> instruction, in order."""
    found = {}
    for line in self._bodies.get(computation, ()):
      if parts := _INSTRUCTION.match(line):
        root, name, type_, op, operands, rest = parts.groups()
        names = tuple(re.findall(r'%([\w.\-]+)', operands))
        found[name] = Instruction(bool(root), name, type_, op, names, rest)
    return found

  def flops(self, x: Instruction, computation: str) -> float:
    """Floating-point operations of the products of an instruction."""
    if x.op not in ('dot', 'convolution'):
      return sum(map(self._flops_in, hlo_text.called(x.rest)))
    here = self.instructions(computation)
    if not all(name in here for name in x.operands):
      return 0.0
    left, right = (hlo_text.shapes(here[n].type)[0] for n in x.operands)
    out = math.prod(hlo_text.shapes(x.type)[0])
    length = math.sqrt(math.prod(left) * math.prod(right) / out)
    if dims := _CONTRACTED.search(x.rest):
      length = math.prod(left[int(d)] for d in dims[1].split(',') if d)
    return 2.0 * out * length

  @functools.cache  # noqa: B019
  def _flops_in(self, computation: str) -> float:
    listed = self.instructions(computation).values()
    return sum(self.flops(x, computation) for x in listed)

  def num_bytes(self, x: Instruction, computation: str) -> int:
    """Bytes that an instruction reads and writes."""
    if x.op in _FREE:
      return 0
    if x.op.startswith('fusion'):
      return sum(map(self._fused_bytes, hlo_text.called(x.rest)))
    here = self.instructions(computation)
    if x.op in _PARTS:
      return 2 * x.num_bytes
    if x.op == _UPDATE:
      return 2 * here[x.operands[1]].num_bytes
    return x.num_bytes + sum(
      here[name].num_bytes for name in x.operands if name in here
    )

  @functools.cache  # noqa: B019
  def _fused_bytes(self, computation: str) -> int:
    inside = self.instructions(computation)
    made: dict[str, str] = {}  # Bitcast -> what it is made of.
    read: dict[str, int] = {}  # Bytes read of each value.
    for x in inside.values():
      names = [made.get(name, name) for name in x.operands]
      if x.op == 'bitcast' and names:
        made[x.name] = names[0]
        continue
      for place, name in enumerate(names):
        size = inside[name].num_bytes if name in inside else 0
        if not place and x.op in (*_PARTS, _UPDATE):
          size = x.num_bytes if x.op in _PARTS else 0
        read[name] = read.get(name, 0) + size
    total = 0
    for x in inside.values():
      if x.op == 'parameter':
        total += min(x.num_bytes, read.get(x.name, 0))
      elif x.is_root:
        for name in x.operands if x.op == 'tuple' else (x.name,):
          result = inside.get(made.get(name, name), x)
          if result.op == _UPDATE:
            result = inside.get(result.operands[1], result)
          total += result.num_bytes
    return total
